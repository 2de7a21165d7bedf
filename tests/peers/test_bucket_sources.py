"""Objects of a bucket as contexts of a server process, in both protocol eras: on stdio, and over HTTP with workers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp_types import CallToolResult, TextContent, TextResourceContents

pytest.importorskip("obstore", reason="the extra `s3` is not installed")

from rlm_mcp.server.transports.token_file import digest_of, new_token
from tests.peers.cluster import object_store, object_store_variables
from tests.peers.openai_server import OpenAIServer, Request
from tests.peers.places import at, environment, listening, opened, over_http

pytestmark = pytest.mark.anyio

LINES = [f"line {number} {'ERROR' if number % 4 == 0 else 'INFO'}\n" for number in range(400)]
ACCESS_KEY = "AKIAANYACCESSKEY1"


def reply(request: Request) -> str:
    if all(message["role"] != "assistant" for message in request.messages):
        return "```repl\nn = sum(str(text).count('ERROR') for text in context.values())\nprint(n)\n```"
    return "```repl\nFINAL(n)\n```"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[OpenAIServer]:
    with OpenAIServer(reply).run_in_thread() as server:
        yield server


@pytest.fixture
def variables(tmp_path: Path) -> Iterator[dict[str, str]]:
    root = tmp_path / "buckets" / "texts"
    (root / "logs" / "deep").mkdir(parents=True)
    (root / "private").mkdir()
    (root / "logs" / "a.log").write_text("".join(LINES))
    (root / "logs" / "deep" / "b.log").write_text("".join(LINES))
    (root / "private" / "c.log").write_text("hidden\n")
    with object_store(tmp_path / "buckets") as served:
        yield object_store_variables(served) | {"AWS_ACCESS_KEY_ID": ACCESS_KEY}


async def call(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    return result.structured_content or {}


async def refused(client: Client, tool: str, /, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    (content,) = result.content
    assert isinstance(content, TextContent)
    assert result.is_error, content.text
    return content.text


@pytest.mark.parametrize("era", ["auto", "legacy"])
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_objects_are_inspected_and_asked_about_like_any_context(
    tmp_path: Path, sandbox_cache: Path, endpoint: OpenAIServer, variables: dict[str, str], transport: str, era: str
) -> None:
    allowed = {"RLM_MCP_S3_SOURCES": "s3://texts/logs"}
    environ = environment(tmp_path, sandbox_cache, endpoint.base_url, **variables, **allowed)
    with anyio.fail_after(120):
        async with opened(transport, environ) as new_client, new_client(era) as client:
            logs = await call(client, "register_context", source="s3://texts/logs/")
            assert (logs["files"], logs["bytes"]) == (2, 2 * len("".join(LINES)))
            assert (
                "are referenced in s3://texts/logs: an object is fetched when its text is first read"
                in logs["notes"][0]
            )
            overview = await call(client, "inspect_context", context="logs")
            assert overview["head"].startswith("==> a.log <==\nline 0 ERROR\n")
            read = await call(client, "inspect_context", context="logs", path="b.log", start_line=400)
            assert read["text"] == LINES[-1]
            found = await call(client, "inspect_context", context="logs", search="ERROR", max_matches=1)
            assert (found["total"], found["truncated"]) == (200, True)
            code = "sum(str(text).count('ERROR') for text in context.values())"
            assert (await call(client, "inspect_context", context="logs", code=code))["value"] == "200"
            (listed,) = (await call(client, "list_contexts"))["contexts"]
            assert listed["lines"] == 800
            (content,) = (await client.read_resource(logs["uri"])).contents
            assert isinstance(content, TextResourceContents)
            assert "deep/b.log" in content.text
            run = await call(client, "rlm_solve", query="How many errors?", contexts=["logs"], mode="rlm")
            assert (run["status"], str(run["answer"])) == ("completed", "200")
            assert not list((tmp_path / "data").rglob("blobs/*/*"))

            message = await refused(client, "register_context", source="s3://texts/private")
            assert message == (
                "s3://texts/private is not below what may be read from buckets (s3://texts/logs): the operator may add"
                " it to RLM_MCP_S3_SOURCES"
            )
            keys = await call(client, "inspect_context", context="logs", code="import os; str(dict(os.environ))")
            assert ACCESS_KEY not in str(keys)


@pytest.mark.parametrize("era", ["auto", "legacy"])
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_no_client_reads_a_bucket_that_the_operator_has_not_named(
    tmp_path: Path, sandbox_cache: Path, endpoint: OpenAIServer, variables: dict[str, str], transport: str, era: str
) -> None:
    environ = environment(tmp_path, sandbox_cache, endpoint.base_url, **variables)
    with anyio.fail_after(120):
        async with opened(transport, environ) as new_client, new_client(era) as client:
            message = await refused(client, "register_context", source="s3://texts/logs")
    assert message == (
        "s3://texts/logs is not below what may be read from buckets (none are allowed): the operator may add it to"
        " RLM_MCP_S3_SOURCES"
    )


async def test_tenants_share_fetched_objects_and_no_contexts(
    tmp_path: Path, sandbox_cache: Path, endpoint: OpenAIServer, variables: dict[str, str]
) -> None:
    allowed = {"RLM_MCP_S3_SOURCES": "s3://texts/logs"}
    environ = environment(tmp_path, sandbox_cache, endpoint.base_url, **variables, **allowed)
    tokens = {name: new_token() for name in ("one", "two")}
    (tmp_path / "tokens").write_text("".join(f"{name} {digest_of(token)}\n" for name, token in tokens.items()))
    with anyio.fail_after(120), over_http(environ, "--token-file", str(tmp_path / "tokens")) as url:
        await listening(url)
        async with at(url, "auto", tokens["one"]) as one, at(url, "auto", tokens["two"]) as two:
            for client in (one, two):
                await call(client, "register_context", source="s3://texts/logs")
                assert (await call(client, "inspect_context", context="logs", search="ERROR"))["total"] == 200
            await call(one, "remove_context", context="logs")
            assert (await call(two, "inspect_context", context="logs", search="ERROR"))["total"] == 200
            assert (await call(one, "list_contexts"))["contexts"] == []
            await refused(one, "register_context", source="s3://texts/private")
    places = places_of_texts(sandbox_cache)
    assert places <= {"texts", "workers"}  # none is a tenant's own
    assert "texts" in places


def places_of_texts(cache: Path) -> set[str]:
    """The directories of a cache below which fetched texts are."""
    return {path.relative_to(cache).parts[0] for path in cache.rglob("s3/*/*.txt")}

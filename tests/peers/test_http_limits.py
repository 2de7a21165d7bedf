"""Attacks on a server over HTTP by its clients: with tokens, bodies, floods and the ids of other tenants."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, MCPError
from mcp_types import CallToolResult

from rlm_mcp.server.transports.token_file import digest_of
from rlm_mcp.workspace.tenant_limits import MOST_RUNS
from tests.peers.openai_server import OpenAIServer
from tests.peers.places import at, environment, http_process, listening

pytestmark = pytest.mark.anyio

ANN, BOB = "token-of-ann", "token-of-bob"


@pytest.fixture
def endpoint() -> Iterator[OpenAIServer]:
    with OpenAIServer(lambda _: "```repl\nprint(1)\n```", latency=60).run_in_thread() as server:
        yield server


@pytest.fixture
def environ(tmp_path: Path, compiled_cache: Path, endpoint: OpenAIServer) -> dict[str, str]:
    return environment(tmp_path, compiled_cache, endpoint.base_url, RLM_MCP_QUOTA_BYTES="100000")


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    path = tmp_path / "tokens"
    path.write_text(f"ann {digest_of(ANN)}\nbob {digest_of(BOB)}\n")
    return str(path)


async def called(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    return result.structured_content or {}


async def refused(client: Client, tool: str, /, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert result.is_error
    return str(result.content[0])


async def test_nobody_sees_or_touches_what_belongs_to_another(environ: dict[str, str], tokens: str) -> None:
    with http_process(environ, "--token-file", tokens) as (_, url):
        await listening(url)
        async with at(url, "auto", ANN) as ann, at(url, "auto", BOB) as bob:
            context = await called(ann, "register_context", text="the figure is 4711", name="mine")
            run = await called(ann, "rlm_solve", query="q", contexts=["mine"], mode="rlm", wait_seconds=0)
            for uri in (context["uri"], f"rlm://runs/{run['run_id']}", run["trace_uri"]):
                with pytest.raises(MCPError):
                    await bob.read_resource(uri)
            assert "4711" not in await refused(bob, "inspect_context", context=context["context_id"])
            for tool in ("rlm_result", "cancel_run"):
                assert run["run_id"] in await refused(bob, tool, run_id=run["run_id"])
            await refused(bob, "remove_context", context="mine")
            assert (await called(bob, "register_context", text="another", name="mine"))["name"] == "mine"
            assert (await called(ann, "rlm_result", run_id=run["run_id"], wait_seconds=0))["status"] == "running"


async def test_one_owner_can_neither_store_nor_run_without_end(environ: dict[str, str], tokens: str) -> None:
    with http_process(environ, "--token-file", tokens) as (_, url):
        await listening(url)
        async with at(url, "auto", ANN) as ann, at(url, "auto", BOB) as bob:
            assert "quota" in await refused(ann, "register_context", text="x" * 200_000)
            await called(ann, "register_context", text="small", name="small")
            question = {"contexts": ["small"], "mode": "rlm", "wait_seconds": 0}
            for number in range(MOST_RUNS):
                await called(ann, "rlm_solve", query=f"Number {number}?", **question)
            assert f"{MOST_RUNS} runs are going on" in await refused(ann, "rlm_solve", query="One more?", **question)
            await called(bob, "register_context", text="small", name="small")
            await called(bob, "rlm_solve", query="Mine?", **question)


async def test_bodies_are_bounded_and_logs_are_lines_of_json(environ: dict[str, str], tokens: str) -> None:
    with http_process(environ, "--token-file", tokens) as (process, url):
        await listening(url)
        async with httpx2.AsyncClient(timeout=60) as http:
            headers = {"Authorization": f"Bearer {ANN}", "Accept": "application/json, text/event-stream"}
            too_long = await http.post(f"{url}/mcp", headers=headers, content=b'{"x": "' + b"y" * (5 << 20) + b'"}')
            assert too_long.status_code == 413
            broken = await http.post(
                f"{url}/mcp", headers=headers | {"Content-Type": "application/json"}, content=b'{"jsonrpc": '
            )
            assert broken.status_code == 400
            with anyio.fail_after(120):
                while (ready := await http.get(f"{url}/ready")).status_code == 503:
                    assert ready.json() == {"sandbox": "loading"}
                    await anyio.sleep(0.1)
            assert ready.json() == {"sandbox": "loaded"}
        process.terminate()
        _, log = process.communicate(timeout=60)
    assert all("message" in json.loads(line) for line in log.splitlines())

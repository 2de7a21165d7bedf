"""Runs over an endpoint that echoes the key and lies about usage: what reaches guest, record, cache and result."""

from pathlib import Path

import anyio
import pytest

import rlm_mcp
from rlm_mcp.redact import Secret
from rlm_mcp.settings import Settings
from rlm_mcp.spending import Price
from tests.peers.openai_server import Fault, OpenAIServer, Request

pytestmark = pytest.mark.anyio

KEY = "canary-key-0123456789"


def everything_below(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def echo(request: Request) -> str:
    """Replies with the headers of the request: first as code that asks a sub-model, then as the answer."""
    said = request.headers["authorization"]
    if "sub-question" in request.last:
        return f"the sub-model saw {said}"
    if all(message["role"] != "assistant" for message in request.messages):
        return f"```repl\nreply = llm_query('sub-question')\nprint(reply, '{said}')\n```"
    return f"```repl\nFINAL(reply + ' and {said}')\n```"


async def test_an_endpoint_that_echoes_the_key_puts_it_nowhere(tmp_path: Path, sandbox_cache: Path) -> None:
    async with OpenAIServer(echo) as server:
        settings = Settings(
            data_dir=tmp_path / "data",
            cache_dir=sandbox_cache,
            model="scripted",
            base_url=server.base_url,
            api_key=Secret(KEY),
        )
        with anyio.fail_after(60):
            state = await rlm_mcp.solve("What?", {"b": "some text"}, mode="rlm", settings=settings)
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert state.answer == "the sub-model saw Bearer [key] and Bearer [key]"
    written = everything_below(tmp_path) + (sandbox_cache / "replies.sqlite").read_bytes()
    assert b"the sub-model saw Bearer [key]" in written
    assert KEY.encode() not in written


async def test_a_run_over_an_endpoint_that_reports_no_usage_ends_at_its_limit(
    tmp_path: Path, sandbox_cache: Path
) -> None:
    body = (
        '{"choices": [{"message": {"content": "```repl\\nprint(1)\\n```"}}],'
        ' "usage": {"prompt_tokens": 0, "completion_tokens": 0, "cost": 0}}'
    )
    async with OpenAIServer(lambda _: Fault(body=body)) as server:
        settings = Settings(
            data_dir=tmp_path / "data",
            cache_dir=sandbox_cache,
            model="scripted",
            base_url=server.base_url,
            prices={"scripted": Price(usd_per_mtok_in=10.0, usd_per_mtok_out=10.0)},
        )
        with anyio.fail_after(60):
            state = await rlm_mcp.solve("What?", {"b": "some text"}, mode="rlm", settings=settings, max_usd=0.2)
    assert state.stopped_by == "usd"
    assert 0.1 < (state.usage.cost_usd or 0) <= 0.2
    assert b'"doubt":"the provider reported 0 prompt tokens and 0 completion tokens' in everything_below(tmp_path)

"""One tenant cannot take all connections, streams or sessions of a server."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from mcp import MCPError

from rlm_mcp.server.notifications import MOST_URIS, URI_MAX_CHARS, check_uris
from rlm_mcp.server.transports.sessions import MOST_SESSIONS
from rlm_mcp.workspace.tenant_limits import MOST_STREAMS
from tests.tenants.conftest import ANN, BOB, ServeTwo

pytestmark = pytest.mark.anyio

MODERN, HANDSHAKE = "2026-07-28", "2025-11-25"


@asynccontextmanager
async def speaking(url: str, token: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client below the SDK, which waits when it is told that it sends too many requests."""
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
    }
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits) as http:
        yield http


async def listen(http: httpx2.AsyncClient, streams: AsyncExitStack, **wanted: Any) -> str:
    """Opens one stream, and returns its first line with data."""
    meta = {"protocolVersion": MODERN, "clientInfo": {"name": "x", "version": "1"}, "clientCapabilities": {}}
    params = {
        "_meta": {f"io.modelcontextprotocol/{name}": value for name, value in meta.items()},
        "notifications": {"resourcesListChanged": True, **wanted},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "subscriptions/listen"}
    answer = await streams.enter_async_context(http.stream("POST", "/mcp", json=body, headers=headers))
    lines = answer.aiter_lines()
    streams.callback(repr, lines)  # without a reference they would be closed now, and the stream with them
    async for line in lines:
        if "jsonrpc" in line:
            return line
    return ""


async def test_streams_of_one_tenant_are_bounded_and_those_of_another_open(serve_two: ServeTwo) -> None:
    with serve_two() as url, anyio.fail_after(60):
        async with speaking(url, ANN) as ann, speaking(url, BOB) as bob, AsyncExitStack() as streams:
            opened = [await listen(ann, streams) for _ in range(MOST_STREAMS)]
            assert all("acknowledged" in line for line in opened)
            assert f"{MOST_STREAMS} streams of notifications are open" in await listen(ann, streams)
            assert "acknowledged" in await listen(bob, streams)
            too_many = [f"rlm://runs/{number}" for number in range(MOST_URIS + 1)]
            assert "subscribe to at most" in await listen(bob, streams, resourceSubscriptions=too_many)


async def initialize(http: httpx2.AsyncClient) -> httpx2.Response:
    """Opens a handshake-era session, once the rate of requests permits it."""
    client = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}
    while True:
        answer = await http.post("/mcp", json=body)
        if answer.status_code != 429 or "a second" not in answer.text:
            return answer
        await anyio.sleep(0.1)


async def ping(http: httpx2.AsyncClient, session_id: str) -> int:
    headers = {"Mcp-Session-Id": session_id, "MCP-Protocol-Version": HANDSHAKE}
    return (await http.post("/mcp", json=PING, headers=headers)).status_code


PING = {"jsonrpc": "2.0", "id": 2, "method": "ping"}


async def test_a_session_too_many_ends_the_oldest_of_the_same_tenant_and_none_of_another(serve_two: ServeTwo) -> None:
    with serve_two() as url, anyio.fail_after(60):
        async with speaking(url, ANN) as ann, speaking(url, BOB) as bob:
            kept = (await initialize(bob)).headers["mcp-session-id"]
            own = [(await initialize(ann)).headers["mcp-session-id"] for _ in range(MOST_SESSIONS)]
            assert await ping(ann, own[0]) == 200  # so that the second is the one that was not used for longest
            one_more = (await initialize(ann)).headers["mcp-session-id"]
            assert [await ping(ann, each) for each in (own[0], own[1], own[2], one_more)] == [200, 404, 200, 200]
            assert await ping(bob, kept) == 200


async def test_sessions_at_work_are_not_ended_and_one_more_is_refused(serve_two: ServeTwo) -> None:
    with serve_two() as url, anyio.fail_after(60):
        async with speaking(url, ANN) as ann, speaking(url, BOB) as bob, AsyncExitStack() as streams:
            for _ in range(MOST_SESSIONS):
                headers = {
                    "Mcp-Session-Id": (await initialize(ann)).headers["mcp-session-id"],
                    "MCP-Protocol-Version": HANDSHAKE,
                }
                answer = await streams.enter_async_context(ann.stream("GET", "/mcp", headers=headers))
                assert answer.status_code == 200
            refused = await initialize(ann)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert json.loads(refused.text)["error"]["message"].startswith(f"{MOST_SESSIONS} sessions are at work")
            assert (await initialize(bob)).status_code == 200


@pytest.mark.parametrize("uris", [["x"] * (MOST_URIS + 1), ["x" * (URI_MAX_CHARS + 1)], [["x" * URI_MAX_CHARS]]])
def test_subscriptions_that_fill_the_memory_are_refused(uris: list[Any]) -> None:
    with pytest.raises(MCPError, match="subscribe to at most"):
        check_uris(uris)

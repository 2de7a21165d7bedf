"""Which requests the rate limit passes on."""

import json
from typing import Any

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from rlm_mcp.server.transports.rate_limit import RateLimitMiddleware
from rlm_mcp.workspace.tenant_limits import BURST, MOST_BODIES, LocalLimits
from tests.rlm_mcp.server.transports.test_tenants import Clock

pytestmark = pytest.mark.anyio


class Asking:
    """A request whose body comes once `rest` is set, and the answer to it."""

    def __init__(self, path: str = "/mcp") -> None:
        self.scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        self.rest = anyio.Event()
        self.said: list[Message] = []

    async def receive(self) -> Message:
        await self.rest.wait()
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(self, message: Message) -> None:
        self.said.append(message)

    @property
    def status(self) -> int:
        return int(self.said[0]["status"])


async def accept(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 202, "headers": []})


async def test_bodies_on_their_way_are_bounded_and_leave_their_places() -> None:
    limits = LocalLimits({"sent": MOST_BODIES}, clock=Clock())
    limiter = RateLimitMiddleware(accept, limits=limits, tokens=False)
    slow = [Asking() for _ in range(MOST_BODIES)]
    async with anyio.create_task_group() as sending:
        for one in slow:
            sending.start_soon(limiter, one.scope, one.receive, one.send)
        await anyio.wait_all_tasks_blocked()
        assert repr(limits) == f"<LocalLimits, 1 rates, {2 * MOST_BODIES} held>"
        more = Asking()
        await limiter(more.scope, more.receive, more.send)
        assert more.status == 429
        for one in slow:
            one.rest.set()
    assert {one.status for one in slow} == {202}
    assert repr(limits) == "<LocalLimits, 1 rates, 0 held>"


async def test_requests_and_streams_of_one_tenant_take_no_more_than_its_share() -> None:
    go = anyio.Event()

    async def stay_open(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await go.wait()

    limiter = RateLimitMiddleware(stay_open, limits=LocalLimits({"open": 8}, clock=Clock()), tokens=False)
    asked = [Asking() for _ in range(9)]
    async with anyio.create_task_group() as sending:
        for one in asked:
            one.rest.set()
            sending.start_soon(limiter, one.scope, one.receive, one.send)
        await anyio.wait_all_tasks_blocked()
        assert [one.status for one in asked] == [200] * 8 + [429]
        assert b"8 requests and streams are open" in asked[-1].said[1]["body"]
        go.set()
    again = Asking()
    again.rest.set()
    await limiter(again.scope, again.receive, again.send)
    assert again.status == 200


async def test_a_request_too_many_is_answered_with_when_to_come_back() -> None:
    limiter = RateLimitMiddleware(accept, limits=LocalLimits(clock=Clock()), tokens=False)
    answers: list[Any] = []
    for path in ["/mcp"] * (int(BURST) + 1) + ["/health"]:
        one = Asking(path)
        one.rest.set()
        await limiter(one.scope, one.receive, one.send)
        answers.append(one)
    assert [one.status for one in answers] == [202] * int(BURST) + [429, 202]
    start, body = answers[-2].said
    assert (b"retry-after", b"1") in start["headers"]
    assert json.loads(body["body"]) == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -32603, "message": "more than 20 requests a second: wait a second"},
    }


async def test_who_has_no_token_where_one_is_wanted_is_left_to_who_asks_for_it() -> None:
    limits = LocalLimits(clock=Clock())
    limiter = RateLimitMiddleware(accept, limits=limits, tokens=True)
    for _ in range(int(BURST) + 1):
        one = Asking()
        one.rest.set()
        await limiter(one.scope, one.receive, one.send)
        assert one.status == 202
    assert repr(limits) == "<LocalLimits, 0 rates, 0 held>"

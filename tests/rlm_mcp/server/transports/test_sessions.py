"""Which sessions end for a new one, below a stand-in for the SDK that knows its open sessions."""

from itertools import count
from typing import Any

import anyio
import pytest
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rlm_mcp.server.transports.sessions import SESSION_SECONDS, SessionLimitMiddleware

pytestmark = pytest.mark.anyio


class Sessions:
    """Opens a session for a POST without id, and ends one of the same user for a DELETE."""

    def __init__(self) -> None:
        self.open: dict[str, str | None] = {}
        self.answering = anyio.Event()
        self._ids = count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        session_id, user = request.headers.get("mcp-session-id"), scope["user"] and scope["user"].username
        if session_id is None:
            session_id = str(next(self._ids))
            self.open[session_id] = user
        elif self.open.get(session_id, self) != user:
            await Response(status_code=404)(scope, receive, send)
            return
        elif request.method == "DELETE":
            del self.open[session_id]
        if request.url.path == "/waiting":
            await self.answering.wait()
        await Response(headers={"mcp-session-id": session_id})(scope, receive, send)


class Site:
    """A server for a few sessions."""

    def __init__(self, *, most: int = 2, most_of_all: int = 3) -> None:
        self.sessions = Sessions()
        self.seconds = 0.0
        limited = SessionLimitMiddleware(self.sessions, most=most, most_of_all=most_of_all, clock=lambda: self.seconds)
        self._app = AuthContextMiddleware(limited)

    async def request(self, tenant: str | None, session_id: str | None = None, path: str = "/mcp") -> tuple[int, str]:
        """Status and session id of the answer to a POST; a tenant of None has no token."""
        token = None if tenant is None else AccessToken(token=tenant, client_id=tenant, scopes=[], subject=tenant)
        headers = [] if session_id is None else [(b"mcp-session-id", session_id.encode())]
        user = None if token is None else AuthenticatedUser(token)
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "headers": headers, "user": user}
        told: list[Any] = []

        async def send(message: Any) -> None:
            told.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        await self._app(scope, receive, send)
        return told[0]["status"], dict(told[0]["headers"]).get(b"mcp-session-id", b"").decode()

    async def opened(self, *tenants: str | None) -> list[str]:
        """The ids of new sessions, of which each must open."""
        answers = [await self.request(tenant) for tenant in tenants]
        assert [status for status, _ in answers] == [200] * len(tenants)
        return [session_id for _, session_id in answers]


async def test_a_tenant_loses_its_own_session_where_it_has_too_many() -> None:
    site = Site()
    first, of_bob, second = await site.opened("ann", "bob", "ann")
    assert (await site.request("ann", first))[0] == 200
    (third,) = await site.opened("ann")
    assert list(site.sessions.open) == [first, of_bob, third]
    assert (await site.request("ann", second))[0] == 404


async def test_where_all_have_too_many_the_tenant_with_the_most_loses_one() -> None:
    site = Site()
    _, of_bob, newer = await site.opened("ann", "bob", "ann")
    (of_eve,) = await site.opened("eve")
    assert list(site.sessions.open) == [of_bob, newer, of_eve]


async def test_sessions_that_were_closed_after_their_idle_time_do_not_count() -> None:
    site = Site()
    await site.opened("bob", "eve")
    site.seconds = SESSION_SECONDS
    of_ann = await site.opened("ann")
    site.seconds += 1.0
    site.sessions.open = {of_ann[0]: "ann"}  # as the SDK does by itself
    (newer,) = await site.opened("ann")
    assert list(site.sessions.open) == [*of_ann, newer]


async def test_without_tokens_only_the_sum_is_bounded_and_a_session_that_was_left_makes_room() -> None:
    site = Site()
    first, second, third = await site.opened(None, None, None)
    assert (await site.request(None, first))[0] == 200
    (fourth,) = await site.opened(None)
    assert list(site.sessions.open) == [first, third, fourth]
    assert (await site.request(None, second))[0] == 404


async def test_a_session_at_work_is_not_ended_and_one_more_is_refused() -> None:
    site = Site(most_of_all=2)
    opened = await site.opened("ann", "bob")
    async with anyio.create_task_group() as tasks:
        for tenant, session_id in zip(("ann", "bob"), opened, strict=True):
            tasks.start_soon(site.request, tenant, session_id, "/waiting")
        await anyio.wait_all_tasks_blocked()
        assert await site.request("eve") == (429, "")
        site.sessions.answering.set()
    await site.opened("eve")
    assert len(site.sessions.open) == 2

"""Limits on the handshake-era sessions of each tenant, and of all tenants.

The SDK refuses a session that is one too many for the process until another has been idle for SESSION_SECONDS, so that
clients that leave without ending theirs keep others out. Here a tenant that opens one session too many loses the one
that it has not used for longest; where all tenants have too many, the tenant with the most does. A client of such a
session is told 404 and begins a new one, as after any idle time. Sessions with an open request or stream are not ended,
so where there are no others, the new one is refused.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlm_mcp.server.transports.rate_limit import refuse
from rlm_mcp.server.transports.tenant_names import EVERYBODY, current_tenant
from rlm_mcp.workspace.tenant_limits import LimitReached

MOST_SESSIONS = 64
"""Sessions of one tenant, where there are tenants; each costs about 100 kB."""

MOST_OF_ALL = 1_000
"""Sessions of all tenants."""

SESSION_SECONDS = 300.0
"""The SDK closes a session without an open request or stream after this time, and its client begins a new one."""

_SESSION_ID = MCP_SESSION_ID_HEADER.encode()


@dataclass(slots=True, kw_only=True)
class _TenantSession:
    """An open session: the user that opened it, how many requests it is answering, and when the last began or ended."""

    user: Any
    used_at: float
    open_requests: int = 0


class SessionLimitMiddleware:
    """ASGI middleware that bounds the sessions of each tenant and of all; runs inside the rate limit."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        most: int = MOST_SESSIONS,
        most_of_all: int = MOST_OF_ALL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._clock = clock
        self._most = most
        self._most_of_all = most_of_all
        self._opened: dict[str, OrderedDict[bytes, _TenantSession]] = {}
        """by tenant and session id, the least recently used first"""

    def __repr__(self) -> str:
        return f"<SessionLimitMiddleware, {self._count} sessions>"

    @property
    def _count(self) -> int:
        return sum(map(len, self._opened.values()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with 429."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = self._opened.setdefault(current_tenant(), OrderedDict())
        session_id = dict(scope["headers"]).get(_SESSION_ID)
        if session_id is None and scope["method"] == "POST":
            try:
                await self._make_room(own, scope)
            except LimitReached as error:
                await refuse(send, error)
                return

        async def note_sessions(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = dict(message.get("headers", ())).get(_SESSION_ID)
                if message["status"] == 404 or (scope["method"] == "DELETE" and message["status"] < 400):
                    own.pop(session_id or b"", None)
                elif given is not None and message["status"] < 400 and session_id is None:
                    own[given] = _TenantSession(user=scope.get("user"), used_at=self._clock())
            await send(message)

        if session_id is None or (session := own.get(session_id)) is None:
            await self._app(scope, receive, note_sessions)
            return
        own.move_to_end(session_id)
        session.open_requests += 1
        try:
            await self._app(scope, receive, note_sessions)
        finally:
            session.open_requests -= 1
            session.used_at = self._clock()

    async def _make_room(self, own: "OrderedDict[bytes, _TenantSession]", scope: Scope) -> None:
        """Ends sessions where there are too many. Raises LimitReached if they are at work."""
        while current_tenant() != EVERYBODY and len(own) >= self._most:
            if not await self._end_idle(own, scope):
                raise LimitReached(f"{self._most} sessions are at work: end one of them")
        if self._count >= self._most_of_all:
            self._forget_closed()
        while self._count >= self._most_of_all:
            for sessions in sorted(self._opened.values(), key=len, reverse=True):
                if await self._end_idle(sessions, scope):
                    break
            else:
                raise LimitReached(f"{self._most_of_all} sessions of the server are at work: try again later")

    def _forget_closed(self) -> None:
        """Counts those no more that the SDK has closed by itself."""
        closed = self._clock() - SESSION_SECONDS
        for sessions in self._opened.values():
            for session_id in [
                each for each, one in sessions.items() if not one.open_requests and one.used_at < closed
            ]:
                del sessions[session_id]

    async def _end_idle(self, sessions: "OrderedDict[bytes, _TenantSession]", scope: Scope) -> bool:
        """Ends the least recently used session that is idle; False if none is."""
        idle = next((each for each, session in sessions.items() if session.open_requests == 0), None)
        if idle is not None:
            await self._end(idle, sessions.pop(idle), scope)
        return idle is not None

    async def _end(self, session_id: bytes, session: _TenantSession, scope: Scope) -> None:
        """Ends a session as its client would, by DELETE."""
        kept = [(name, value) for name, value in scope["headers"] if name in {b"host", b"origin", b"accept"}]
        asked = {
            **scope,
            "method": "DELETE",
            "headers": [*kept, (_SESSION_ID, session_id)],
            "user": session.user,
        }

        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def ignore(_: Message) -> None:
            return

        await self._app(asked, nothing, ignore)

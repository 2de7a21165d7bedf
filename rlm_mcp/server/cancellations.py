"""Why a client cancelled a call: its user wants it to stop, or the client itself has waited too long. Or it is gone.

The reason in `notifications/cancelled` tells (cancel_reasons.py). Over HTTP, 2026-07-28 has no such notification.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context as Request
from mcp.server.session import ServerSession
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER

from rlm_mcp.server.cancel_reasons import is_time_out

REASON_SECONDS = 5.0
"""The SDK cancels a call first and passes the notification on right after, on a busy machine not at once."""

MOST_ANSWERED = 64
"""So many answers that were sent last may still turn out not to have been waited for."""

Cause = Literal["time-out", "user", "lost connection"]
"""Without a notification, the server only knows that the connection is gone."""


@dataclass(slots=True)
class _ToolCall:
    """A tool call that goes on."""

    request_id: str
    reason: object = None
    is_told: anyio.Event = field(default_factory=anyio.Event)


class Cancellations:
    """The reasons of the cancelled tool calls of a server that still clean up."""

    def __init__(self) -> None:
        self._calls: dict[anyio.Event, _ToolCall] = {}
        self._answered: dict[tuple[str, str], Callable[[], Awaitable[None]]] = {}
        """by session and request: what is done if the client had given up when the answer came"""

    def __repr__(self) -> str:
        return f"<Cancellations, {len(self._calls)} calls go on>"

    async def middleware(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Knows every tool call while it goes on, and gives it the reason of its cancellation."""
        if ctx.method == "notifications/cancelled":
            self._note(ctx.params or {})
            await self._note_late(ctx, ctx.params or {})
        if ctx.method != "tools/call":
            return await call_next(ctx)
        cancelled = _cancelled(ctx.session)
        self._calls[cancelled] = _ToolCall(str(ctx.request_id))
        try:
            return await call_next(ctx)
        finally:
            self._calls.pop(cancelled, None)

    def _note(self, params: Mapping[str, Any]) -> None:
        for cancelled, call in self._calls.items():
            if cancelled.is_set() and not call.is_told.is_set() and call.request_id == str(params.get("requestId")):
                call.reason = params.get("reason")
                call.is_told.set()

    async def _note_late(self, ctx: ServerRequestContext[Any, Any], params: Mapping[str, Any]) -> None:
        late = self._answered.pop((_session_of(ctx.request), str(params.get("requestId"))), None)
        if late is not None and is_time_out(params.get("reason")):
            await late()

    def note_answered(self, request: Request[Any, Any], late: Callable[[], Awaitable[None]]) -> None:
        """Has `late` called if the client says later that its time-out came before the answer to this call."""
        self._answered[_session_of(request.request_context.request), request.request_id] = late
        if len(self._answered) > MOST_ANSWERED:
            del self._answered[next(iter(self._answered))]

    async def cause_of(self, request: Request[Any, Any]) -> Cause:
        """Why this call is being cancelled."""
        cancelled = _cancelled(request.session)
        call = self._calls.get(cancelled)
        if call is None or not cancelled.is_set():
            return "lost connection"
        with anyio.move_on_after(REASON_SECONDS, shield=True):
            await call.is_told.wait()
        return "time-out" if is_time_out(call.reason) else "user"


def _session_of(http: object) -> str:
    """The session of a request over HTTP, whose ids are its own; "" on stdio."""
    return str(getattr(http, "headers", {}).get(MCP_SESSION_ID_HEADER, ""))


async def is_connection_lost(request: Request[Any, Any]) -> bool:
    """Whether nobody can get the answer to this call: in a session over HTTP, it goes on when its connection breaks."""
    is_disconnected = getattr(request.request_context.request, "is_disconnected", None)
    return is_disconnected is not None and await is_disconnected()


def _cancelled(session: ServerSession) -> anyio.Event:
    """Set when the client has cancelled the request of this session; every request has its own."""
    return session._request_outbound.cancel_requested  # noqa: SLF001 - the SDK offers no other way to it

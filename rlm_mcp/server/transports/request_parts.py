"""A bound on the values in one request, which the length of its body says little about.

A body of 4 MiB may hold a million lists: reading it, and each garbage collection while it is there, would stop the
event loop and so every other tenant.
"""

import json
from collections import deque

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE
from mcp_types import INVALID_REQUEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlm_mcp.concurrency import run_off_loop

MOST_PARTS = 20_000
"""Commas and opening brackets outside of strings. Requests of clients have some dozens."""

TOO_MANY = f"a request may hold {MOST_PARTS:,} values, and this one holds more: pass long data as a text or by its path"


class RequestPartsMiddleware:
    """ASGI middleware that refuses requests of more than MOST_PARTS values with 413.

    With `tokens`, unauthenticated requests pass through, unread, to be rejected behind it.
    """

    def __init__(self, app: ASGIApp, *, tokens: bool) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it."""
        is_read = scope["type"] == "http" and scope["method"] == "POST"
        if not is_read or (self._tokens and get_access_token() is None):
            await self._app(scope, receive, send)
            return
        if (sent := await read_body(receive)) is None:
            return
        body = b"".join(message.get("body", b"") for message in sent)
        if await run_off_loop(len(body), _holds_too_many_parts, body):
            await _refuse(send)
            return

        async def receive_again() -> Message:
            return sent.popleft() if sent else await receive()

        await self._app(scope, receive_again, send)


async def read_body(receive: Receive) -> deque[Message] | None:
    """The messages of a request's body, cut once they exceed the limit. None when the client disconnects meanwhile."""
    sent: deque[Message] = deque()
    room = DEFAULT_MAX_REQUEST_BODY_SIZE
    while room >= 0:
        message = await receive()
        if message["type"] != "http.request":
            return None
        sent.append(message)
        room -= len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    return sent


def _holds_too_many_parts(body: bytes) -> bool:
    if len(body) <= MOST_PARTS:
        return False
    from rlm_mcp.repl.sandbox import holds_more_values

    return holds_more_values(body, MOST_PARTS)


async def _refuse(send: Send) -> None:
    answer = {"jsonrpc": "2.0", "id": None, "error": {"code": INVALID_REQUEST, "message": TOO_MANY}}
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

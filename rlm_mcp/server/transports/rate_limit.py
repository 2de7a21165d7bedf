"""What of HTTP gets in: of each owner so many requests a second, and so many that are still being sent.

Before anything is parsed, so that a flood costs little, and before anything is begun: the SDK takes a client that dies
while it sends for a fault of its own, and logs it. The refusal is also one of JSON-RPC, for clients that show their
model what went wrong.
"""

import json
import math
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE
from mcp_types import INTERNAL_ERROR
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlm_mcp.server.transports.tenants import RateLimitExceeded, Tenants, current_tenant

MOST_BODIES = 64
"""Of one owner, on their way at once: each may become 4 MiB."""

FREE = ("/health", "/ready")
"""Whoever watches the server is let in at any time."""


class RateLimitMiddleware:
    """ASGI middleware inside of the one that knows tokens. With `tokens`, who has none is somebody else's business."""

    def __init__(self, app: ASGIApp, tenants: Tenants, *, tokens: bool) -> None:
        self._app = app
        self._tenants = tenants
        self._tokens = tokens
        self._sending: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<RateLimitMiddleware, {self._sending.total()} requests on their way>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request in, or answers it with 429."""
        if scope["type"] != "http" or scope["path"] in FREE or (self._tokens and get_access_token() is None):
            await self._app(scope, receive, send)
            return
        tenant = current_tenant()
        try:
            self._tenants.charge(tenant)
            with self._place(tenant):
                sent = await _sent(receive)
        except RateLimitExceeded as error:
            await _refuse(send, error)
            return
        if sent is None:
            return

        async def receive_again() -> Message:
            return sent.popleft() if sent else await receive()

        await self._app(scope, receive_again, send)

    @contextmanager
    def _place(self, tenant: str) -> Iterator[None]:
        """One of the bodies of an owner that may be on their way."""
        if self._sending[tenant] >= MOST_BODIES:
            raise RateLimitExceeded(f"{MOST_BODIES} requests are still being sent: finish one of them", seconds=1)
        self._sending[tenant] += 1
        try:
            yield
        finally:
            self._sending[tenant] -= 1
            self._sending += Counter()  # which forgets who has none


async def _sent(receive: Receive) -> deque[Message] | None:
    """A request's body as it came, or as much of it as is too much. None when the client went away in the middle."""
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


async def _refuse(send: Send, error: RateLimitExceeded) -> None:
    seconds = max(1, math.ceil(error.seconds))
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": INTERNAL_ERROR, "message": str(error)}})
    headers = [(b"content-type", b"application/json"), (b"retry-after", str(seconds).encode())]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})

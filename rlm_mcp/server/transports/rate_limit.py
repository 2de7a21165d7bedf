"""Rate limit over HTTP: requests a second of each tenant, and requests that are still being sent.

It acts before a request is parsed, so that a flood costs little, and reads the body first: the SDK would log a client
that dies while sending as an error of its own. A refusal is also a JSON-RPC error, for clients that show their model
what went wrong.
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
"""Of one tenant, being sent at once: each may become 4 MiB."""

UNLIMITED = ("/health", "/ready")
"""A monitor is never refused."""


class RateLimitMiddleware:
    """Rate-limiting ASGI middleware; runs inside the auth middleware.

    With `tokens`, unauthenticated requests pass through to be rejected there.
    """

    def __init__(self, app: ASGIApp, tenants: Tenants, *, tokens: bool, most_open: int | None = None) -> None:
        """`most_open` is the number of requests of one tenant at once, streams included: its share of connections."""
        self._app = app
        self._most_open = most_open
        self._open: Counter[str] = Counter()
        self._tenants = tenants
        self._tokens = tokens
        self._sending: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<RateLimitMiddleware, {self._sending.total()} requests being sent>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with 429."""
        if scope["type"] != "http" or scope["path"] in UNLIMITED or (self._tokens and get_access_token() is None):
            await self._app(scope, receive, send)
            return
        tenant = current_tenant()
        try:
            self._tenants.charge(tenant)
            self._check_share(tenant)
        except RateLimitExceeded as error:
            await refuse(send, error)
            return
        with _counted(self._open, tenant):
            await self._read_and_pass_on(tenant, scope, receive, send)

    async def _read_and_pass_on(self, tenant: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self._sending[tenant] >= MOST_BODIES:
            text = f"{MOST_BODIES} requests are still being sent: finish one of them"
            await refuse(send, RateLimitExceeded(text, seconds=1))
            return
        with _counted(self._sending, tenant):
            sent = await _read_body(receive)
        if sent is None:
            return

        async def receive_again() -> Message:
            return sent.popleft() if sent else await receive()

        await self._app(scope, receive_again, send)

    def _check_share(self, tenant: str) -> None:
        """Raises RateLimitExceeded when the tenant has as many requests and streams open as it may."""
        if self._most_open is not None and self._open[tenant] >= self._most_open:
            raise RateLimitExceeded(f"{self._most_open} requests and streams are open: end one of them", seconds=1)


@contextmanager
def _counted(counter: Counter[str], tenant: str) -> Iterator[None]:
    """Counts one more of a tenant during a block; tenants with none are dropped."""
    counter[tenant] += 1
    try:
        yield
    finally:
        counter[tenant] -= 1
        if not counter[tenant]:
            del counter[tenant]


async def _read_body(receive: Receive) -> deque[Message] | None:
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


async def refuse(send: Send, error: RateLimitExceeded) -> None:
    """Answers with 429."""
    seconds = max(1, math.ceil(error.seconds))
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": INTERNAL_ERROR, "message": str(error)}})
    headers = [(b"content-type", b"application/json"), (b"retry-after", str(seconds).encode())]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})

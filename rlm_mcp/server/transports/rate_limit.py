"""Rate limit over HTTP: requests a second of each tenant, and requests that are still being sent.

It acts before a request is parsed, so that a flood costs little, and reads the body first: the SDK would log a client
that dies while sending as an error of its own. A refusal is also a JSON-RPC error, for clients that show their model
what went wrong.
"""

import json
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE
from mcp_types import INTERNAL_ERROR
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlm_mcp.errors import RlmError
from rlm_mcp.server.transports.http_protocol import most_connections
from rlm_mcp.server.transports.tenant_names import current_tenant

REQUESTS_PER_SECOND, BURST = 20.0, 200.0
"""Of one tenant. A client that lists, reads and polls stays far below; a runaway loop does not."""

MOST_BODIES = 64
"""Of one tenant, being sent at once: each may become 4 MiB."""

SHARES, FEWEST_OPEN = 4, 8
"""One tenant may have a quarter of all connections at work, but at least 8."""

UNLIMITED = ("/health", "/ready")
"""A monitor is never refused."""


class RateLimitExceeded(RlmError):
    """A tenant exceeds a limit; a request may succeed after `seconds`."""

    def __init__(self, text: str, *, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


@dataclass(slots=True, kw_only=True)
class _Bucket:
    """The requests that a tenant may send now; it fills with time."""

    allowance: float = BURST
    seen: float


class RequestRates:
    """A token bucket for each tenant. Those that are full again are forgotten."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __repr__(self) -> str:
        return f"<RequestRates of {len(self._buckets)} tenants>"

    def charge(self, tenant: str) -> None:
        """Takes one request. Raises RateLimitExceeded when the bucket is empty; a refused request takes nothing."""
        now = self._clock()
        bucket = self._buckets.setdefault(tenant, _Bucket(seen=now))
        self._buckets.move_to_end(tenant)
        bucket.allowance = min(BURST, bucket.allowance + (now - bucket.seen) * REQUESTS_PER_SECOND)
        bucket.seen = now
        while now - next(iter(self._buckets.values())).seen > BURST / REQUESTS_PER_SECOND:
            self._buckets.popitem(last=False)
        if bucket.allowance < 1:
            raise RateLimitExceeded(f"more than {REQUESTS_PER_SECOND:.0f} requests a second: wait a second", seconds=1)
        bucket.allowance -= 1


class RateLimitMiddleware:
    """Rate-limiting ASGI middleware; runs inside the auth middleware.

    With `tokens`, unauthenticated requests pass through to be rejected there.
    """

    def __init__(
        self, app: ASGIApp, *, tokens: bool, most_open: int | None = None, rates: RequestRates | None = None
    ) -> None:
        """`most_open` is the number of requests of one tenant at once, streams included: its share of connections."""
        self._app = app
        self._most_open = most_open
        self._open: Counter[str] = Counter()
        self._rates = rates or RequestRates()
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
            self._rates.charge(tenant)
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


def open_share(*, is_alone: bool) -> int | None:
    """The requests that one tenant may have open at once; no limit where there is only one tenant."""
    return None if is_alone else max(FEWEST_OPEN, most_connections() // SHARES)


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

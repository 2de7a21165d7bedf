"""Rate limit over HTTP: requests a second of each tenant, and requests that are still being sent.

It acts before a request is parsed, so that a flood costs little, and reads the body first: the SDK would log a client
that dies while sending as an error of its own. A refusal is also a JSON-RPC error, for clients that show their model
what went wrong.
"""

import json
import math
from contextlib import ExitStack

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp_types import INTERNAL_ERROR
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlm_mcp.server.transports.http_protocol import most_connections
from rlm_mcp.server.transports.request_parts import read_body
from rlm_mcp.server.transports.tenant_names import current_tenant
from rlm_mcp.workspace.tenant_limits import (
    MOST_BODIES,
    MOST_REQUESTS,
    MOST_RUNS,
    MOST_STREAMS,
    Holding,
    LimitReached,
    LocalLimits,
    TenantLimits,
)

SHARES, FEWEST_OPEN = 4, 8
"""One tenant may have a quarter of all connections at work, but at least 8."""

UNLIMITED = ("/health", "/ready")
"""A monitor is never refused."""


class RateLimitMiddleware:
    """Rate-limiting ASGI middleware; runs inside the auth middleware.

    With `tokens`, unauthenticated requests pass through to be rejected there.
    """

    def __init__(self, app: ASGIApp, *, limits: TenantLimits, tokens: bool) -> None:
        self._app = app
        self._limits = limits
        self._tokens = tokens

    def __repr__(self) -> str:
        return f"<RateLimitMiddleware {self._limits!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with 429."""
        if scope["type"] != "http" or scope["path"] in UNLIMITED or (self._tokens and get_access_token() is None):
            await self._app(scope, receive, send)
            return
        tenant = current_tenant()
        with ExitStack() as held:
            try:
                self._limits.charge(tenant)
                held.enter_context(self._limits.hold(tenant, "open"))
                with self._limits.hold(tenant, "sent"):
                    sent = await read_body(receive)
            except LimitReached as error:
                await refuse(send, error)
                return
            if sent is None:
                return

            async def receive_again() -> Message:
                return sent.popleft() if sent else await receive()

            await self._app(scope, receive_again, send)


def http_limits(*, is_alone: bool) -> LocalLimits:
    """The limits of a server over HTTP. Where there is only one tenant, it may take all connections."""
    open_share: dict[Holding, int] = {} if is_alone else {"open": max(FEWEST_OPEN, most_connections() // SHARES)}
    at_work: dict[Holding, int] = {"sent": MOST_BODIES, "answered": MOST_REQUESTS, "stream": MOST_STREAMS}
    return LocalLimits(at_work | open_share, most_runs=MOST_RUNS)


async def refuse(send: Send, error: LimitReached) -> None:
    """Answers with 429."""
    seconds = max(1, math.ceil(error.seconds))
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": INTERNAL_ERROR, "message": str(error)}})
    headers = [(b"content-type", b"application/json"), (b"retry-after", str(seconds).encode())]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})

"""Change notices in both protocol eras, and what of them the SDK leaves to a server.

Clients of 2026-07-28 open a `subscriptions/listen` stream, which the SDK serves from a bus: publishing there is all.
Clients of the handshake era get bare notifications: the list changed, to every connection; one resource changed, to the
connections that subscribed to it. The SDK has no `resources/subscribe`, announces changes of nothing there and of
everything to the others, and serves lists in one page; the middleware here puts all three right.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.session import ServerSession
from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated, ServerEvent
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from rlm_mcp.workspace.change_feed import ResourceChange

PAGE_SIZE = 200
"""Resources in one page of `resources/list`, about 60 kB."""

SEND_SECONDS = 1.0
"""A connection that takes longer to take a notice has stopped reading, and is forgotten."""


class TenantBus:
    """A SubscriptionBus of the SDK whose events have owners. Who listens is whoever sends the request that listens."""

    def __init__(self, whose: Callable[[], str]) -> None:
        self._whose = whose
        self._listeners: dict[object, tuple[str, Callable[[ServerEvent], None]]] = {}

    def __repr__(self) -> str:
        return f"<TenantBus of {len(self._listeners)} listeners>"

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Calls `listener` with what is published to its owner, until the returned function is called."""
        key = object()
        self._listeners[key] = self._whose(), listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)

        return unsubscribe

    async def publish(self, event: ServerEvent) -> None:
        """Hands an event to the owner of the current request."""
        await self.publish_to(self._whose(), event)

    async def publish_to(self, tenant: str, event: ServerEvent) -> None:
        """Hands an event to the listeners of one owner, and lets their streams send it before the next."""
        for whose, listener in list(self._listeners.values()):
            if whose == tenant:
                listener(event)
        await anyio.lowlevel.checkpoint()


def _nobody_else() -> str:
    return ""


class Notifications:
    """Tells clients what changed. One for a server; where it has owners, `whose` names that of the current request."""

    def __init__(self, whose: Callable[[], str] = _nobody_else) -> None:
        self.bus = TenantBus(whose)
        self._whose = whose
        self._connections: dict[Connection, _Connected] = {}

    def __repr__(self) -> str:
        return f"<Notifications to {len(self._connections)} handshake connections>"

    async def announce(self, change: ResourceChange, *, tenant: str = "") -> None:
        """Sends one change to everyone of its owner who asked for it. A client that is gone costs nothing."""
        event = ResourcesListChanged() if change.uri is None else ResourceUpdated(uri=change.uri)
        await self.bus.publish_to(tenant, event)
        for connection, connected in list(self._connections.items()):
            if connected.tenant != tenant:
                continue
            with anyio.move_on_after(SEND_SECONDS) as sending:
                if change.uri is None:
                    await connection.send_resource_list_changed()
                elif change.uri in connected.subscribed:
                    await connection.send_resource_updated(change.uri)
            if sending.cancelled_caught:
                self._forget(connection)

    async def middleware(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Serves subscriptions of the handshake era, says so when it is asked what it can do, and pages resources."""
        match ctx.method:
            case "initialize" | "server/discover":
                return _with_change_notices(await call_next(ctx))
            case "notifications/initialized":
                self._remember(ctx.session)
                return await call_next(ctx)
            case "resources/subscribe" | "resources/unsubscribe" if (
                ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS
            ):
                self._subscribe(ctx.session, ctx.params or {}, wanted=ctx.method == "resources/subscribe")
                return {}
            case "resources/list":
                return _page(await call_next(ctx), (ctx.params or {}).get("cursor"))
            case _:
                return await call_next(ctx)

    def _remember(self, session: ServerSession) -> set[str]:
        """The URIs that this connection subscribed to. A session is made per request; its connection is what lasts."""
        connection = session._connection  # noqa: SLF001 - where the SDK wants cleanup; it hands it out in no other way
        if connection not in self._connections:
            self._connections[connection] = _Connected(tenant=self._whose())
            connection.exit_stack.callback(self._forget, connection)
        return self._connections[connection].subscribed

    def _forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)

    def _subscribe(self, session: ServerSession, params: Mapping[str, Any], *, wanted: bool) -> None:
        uri = params.get("uri")
        if not isinstance(uri, str):
            raise MCPError(INVALID_PARAMS, "resources/subscribe needs a uri")
        subscribed = self._remember(session)
        (subscribed.add if wanted else subscribed.discard)(uri)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Connected:
    """A handshake-era connection: whose it is, and what it subscribed to."""

    tenant: str
    subscribed: set[str] = field(default_factory=set)


def _with_change_notices(result: HandlerResult) -> HandlerResult:
    """What really changes: resources do; tools and prompts stay as they are while a process runs."""
    if isinstance(result, dict):
        result["capabilities"] |= {
            "resources": {"subscribe": True, "listChanged": True},
            "tools": {"listChanged": False},
            "prompts": {"listChanged": False},
        }
    return result


def _page(result: HandlerResult, cursor: Any) -> HandlerResult:
    """One page of a listing; the cursor is where the next one starts."""
    if not isinstance(result, dict):
        return result
    start = 0 if cursor is None else _start(cursor)
    resources = result["resources"]
    page = dict(result) | {"resources": resources[start : start + PAGE_SIZE]}
    if start + PAGE_SIZE < len(resources):
        page["nextCursor"] = base64.urlsafe_b64encode(str(start + PAGE_SIZE).encode()).decode()
    return page


def _start(cursor: Any) -> int:
    try:
        return max(0, int(base64.urlsafe_b64decode(str(cursor))))
    except ValueError as error:
        raise MCPError(INVALID_PARAMS, f"unknown cursor {str(cursor)[:40]!r}: list from the beginning") from error

"""Notifications of changed resources in both protocol eras.

Clients of 2026-07-28 open a `subscriptions/listen` stream, which the SDK serves from a bus. Clients of the handshake
era get plain notifications: that the list changed, on every connection; that one resource changed, on the connections
that subscribed to it. The middleware adds what the SDK lacks: `resources/subscribe`, correct capabilities, and pages of
`resources/list`.
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

MOST_URIS, URI_MAX_CHARS = 1_000, 1_000
"""URIs to which one connection or stream may subscribe, and their length."""

SEND_SECONDS = 1.0
"""A connection that takes longer to accept a notification has stopped reading, and is forgotten."""


class TenantBus:
    """A SubscriptionBus of the SDK whose events belong to tenants, as listeners do to the tenant that subscribed."""

    def __init__(self, current_tenant: Callable[[], str]) -> None:
        self._current_tenant = current_tenant
        self._listeners: dict[object, tuple[str, Callable[[ServerEvent], None]]] = {}

    def __repr__(self) -> str:
        return f"<TenantBus of {len(self._listeners)} listeners>"

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Calls `listener` with the events of its tenant, until the returned function is called."""
        key = object()
        self._listeners[key] = self._current_tenant(), listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)

        return unsubscribe

    async def publish(self, event: ServerEvent) -> None:
        """Passes an event to the tenant of the current request."""
        await self.publish_to(self._current_tenant(), event)

    async def publish_to(self, tenant: str, event: ServerEvent) -> None:
        """Passes an event to the listeners of one tenant, and lets their streams send it before the next."""
        for whose, listener in list(self._listeners.values()):
            if whose == tenant:
                listener(event)
        await anyio.lowlevel.checkpoint()


def check_uris(uris: object) -> None:
    """Refuses a subscription to more than a client can need. Raises MCPError; other shapes are judged by the SDK."""
    if isinstance(uris, list) and (len(uris) > MOST_URIS or any(len(str(uri)) > URI_MAX_CHARS for uri in uris)):
        raise MCPError(INVALID_PARAMS, f"subscribe to at most {MOST_URIS} URIs of {URI_MAX_CHARS} characters")


def _only_tenant() -> str:
    return ""


class Notifications:
    """Tells the clients of a server what changed. `current_tenant` names the tenant of the current request."""

    def __init__(self, current_tenant: Callable[[], str] = _only_tenant) -> None:
        self.bus = TenantBus(current_tenant)
        self._current_tenant = current_tenant
        self._connections: dict[Connection, _Connected] = {}

    def __repr__(self) -> str:
        return f"<Notifications to {len(self._connections)} handshake connections>"

    async def announce(self, change: ResourceChange, *, tenant: str = "") -> None:
        """Sends one change to the clients of its tenant that subscribed to it. A client that is gone costs nothing."""
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
        """Serves subscriptions of the handshake era, states the capabilities for them, and pages `resources/list`."""
        match ctx.method:
            case "initialize" | "server/discover":
                return _with_change_capabilities(await call_next(ctx))
            case "notifications/initialized":
                self._remember(ctx.session)
                return await call_next(ctx)
            case "resources/subscribe" | "resources/unsubscribe" if (
                ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS
            ):
                self._subscribe(ctx.session, ctx.params or {}, wanted=ctx.method == "resources/subscribe")
                return {}
            case "subscriptions/listen":
                wanted: Any = (ctx.params or {}).get("notifications")
                check_uris(wanted.get("resourceSubscriptions") if isinstance(wanted, dict) else None)
                return await call_next(ctx)
            case "resources/list":
                return _page(await call_next(ctx), (ctx.params or {}).get("cursor"))
            case _:
                return await call_next(ctx)

    def _remember(self, session: ServerSession) -> set[str]:
        """The URIs that this connection subscribed to. A session is made for each request; its connection persists."""
        connection = session._connection  # noqa: SLF001 - the SDK offers no other way to it
        if connection not in self._connections:
            self._connections[connection] = _Connected(tenant=self._current_tenant())
            connection.exit_stack.callback(self._forget, connection)
        return self._connections[connection].subscribed

    def _forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)

    def _subscribe(self, session: ServerSession, params: Mapping[str, Any], *, wanted: bool) -> None:
        uri = params.get("uri")
        if not isinstance(uri, str):
            raise MCPError(INVALID_PARAMS, "resources/subscribe needs a uri")
        subscribed = self._remember(session)
        if wanted:
            check_uris([*subscribed, uri])
        (subscribed.add if wanted else subscribed.discard)(uri)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Connected:
    """A handshake-era connection: its tenant, and its subscriptions."""

    tenant: str
    subscribed: set[str] = field(default_factory=set)


def _with_change_capabilities(result: HandlerResult) -> HandlerResult:
    """The capabilities of a server whose resources change and whose tools and prompts do not."""
    if isinstance(result, dict):
        result["capabilities"] |= {
            "resources": {"subscribe": True, "listChanged": True},
            "tools": {"listChanged": False},
            "prompts": {"listChanged": False},
        }
    return result


def _page(result: HandlerResult, cursor: Any) -> HandlerResult:
    """One page of a list. The cursor encodes where the next page starts."""
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

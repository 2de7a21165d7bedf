"""Change notices in both protocol eras, and what of them the SDK leaves to a server.

Clients of 2026-07-28 open a `subscriptions/listen` stream, which the SDK serves from a bus: publishing there is all.
Clients of the handshake era get bare notifications: the list changed, to every connection; one resource changed, to the
connections that subscribed to it. The SDK has no `resources/subscribe` and announces `listChanged: false` there, and it
serves lists in one page; the middleware here adds all three.
"""

import base64
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourcesListChanged, ResourceUpdated
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from rlm_mcp.changes import Change

PAGE_SIZE = 200
"""Resources in one page of `resources/list`, about 60 kB."""

CONNECTIONS = 256
"""Handshake-era connections that are told of changes. The oldest are forgotten: the SDK does not say when one ends."""


SEND_SECONDS = 1.0
"""A connection that takes longer to take a notice has stopped reading, and is forgotten."""


class Notices:
    """Tells clients what changed. One for a server."""

    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()
        self._sessions: OrderedDict[int, tuple[ServerSession, set[str]]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Notices to {len(self._sessions)} handshake connections>"

    async def announce(self, change: Change) -> None:
        """Sends one change to everyone who asked for it. A client that is gone costs nothing."""
        await self.bus.publish(ResourcesListChanged() if change.uri is None else ResourceUpdated(uri=change.uri))
        for key, (session, subscribed) in list(self._sessions.items()):
            with anyio.move_on_after(SEND_SECONDS) as sending:
                if change.uri is None:
                    await session.send_resource_list_changed()
                elif change.uri in subscribed:
                    await session.send_resource_updated(change.uri)
            if sending.cancelled_caught:
                self._sessions.pop(key, None)

    async def middleware(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Serves subscriptions of the handshake era, says so when it is asked what it can do, and pages resources."""
        match ctx.method:
            case "initialize":
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
        key = id(session.client_params)
        _, subscribed = self._sessions.setdefault(key, (session, set()))
        self._sessions.move_to_end(key)
        while len(self._sessions) > CONNECTIONS:
            self._sessions.popitem(last=False)
        return subscribed

    def _subscribe(self, session: ServerSession, params: Mapping[str, Any], *, wanted: bool) -> None:
        uri = params.get("uri")
        if not isinstance(uri, str):
            raise MCPError(INVALID_PARAMS, "resources/subscribe needs a uri")
        subscribed = self._remember(session)
        (subscribed.add if wanted else subscribed.discard)(uri)


def _with_change_notices(result: HandlerResult) -> HandlerResult:
    if isinstance(result, dict):
        result["capabilities"]["resources"] = {"subscribe": True, "listChanged": True}
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

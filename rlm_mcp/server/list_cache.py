"""A cache of the lists that never change while a process runs, by protocol version.

The SDK builds, dumps and validates a list anew for every request. The list of tools has 8 kB; that work is about half
of the cost of a request for it.
"""

from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

METHODS = frozenset({"tools/list", "prompts/list", "resources/templates/list"})


class ListCache:
    """Middleware of a server whose tools, prompts and templates are complete when it begins to serve."""

    def __init__(self) -> None:
        self._cached: dict[tuple[str, str | None], dict[str, Any]] = {}

    def __repr__(self) -> str:
        return f"<ListCache, {len(self._cached)} lists>"

    async def middleware(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Answers a plain request for such a list with the cached one of its protocol version."""
        # A request before the handshake, or for a page, is left to the SDK.
        is_plain = ctx.session.client_params is not None and not (ctx.params or {}).keys() - {"_meta"}
        if ctx.method not in METHODS or not is_plain:
            return await call_next(ctx)
        key = ctx.method, ctx.protocol_version
        if key not in self._cached:
            result = await call_next(ctx)
            if not isinstance(result, dict):
                return result
            self._cached[key] = result
        return dict(self._cached[key])

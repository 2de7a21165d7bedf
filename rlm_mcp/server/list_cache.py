"""Lists that never change while a process runs, made and checked once for a protocol version and then only sent.

Tools alone are 8 kB, which the SDK builds, dumps and validates anew for every request: about half of what a request
for them costs it.
"""

from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

METHODS = frozenset({"tools/list", "prompts/list", "resources/templates/list"})


class ListCache:
    """Middleware of a server whose tools, prompts and templates are all there when it begins to serve."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str | None], dict[str, Any]] = {}

    def __repr__(self) -> str:
        return f"<ListCache, {len(self._made)} lists made>"

    async def middleware(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Answers a plain request for such a list with the one that was made for its version before."""
        # Whoever has not said yet who he is, or asks for a page, is the SDK's to judge.
        is_plain = ctx.session.client_params is not None and not (ctx.params or {}).keys() - {"_meta"}
        if ctx.method not in METHODS or not is_plain:
            return await call_next(ctx)
        key = ctx.method, ctx.protocol_version
        if key not in self._made:
            result = await call_next(ctx)
            if not isinstance(result, dict):
                return result
            self._made[key] = result
        return dict(self._made[key])

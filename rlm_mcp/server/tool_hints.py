"""Hints to hosts beyond a tool's description: words by which their tool search finds it, sizes, and the server's icon.

Claude Code defers tools and searches their names, descriptions and hints. The icon is told once, when a connection
opens: as part of the server's description the SDK would repeat it in every result.
"""

import base64
from collections.abc import Mapping
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from rlm_mcp.server.result_text import RESULT_CHARS

SERVER_INFO = "io.modelcontextprotocol/serverInfo"

ICONS_SINCE = "2025-11-25"
"""The first protocol version with icons. Versions are dates and compare as text."""

SEARCH_HINTS: Mapping[str, str] = {
    "register_context": "file too long to read",
    "inspect_context": "grep, count, run Python over a long text",
    "rlm_solve": "answer, summarize over a huge log, repository",
}

LONG_RESULTS = frozenset({"inspect_context", "rlm_solve", "rlm_result"})
"""Tools whose results may have RESULT_CHARS characters."""

_SVG = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24'><path fill='none' stroke='#4f7cff' stroke-width='2' "
    "d='M6 3H2v18h4M18 3h4v18h-4M7 8h10M7 12h10M7 16h6'/></svg>"
)
ICON: Mapping[str, Any] = {
    "src": f"data:image/svg+xml;base64,{base64.b64encode(_SVG.encode()).decode()}",
    "mimeType": "image/svg+xml",
    "sizes": ["any"],
}


def hints_of(tool: str) -> dict[str, Any]:
    """The metadata of a tool."""
    hints: dict[str, Any] = {}
    if tool in SEARCH_HINTS:
        hints["anthropic/searchHint"] = SEARCH_HINTS[tool]
    if tool in LONG_RESULTS:
        hints["anthropic/maxResultSizeChars"] = RESULT_CHARS
    return hints


async def tell_icon(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Middleware that adds the icon to the description of the server with which a connection opens."""
    result = await call_next(ctx)
    if ctx.method not in {"initialize", "server/discover"} or not isinstance(result, dict):
        return result
    if result.get("protocolVersion", ICONS_SINCE) < ICONS_SINCE:
        return result
    for info in (result.get("serverInfo"), (result.get("_meta") or {}).get(SERVER_INFO)):
        if isinstance(info, dict):
            info["icons"] = [dict(ICON)]
    return result

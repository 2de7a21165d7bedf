"""The MCP Apps extension (`io.modelcontextprotocol/ui`): hosts that have it show a run, or a context, inside the chat.

Tools name their page by `_meta.ui.resourceUri`; their results are the same with and without it. The page of a run asks
for its data by `rlm_result` with one argument more, `page`, which is for pages alone and therefore in no schema: a
model never pays for it. Without a run id, the run is looked up by the question of the call that the page belongs to,
because a host tells a page the result of `rlm_solve` only when the run has ended.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mcp.server.apps import APP_MIME_TYPE, Apps
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver.resources import FunctionResource
from mcp_types import CallToolRequestParams, CallToolResult, TextContent

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.errors import RlmError
from rlm_mcp.records.protocols import RunRecord, RunStore
from rlm_mcp.workspace.progress import Progress
from rlm_mcp.workspace.workspace import Workspace

if TYPE_CHECKING:
    from rlm_mcp.viewer.following import FollowedRun

RUN_URI = "ui://rlm-mcp/run"
CONTEXT_URI = "ui://rlm-mcp/ctx"
PAGES: Mapping[str, str] = {
    "rlm_solve": RUN_URI,
    "rlm_result": RUN_URI,
    "register_context": CONTEXT_URI,
    "inspect_context": CONTEXT_URI,
}
"""tool -> the page that shows its results"""

META: Mapping[str, Any] = {"ui": {"prefersBorder": True, "csp": {}}}
"""Of both pages: they load nothing."""

MOST_FOLLOWED = 8
"""Runs whose pages are kept between two requests; for any other the record is read from its beginning."""

LOOKED_THROUGH = 10
"""The newest runs, among which a page without a run id finds its own."""

POLL_MS = 1_000


class UnclearPage(RlmError):
    """A page asks for something that no page has."""


class RunApps(Apps):
    """The pages, and the data of those that show runs."""

    def __init__(self, workspace: Callable[[], Workspace]) -> None:
        super().__init__()
        self._workspace = workspace
        self._followed: OrderedDict[tuple[RunStore, str], FollowedRun] = OrderedDict()
        self._add_page(RUN_URI, "Run", _run_app)
        self._add_page(CONTEXT_URI, "Context", _context_app)

    def _add_page(self, uri: str, title: str, make: Callable[[], str]) -> None:
        self.add_resource(
            FunctionResource(
                uri=uri, name=title.lower(), title=title, mime_type=APP_MIME_TYPE, meta=dict(META), fn=make
            )
        )

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Answers pages; everything else goes on to the tool."""
        arguments = params.arguments or {}
        if params.name != "rlm_result" or "page" not in arguments:
            return await call_next(ctx)
        try:
            return await self._piece(arguments)
        except RlmError as error:
            return CallToolResult(content=[TextContent(text=str(error))], is_error=True)

    async def _piece(self, arguments: Mapping[str, Any]) -> CallToolResult:
        workspace = self._workspace()
        run_id = str(arguments.get("run_id") or "") or await _asked_just_now(workspace, arguments)
        if not run_id:
            return _answer("", "unknown", None)
        rows, offset = _cursor(arguments["page"])
        run = await run_in_thread(workspace.runs.records.get, run_id)
        piece = await run_in_thread(self._follow(workspace, run).piece, rows, offset)
        cursor = {"rows": piece.next_rows, "offset": 0 if piece.is_last else piece.offset + len(piece.text)}
        page = {"text": piece.text, "offset": piece.offset, "is_last": piece.is_last}
        if piece.is_behind or piece.is_live:
            page |= {"next": cursor, "wait_ms": 0 if piece.is_behind else POLL_MS}
        progress = workspace.runs.progress(run.run_id) if piece.is_live else None
        if progress is not None:
            page["live"] = _live_facts(progress)
        return _answer(run.run_id, "running" if piece.is_live else "ended", page)

    def _follow(self, workspace: Workspace, run: RunRecord) -> "FollowedRun":
        """The reader of a run's record, which keeps its place in it."""
        from rlm_mcp.viewer.following import PIECE_CALL_CHARS, FollowedRun

        key = workspace.runs.records, run.run_id
        followed = self._followed.pop(key, None)
        if followed is None:
            followed = FollowedRun(run, workspace.contexts.store, call_chars=PIECE_CALL_CHARS)
        self._followed[key] = followed
        while len(self._followed) > MOST_FOLLOWED:
            self._followed.popitem(last=False)
        return followed


async def _asked_just_now(workspace: Workspace, arguments: Mapping[str, Any]) -> str:
    """The newest run that works on this question, or nothing."""
    query = arguments.get("query")
    page = await workspace.runs.list_page(limit=LOOKED_THROUGH)
    return next((run.run_id for run in page.runs if run.status == "running" and run.query == query), "")


def _live_facts(progress: Progress) -> dict[str, Any]:
    left = progress.seconds_left
    return {
        "doing": progress.doing,
        "in_flight": progress.in_flight,
        "seconds": round(progress.seconds, 1),
        "seconds_left": None if left is None else round(left, 1),
    }


def _cursor(page: object) -> tuple[int, int]:
    """The rows and characters that a page has."""
    match page:
        case {"rows": int(rows), "offset": int(offset)} if rows >= 0 and offset >= 0:
            return rows, offset
        case dict() if not page:
            return 0, 0
    raise UnclearPage("page takes what the page before gave as next, or an empty object for the beginning.")


def _answer(run_id: str, status: str, page: Mapping[str, Any] | None) -> CallToolResult:
    fields = {"run_id": run_id, "status": status, "page": page}
    return CallToolResult(
        content=[TextContent(text=f"A piece of the page of {run_id or 'a run that is not there yet'}.")],
        structured_content=fields,
    )


def _run_app() -> str:
    from rlm_mcp.viewer.app import run_app

    return run_app()


def _context_app() -> str:
    from rlm_mcp.viewer.app import context_app

    return context_app()

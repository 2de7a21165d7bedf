"""The MCP Apps extension (`io.modelcontextprotocol/ui`): hosts that have it show a run, or a context, inside the chat.

Tools name their page by `_meta.ui.resourceUri`; their results are the same with and without it. The page of a run asks
for its data by `rlm_result` with the argument `page`, which is for pages alone and therefore in no schema: a model
never pays for it. Without a run id, the run is looked up by the arguments of the call that the page belongs to
(`asked`), because a host tells a page the result of `rlm_solve` only when the run has ended.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mcp.server.apps import APP_MIME_TYPE, Apps
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver.resources import FunctionResource
from mcp_types import CallToolRequestParams, CallToolResult, TextContent

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.errors import RlmError, UnknownContext
from rlm_mcp.server.argument_aliases import ARGUMENT_ALIASES, resolve_aliases
from rlm_mcp.workspace.progress import Progress
from rlm_mcp.workspace.workspace import Workspace

if TYPE_CHECKING:
    from rlm_mcp.viewer.following import FollowedRuns

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
"""Metadata of both pages, which load nothing."""

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
        self._followed: WeakKeyDictionary[Workspace, FollowedRuns] = WeakKeyDictionary()
        self._add_page(RUN_URI, "Run", _run_app)
        self._add_page(CONTEXT_URI, "Context", _context_app)

    def __repr__(self) -> str:
        return f"<RunApps, {sum(map(len, self._followed.values()))} runs followed>"

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
        run_id = str(arguments.get("run_id") or "") or await _asked_just_now(workspace, arguments.get("asked"))
        if not run_id:
            return _answer("", "unknown", None)
        rows, offset = _cursor(arguments["page"])
        runs = self._followed_of(workspace)
        run = await run_in_thread(runs.get, run_id)
        piece = await run_in_thread(run.piece, rows, offset)
        if piece.is_last and not piece.is_live:
            runs.forget(run)
        cursor = {"rows": piece.next_rows, "offset": 0 if piece.is_last else piece.offset + len(piece.text)}
        page = {"text": piece.text, "offset": piece.offset, "is_last": piece.is_last}
        if piece.is_behind or piece.is_live:
            page |= {"next": cursor, "wait_ms": 0 if piece.is_behind else POLL_MS}
        progress = workspace.runs.progress(run.run_id) if piece.is_live else None
        if progress is not None:
            page["live"] = _live_facts(progress)
        return _answer(run.run_id, "running" if piece.is_live else "ended", page)

    def _followed_of(self, workspace: Workspace) -> "FollowedRuns":
        from rlm_mcp.viewer.following import PIECE_CALL_CHARS, FollowedRuns

        if workspace not in self._followed:
            self._followed[workspace] = FollowedRuns(
                workspace.runs.records, workspace.contexts.store, call_chars=PIECE_CALL_CHARS
            )
        return self._followed[workspace]


async def _asked_just_now(workspace: Workspace, asked: object) -> str:
    """The only run that works on the question and the contexts of a call; nothing if there are several or none."""
    match _looked_up_by(asked):
        case {"query": str(query), "contexts": list(refs)}:
            pass
        case _:
            return ""
    try:
        context_ids = [(await workspace.contexts.get(ref)).context_id for ref in dict.fromkeys(map(str, refs))]
    except UnknownContext:
        return ""
    page = await workspace.runs.list_page(limit=LOOKED_THROUGH)
    running = (run for run in page.runs if run.status == "running" and run.query == query)
    found = [run.run_id for run in running if [one.get("context_id") for one in run.contexts] == context_ids]
    return found[0] if len(found) == 1 else ""


def _looked_up_by(asked: object) -> Mapping[str, Any]:
    """The question and the contexts among the arguments of a call, whatever names its model gave them."""
    names, known = ARGUMENT_ALIASES["rlm_solve"], ("query", "contexts")
    given = asked if isinstance(asked, dict) else {}
    return resolve_aliases("rlm_solve", {n: value for n, value in given.items() if names.get(n, n) in known}, known)


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

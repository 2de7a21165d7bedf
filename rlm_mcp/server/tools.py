"""The seven tools: what a model may ask of the server. One method for each tool; its docstring is what the model reads.

Strings default to "" and not to None: the SDK parses JSON-looking text for every argument that is not plainly `str`,
which would turn a registered JSON text into an object. An RlmError leaves as the ToolError that the model reads
(server.py); any other exception is withheld from the client by the SDK.
"""

from collections.abc import Callable, Collection, Sequence
from functools import cache, partial
from typing import Annotated, Any, Literal

import anyio
from mcp.server.mcpserver import Context as Request
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, InputRequiredResult, ToolAnnotations
from pydantic import Field

from rlm_mcp.errors import RlmError
from rlm_mcp.server.apps import PAGES
from rlm_mcp.server.cancellations import Cancellations, Cause
from rlm_mcp.server.client_timeouts import limits_of, with_heartbeat
from rlm_mcp.server.input_rounds import InputRound
from rlm_mcp.server.presenters import (
    USUAL_WAIT,
    code_result,
    context_page,
    context_result,
    count_that_fit,
    estimate_result,
    lines_result,
    matches_result,
    overview_result,
    run_result,
)
from rlm_mcp.server.result_text import send
from rlm_mcp.server.results import ContextPage, ContextResult, InspectResult, RunResult, SolveResult
from rlm_mcp.server.run_calls import confirm_cost, wait_for_run
from rlm_mcp.server.sampling import offers_sampling
from rlm_mcp.server.tool_hints import hints_of
from rlm_mcp.server.tool_schemas import input_schema, output_schema
from rlm_mcp.server.workers.open_calls import call_id_in
from rlm_mcp.settings import package_names
from rlm_mcp.spending import RunLimits
from rlm_mcp.workspace.launch import SolveRequest
from rlm_mcp.workspace.progress import IngestProgress
from rlm_mcp.workspace.workspace import Workspace

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
RUNS_CODE = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
SPENDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=True)
ENDS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)

CONTEXT_FIELDS = ContextResult.model_fields.keys() - {"context_id"}
RUN_FIELDS = RunResult.model_fields.keys() - {"run_id", "status"}
"""Fields whose types another tool's schema lists already."""

ContextRef = Annotated[str, Field(description="id or name")]
WaitSeconds = Annotated[float, Field(ge=0)]


class UnclearCall(RlmError):
    """Arguments that do not fit together."""


class Tools:
    """The tools over whichever workspace belongs to the caller of the current request."""

    def __init__(self, workspace: Callable[[], Workspace], cancellations: Cancellations | None = None) -> None:
        self._workspace = workspace
        self._cancellations = cancellations or Cancellations()

    def all(self) -> list[Tool]:
        """The tools as the SDK serves them, with schemas that cost few tokens."""
        return [tool.model_copy(update={"fn": getattr(self, tool.name)}) for tool in described_tools()]

    async def register_context(
        self,
        request: Request[Any, Any],
        source: Annotated[str, Field(description="path, glob, or https/git/s3 address")] = "",
        text: str = "",
        name: str = "",
        encoding: Annotated[str, Field(description="of the files")] = "",
    ) -> Annotated[CallToolResult, ContextResult]:
        """Store an input too long to read (log, codebase, transcripts, dump) by path, or `text`.

        Returns its handle at once. The same content and name give the same context. Free. Next: rlm_solve, or
        inspect_context.
        """
        if bool(source) == bool(text):
            raise UnclearCall(
                "register_context takes either source (a path, glob or address) or text, and a non-empty one."
            )
        contexts, progress = self._workspace().contexts, IngestProgress()
        register = partial(
            contexts.register,
            source=source,
            text=text,
            name=name or None,
            encoding=encoding or None,
            progress=progress,
        )
        limits = limits_of(request)
        return send(context_result(await with_heartbeat(request, lambda: str(progress), register), limits.chars))

    async def list_contexts(
        self,
        request: Request[Any, Any],
        query: Annotated[str, Field(description="part of a name or source")] = "",
        limit: Annotated[int, Field(ge=1, le=100)] = 20,
        cursor: str = "",
    ) -> Annotated[CallToolResult, ContextPage]:
        """List registered contexts, newest first. Free."""
        contexts, limits = self._workspace().contexts, limits_of(request)
        page = await contexts.list_page(query, limit=limit, cursor=cursor or None)
        if (fit := count_that_fit(page, limits.chars)) < len(page.contexts):
            page = await contexts.list_page(query, limit=fit, cursor=cursor or None)
        return send(context_page(page, limits.chars))

    async def inspect_context(
        self,
        context: ContextRef,
        request: Request[Any, Any],
        *,
        start_line: Annotated[int, Field(ge=0, description="read from here, 1-based")] = 0,
        end_line: Annotated[int, Field(ge=0)] = 0,
        path: Annotated[str, Field(description="one file, for read or search")] = "",
        search: Annotated[str, Field(description="regex")] = "",
        max_matches: Annotated[int, Field(ge=1, le=1000)] = 20,
        context_lines: Annotated[int, Field(ge=0, le=50)] = 0,
        code: Annotated[str, Field(description="Python; `context` is bound; variables persist")] = "",
        timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 30,
        reset: Annotated[bool, Field(description="forget the variables first")] = False,
    ) -> Annotated[CallToolResult, InspectResult]:
        """Look into a context, free and fast.

        No further argument gives an overview; start_line/end_line reads; search greps; code runs Python in a sandbox
        (no network). For exact facts: counts, lookups, parsing. Where meaning must be judged over much text,
        use rlm_solve.
        """
        if sum(map(bool, (search, code, start_line or end_line))) > 1:
            raise UnclearCall("inspect_context does one thing a call: give start_line/end_line, or search, or code.")
        workspace, limits = self._workspace(), limits_of(request)
        contexts, room = workspace.contexts, limits.chars
        stored = await contexts.get(context)
        if code or reset:
            run = partial(workspace.repls.run_code, stored, code, seconds=timeout_seconds, reset=reset)
            return send(code_result(stored, await with_heartbeat(request, lambda: "running code", run), room))
        if search:
            within = partial(contexts.search, stored, search, path=path or None)
            find = partial(within, max_matches=max_matches, context_lines=context_lines)
            return send(matches_result(stored, await with_heartbeat(request, lambda: "searching", find), room))
        if start_line or end_line or path:
            first, last = start_line or 1, end_line or None
            lines = await contexts.read_lines(stored, first, last, path or None, max_chars=room)
            return send(lines_result(stored, lines, room))
        describe = partial(contexts.describe, stored)
        return send(overview_result(stored, await with_heartbeat(request, lambda: "describing", describe), room))

    async def rlm_solve(
        self,
        query: Annotated[str, Field(description="self-contained question")],
        contexts: Annotated[list[str], Field(description="ids or names")],
        request: Request[Any, Any],
        *,
        wait_seconds: WaitSeconds = USUAL_WAIT,
        mode: Literal["auto", "direct", "rlm"] = "auto",
        max_depth: Annotated[int | None, Field(ge=0, le=5)] = None,
        max_usd: Annotated[float | None, Field(gt=0)] = None,
        max_sub_calls: Annotated[int | None, Field(ge=0)] = None,
        max_seconds: Annotated[float | None, Field(gt=0)] = None,
        model: str = "",
        sub_model: str = "",
        output_schema: Annotated[dict[str, Any] | None, Field(description="JSON Schema of the answer")] = None,
        packages: str = "",
        estimate_only: Annotated[bool, Field(description="only tell the cost")] = False,
    ) -> Annotated[CallToolResult, SolveResult] | InputRequiredResult:
        """Answer a question over contexts of any size, with verified citations.

        A model writes code over them and asks sub-models. For summaries, comparisons, classification or multi-hop
        questions over long input; not for what one search or count answers. Costs model calls and 10 s to minutes.
        Returns the answer, or status running with a run_id: then call rlm_result, never rlm_solve again.
        """
        limits = RunLimits(max_depth=max_depth, max_usd=max_usd, max_sub_calls=max_sub_calls, max_seconds=max_seconds)
        asked = SolveRequest(
            query=query,
            contexts=tuple(contexts),
            mode=mode,
            limits=limits,
            model=model or None,
            sub_model=sub_model or None,
            output_schema=output_schema,
            packages=package_names(packages, "packages") if packages else None,
        )
        if estimate_only:
            guess = await self._workspace().runs.estimate(asked, sampling=offers_sampling(request))
            return send(estimate_result(guess))
        return await self._start_and_wait(request, asked, wait_seconds)

    async def _start_and_wait(
        self, request: Request[Any, Any], asked: SolveRequest, seconds: float
    ) -> CallToolResult | InputRequiredResult:
        """Starts a run unless an earlier round of this call did, and waits for it."""
        workspace = self._workspace()
        run_id = InputRound.of(request).run_id
        if run_id is None:
            if (unconfirmed := await confirm_cost(request, workspace, asked)) is not None:
                return unconfirmed
            run_id = await workspace.runs.start(asked, sampling=offers_sampling(request))
        cause: Cause | None = None
        call = call_id_in(request.headers)
        try:
            async with workspace.calls.waiting(run_id, call):  # until the cause is known: a signal may come meanwhile
                try:
                    result = await wait_for_run(request, workspace, run_id, seconds, call=call)
                except anyio.get_cancelled_exc_class():
                    cause = await self._cancellations.cause_of(request)
                    raise
                self._cancellations.note_answered(request, partial(workspace.calls.keep_for_repeat, run_id))
                return result
        except anyio.get_cancelled_exc_class():
            cause = cause or await self._cancellations.cause_of(request)
            if cause != "user":
                await workspace.calls.keep_for_repeat(run_id)
            if cause != "time-out":
                workspace.calls.give_up(run_id, by_user=cause == "user")
            raise

    async def rlm_result(
        self,
        run_id: str,
        request: Request[Any, Any],
        wait_seconds: WaitSeconds = USUAL_WAIT,
        offset: Annotated[int, Field(ge=0, description="in the answer")] = 0,
    ) -> Annotated[CallToolResult, RunResult] | InputRequiredResult:
        """Wait for a run, or read it again, or page through a long answer by offset. Free."""
        return await wait_for_run(request, self._workspace(), run_id, wait_seconds, offset=offset)

    async def cancel_run(self, run_id: str, request: Request[Any, Any]) -> Annotated[CallToolResult, RunResult]:
        """Stop a run and its model calls; what it has is kept and returned."""
        limits = limits_of(request)
        return send(run_result(await self._workspace().runs.cancel(run_id), room=limits.chars))

    async def remove_context(
        self, context: ContextRef, request: Request[Any, Any]
    ) -> Annotated[CallToolResult, ContextResult]:
        """Forget a context for good; its source file is untouched. Refused while a run uses it."""
        limits = limits_of(request)
        return send(context_result(await self._workspace().remove_context(context), limits.chars))


@cache
def described_tools() -> Sequence[Tool]:
    """The tools of no workspace, of which every server has copies: making their schemas takes 30 ms."""
    tools = Tools(no_workspace)
    return [
        _tool(tools.register_context, "Register a context", ADDS),
        _tool(tools.list_contexts, "List contexts", READS),
        _tool(tools.inspect_context, "Look into a context", RUNS_CODE, unlisted=CONTEXT_FIELDS),
        _tool(tools.rlm_solve, "Answer a question over contexts", SPENDS),
        _tool(tools.rlm_result, "Wait for a run", READS, unlisted=RUN_FIELDS),
        _tool(tools.cancel_run, "Cancel a run", ENDS, unlisted=RUN_FIELDS),
        _tool(tools.remove_context, "Forget a context", ENDS, unlisted=CONTEXT_FIELDS),
    ]


def no_workspace() -> Workspace:
    """The workspace of a server that only describes itself."""
    raise LookupError("a server that only describes itself was called")


def _tool(
    function: Callable[..., Any], title: str, annotations: ToolAnnotations, unlisted: Collection[str] = ()
) -> Tool:
    """The SDK's tool for a method: its docstring on one line, and schemas without redundant parts."""
    tool = Tool.from_function(
        function, title=title, description=" ".join((function.__doc__ or "").split()), annotations=annotations
    )
    page = {"ui": {"resourceUri": PAGES[tool.name]}} if tool.name in PAGES else {}
    tool.meta = page | hints_of(tool.name) or None
    tool.parameters = input_schema(tool.parameters)
    tool.fn_metadata.output_schema = output_schema(tool.fn_metadata.output_schema or {}, leave_out=unlisted)
    return tool

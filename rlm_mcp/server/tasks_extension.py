"""The MCP Tasks extension (`io.modelcontextprotocol/tasks`, SEP-2663) over anything that works in the background.

A client that declares the extension on its request gets a handle from a long tool instead of a wait, and polls it.
What the tasks are is told by a `Background`: run_tasks.py has ours, the conformance suite is given another. Only for
2026-07-28 clients; the experimental tasks of 2025-11-25 are another protocol.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver.server import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ErrorData,
    RequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field

from rlm_mcp.errors import RlmError

IDENTIFIER = "io.modelcontextprotocol/tasks"
MODERN = frozenset(MODERN_PROTOCOL_VERSIONS)


class TaskParams(RequestParams):
    """Names a task."""

    task_id: str


class UpdateParams(TaskParams):
    """Brings answers to questions of a task, by the names of the questions."""

    input_responses: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """A task at one moment. A completed one has a result, also where the tool reports an error; a failed one an error.

    `questions` are requests to the client (`elicitation/create` …) by name, for as long as they are open.
    """

    task_id: str
    status: Literal["working", "input_required", "completed", "failed", "cancelled"]
    message: str
    created_at: str
    updated_at: str
    poll_ms: int
    questions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    result: CallToolResult | None = None
    error: ErrorData | None = None


class Background(Protocol):
    """Work that outlives the request that began it. All but `begin` raise RlmError for an id that is not known."""

    @property
    def tools(self) -> Collection[str]:
        """Whose calls may become tasks."""

    async def begin(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> TaskState | HandlerResult:
        """Begins the work of a call. Returns its task, which `look` finds from now on, or the result of a short one."""

    async def look(self, task_id: str) -> TaskState:
        """The task as it stands."""

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        """Takes what the client answered to `questions`; other names are ignored."""

    async def cancel(self, task_id: str) -> None:
        """Asks the work to stop; for one that has ended, nothing."""


class Tasks(Extension):
    """The extension's methods, its negotiation and its forms on the wire."""

    identifier = IDENTIFIER

    def __init__(self, background: Background) -> None:
        self._background = background

    def methods(self) -> Sequence[MethodBinding]:
        """Polling, updating, cancelling."""
        return [
            MethodBinding("tasks/get", TaskParams, self._get, MODERN),
            MethodBinding("tasks/update", UpdateParams, self._update, MODERN),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, MODERN),
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Answers with a task where the tool makes one and the client said on this request that it can take it."""
        if params.name not in self._background.tools or not _declared(ctx):
            return await call_next(ctx)
        begun = await self._background.begin(params, ctx, call_next)
        return {"resultType": "task", **_handle(begun)} if isinstance(begun, TaskState) else begun

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        _check(ctx, params)
        return _detailed(await self._look(params.task_id))

    async def _update(self, ctx: ServerRequestContext[Any, Any], params: UpdateParams) -> HandlerResult:
        _check(ctx, params)
        await self._look(params.task_id)
        await self._background.answer(params.task_id, params.input_responses)
        return {}

    async def _cancel(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        _check(ctx, params)
        await self._look(params.task_id)
        await self._background.cancel(params.task_id)
        return {}

    async def _look(self, task_id: str) -> TaskState:
        try:
            return await self._background.look(task_id)
        except RlmError as error:
            raise MCPError(INVALID_PARAMS, str(error)) from error


def _declared(ctx: ServerRequestContext[Any, Any]) -> bool:
    capabilities = ctx.session.client_capabilities
    declared = None if capabilities is None else capabilities.extensions
    return ctx.protocol_version in MODERN and declared is not None and IDENTIFIER in declared


def _check(ctx: ServerRequestContext[Any, Any], params: TaskParams) -> None:
    """Refuses clients without the extension, and over HTTP a routing header that does not name the task."""
    require_client_extension(ctx, IDENTIFIER)
    if ctx.request is None:  # stdio and in memory
        return
    if decode_header_value(ctx.request.headers.get(MCP_NAME_HEADER)) != params.task_id:
        raise MCPError(HEADER_MISMATCH, f"{MCP_NAME_HEADER} header does not match the request body's taskId")


def _handle(task: TaskState) -> dict[str, Any]:
    """What a call that became a task is answered."""
    return {
        "taskId": task.task_id,
        "status": task.status,
        "statusMessage": task.message,
        "createdAt": task.created_at,
        "lastUpdatedAt": task.updated_at,
        "ttlMs": None,  # a run is kept until somebody deletes its record
        "pollIntervalMs": task.poll_ms,
    }


def _detailed(task: TaskState) -> dict[str, Any]:
    """What a poll is answered."""
    detailed = _handle(task)
    if task.questions:
        detailed["inputRequests"] = dict(task.questions)
    if task.result is not None:
        detailed["result"] = task.result.model_dump(by_alias=True, mode="json", exclude_none=True)
    if task.error is not None:
        detailed["error"] = task.error.model_dump(by_alias=True, mode="json", exclude_none=True)
    return detailed

"""The MCP Tasks extension (`io.modelcontextprotocol/tasks`, SEP-2663) over any work in the background.

A client that declares the extension on its request gets a handle from a long tool instead of a wait, and polls it.
A `Background` supplies the tasks: run_tasks.py has that of the server, the conformance suite uses another. Only for
clients of 2026-07-28; the experimental tasks of 2025-11-25 are another protocol.
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
    """Answers to questions of a task, by the names of the questions."""

    input_responses: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """Snapshot of a task. A completed one has a result, also where the tool reports an error; a failed one an error.

    `questions` are open requests to the client (`elicitation/create` …) by name.
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
    """Work that outlives the request that began it. Every method except `begin` raises RlmError for an unknown id."""

    @property
    def tools(self) -> Collection[str]:
        """The tools whose calls may become tasks."""

    async def begin(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> TaskState | HandlerResult:
        """Begins the work of a call. Returns its task, or the result if the work was short."""

    async def get(self, task_id: str) -> TaskState:
        """The current state of the task."""

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        """Accepts the client's answers to `questions`; other names are ignored."""

    async def cancel(self, task_id: str) -> None:
        """Asks the work to stop. Does nothing for work that has ended."""


class Tasks(Extension):
    """The extension's methods, its negotiation and its wire format."""

    identifier = IDENTIFIER

    def __init__(self, background: Background) -> None:
        self._background = background

    def methods(self) -> Sequence[MethodBinding]:
        """The methods that poll, update and cancel tasks."""
        return [
            MethodBinding("tasks/get", TaskParams, self._get, MODERN),
            MethodBinding("tasks/update", UpdateParams, self._update, MODERN),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, MODERN),
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Answers with a task where the tool makes one and the client declared the extension on this request."""
        if params.name not in self._background.tools or not _declared(ctx):
            return await call_next(ctx)
        begun = await self._background.begin(params, ctx, call_next)
        return {"resultType": "task", **_handle(begun)} if isinstance(begun, TaskState) else begun

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        _check(ctx, params)
        return _detailed(await self._find(params.task_id))

    async def _update(self, ctx: ServerRequestContext[Any, Any], params: UpdateParams) -> HandlerResult:
        _check(ctx, params)
        await self._find(params.task_id)
        await self._background.answer(params.task_id, params.input_responses)
        return {}

    async def _cancel(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        _check(ctx, params)
        await self._find(params.task_id)
        await self._background.cancel(params.task_id)
        return {}

    async def _find(self, task_id: str) -> TaskState:
        try:
            return await self._background.get(task_id)
        except RlmError as error:
            raise MCPError(INVALID_PARAMS, str(error)) from error


def _declared(ctx: ServerRequestContext[Any, Any]) -> bool:
    capabilities = ctx.session.client_capabilities
    declared = None if capabilities is None else capabilities.extensions
    return ctx.protocol_version in MODERN and declared is not None and IDENTIFIER in declared


def _check(ctx: ServerRequestContext[Any, Any], params: TaskParams) -> None:
    """Refuses clients without the extension and, over HTTP, a routing header that does not name the task."""
    require_client_extension(ctx, IDENTIFIER)
    if ctx.request is None:  # stdio and in memory
        return
    if decode_header_value(ctx.request.headers.get(MCP_NAME_HEADER)) != params.task_id:
        raise MCPError(HEADER_MISMATCH, f"{MCP_NAME_HEADER} header does not match the request body's taskId")


def _handle(task: TaskState) -> dict[str, Any]:
    """The answer to a call that became a task."""
    return {
        "taskId": task.task_id,
        "status": task.status,
        "statusMessage": task.message,
        "createdAt": task.created_at,
        "lastUpdatedAt": task.updated_at,
        "ttlMs": None,  # a run is kept until its record is deleted
        "pollIntervalMs": task.poll_ms,
    }


def _detailed(task: TaskState) -> dict[str, Any]:
    """The answer to a poll."""
    detailed = _handle(task)
    if task.questions:
        detailed["inputRequests"] = dict(task.questions)
    if task.result is not None:
        detailed["result"] = task.result.model_dump(by_alias=True, mode="json", exclude_none=True)
    if task.error is not None:
        detailed["error"] = task.error.model_dump(by_alias=True, mode="json", exclude_none=True)
    return detailed

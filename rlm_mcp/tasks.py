"""The MCP Tasks extension (`io.modelcontextprotocol/tasks`, SEP-2663): a run is a task.

A client that declares the extension gets a task handle from `rlm_solve` instead of a wait, and polls it. The task id is
the run id, so a task survives a reconnect, a restart and this extension: `rlm_result` reads the same run. Errors of the
request itself (an unknown context, no model) are answered at once, as an ordinary result. Only for 2026-07-28 clients;
the experimental tasks of 2025-11-25 are another protocol.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver.server import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolRequestParams, CallToolResult, RequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field

from rlm_mcp.errors import RlmError
from rlm_mcp.runs import RunState
from rlm_mcp.views import run_result
from rlm_mcp.wire import send
from rlm_mcp.workspace import Workspace

IDENTIFIER = "io.modelcontextprotocol/tasks"
MODERN = frozenset(MODERN_PROTOCOL_VERSIONS)
POLL_MS = 2_000
"""A run takes from ten seconds to minutes."""


class TaskParams(RequestParams):
    """Names a task."""

    task_id: str


class UpdateParams(TaskParams):
    """Brings answers to questions of a task; ours ask none."""

    input_responses: dict[str, Any] = Field(default_factory=dict)


class Tasks(Extension):
    """Runs as tasks, over whichever workspace belongs to the caller of the current request."""

    identifier = IDENTIFIER

    def __init__(self, workspace: Callable[[], Workspace]) -> None:
        self._workspace = workspace

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
        """Turns a run that is not done at once into a task, if the client said on this request that it can take one."""
        if params.name != "rlm_solve" or not _declared(ctx):
            return await call_next(ctx)
        # The handler reads the arguments from this very object; there is no other way to hand it changed ones.
        params.arguments = {**(params.arguments or {}), "wait_seconds": 0}
        result = await call_next(ctx)
        run = result.structured_content if isinstance(result, CallToolResult) else None
        if not isinstance(run, dict) or run.get("status") != "running":
            return result
        return {"resultType": "task", **await self._task(run["run_id"])}

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        require_client_extension(ctx, IDENTIFIER)
        return await self._task(params.task_id)

    async def _update(self, ctx: ServerRequestContext[Any, Any], params: UpdateParams) -> HandlerResult:
        require_client_extension(ctx, IDENTIFIER)
        await self._state(params.task_id)
        return {}

    async def _cancel(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        require_client_extension(ctx, IDENTIFIER)
        self._workspace().stop((await self._state(params.task_id)).run_id)
        return {}

    async def _task(self, task_id: str) -> dict[str, Any]:
        """The task as the extension shows it, with the tool result once there is one."""
        state = await self._state(task_id)
        progress = self._workspace().progress(state.run_id)
        task: dict[str, Any] = {
            "taskId": state.run_id,
            "status": {"running": "working", "cancelled": "cancelled"}.get(state.status, "completed"),
            "statusMessage": str(progress or state.message or state.status),
            "createdAt": state.created_at,
            "lastUpdatedAt": datetime.now(UTC).isoformat(),
            "ttlMs": None,
            "pollIntervalMs": POLL_MS,
        }
        if task["status"] == "completed":
            result = send(run_result(state, uri=self._workspace().run_uri(state.run_id)))
            task["result"] = result.model_dump(by_alias=True, mode="json", exclude_none=True)
        return task

    async def _state(self, task_id: str) -> RunState:
        try:
            return await self._workspace().state(task_id)
        except RlmError as error:
            raise MCPError(INVALID_PARAMS, str(error)) from error


def _declared(ctx: ServerRequestContext[Any, Any]) -> bool:
    capabilities = ctx.session.client_capabilities
    declared = None if capabilities is None else capabilities.extensions
    return ctx.protocol_version in MODERN and declared is not None and IDENTIFIER in declared

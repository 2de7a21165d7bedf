"""Runs as tasks of the MCP Tasks extension.

The task id is the run id, so a task survives a reconnect and a restart, and `rlm_result` reads the same run. Errors of
the request itself (an unknown context, no model) are ordinary results at once.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types import CallToolRequestParams, CallToolResult

from rlm_mcp.records.types import RunState
from rlm_mcp.server.client_limits import UNKNOWN
from rlm_mcp.server.presenters import run_result
from rlm_mcp.server.result_text import send
from rlm_mcp.server.sampling import accept_answers, poll_requests
from rlm_mcp.server.tasks_extension import TaskState
from rlm_mcp.workspace.workspace import Workspace

POLL_MS = 2_000
"""A run takes from ten seconds to minutes."""


class RunTasks:
    """The runs of whichever workspace belongs to the caller of the current request."""

    tools = frozenset({"rlm_solve"})

    def __init__(self, workspace: Callable[[], Workspace]) -> None:
        self._workspace = workspace

    async def begin(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> TaskState | HandlerResult:
        """Starts the run without waiting. Returns its task, unless it has ended or was refused already."""
        # The handler reads the arguments from this object; there is no other way to change them.
        params.arguments = {**(params.arguments or {}), "wait_seconds": 0}
        result = await call_next(ctx)
        run = result.structured_content if isinstance(result, CallToolResult) else None
        if not isinstance(run, dict) or run.get("status") != "running":
            return result
        return await self.get(run["run_id"])

    async def get(self, task_id: str) -> TaskState:
        """The run as a task, with the tool result once there is one. A run that was held goes on: it is followed."""
        workspace = self._workspace()
        run_id = await workspace.runs.full_id(task_id)
        async with workspace.calls.waiting(run_id):
            state = await workspace.runs.state(run_id)
        ended = state.status in {"completed", "failed"}
        sampling_queue = workspace.runs.sampling_queue(state.run_id)
        questions = {} if sampling_queue is None else poll_requests(sampling_queue)
        return TaskState(
            task_id=state.run_id,
            status=_status(state, is_asking=bool(questions)),
            message=str(workspace.runs.progress(state.run_id) or state.message or state.status),
            created_at=state.created_at,
            updated_at=datetime.now(UTC).isoformat(),
            poll_ms=POLL_MS,
            questions={
                name: question.model_dump(by_alias=True, mode="json", exclude_none=True)
                for name, question in questions.items()
            },
            result=send(run_result(state, room=UNKNOWN.chars)) if ended else None,
        )

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        """Gives the replies of the client's model to the sampling queue of the run."""
        if (sampling_queue := self._workspace().runs.sampling_queue(task_id)) is not None:
            accept_answers(sampling_queue, responses)

    async def cancel(self, task_id: str) -> None:
        """Stops the run and keeps what it has."""
        workspace = self._workspace()
        workspace.runs.stop((await workspace.runs.state(task_id)).run_id)


def _status(
    state: RunState, *, is_asking: bool
) -> Literal["working", "input_required", "completed", "failed", "cancelled"]:
    match state.status:
        case "running":
            return "input_required" if is_asking else "working"
        case "cancelled":
            return "cancelled"
        case _:  # a run that failed is a result that tells why
            return "completed"

"""The Tasks extension beyond runs: questions, failures, other work."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, Request, RequestParams, Result

from rlm_mcp.server.tasks_extension import IDENTIFIER
from tests.peers.tasks_server import build_tasks_server

pytestmark = pytest.mark.anyio


class Handle(Result):
    result_type: Literal["task"] = "task"
    task_id: str


class TaskState(Result):
    status: str
    input_requests: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class TaskParams(RequestParams):
    task_id: str
    input_responses: dict[str, Any] | None = None


class TaskRequest(Request[TaskParams, str]):
    method: str
    params: TaskParams


class Taking(ClientExtension):
    """Declares tasks; a call that becomes one ends with its id as the result."""

    identifier = IDENTIFIER

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return (ResultClaim(result_type="task", model=Handle, resolve=self._resolve),)

    async def _resolve(self, task: Handle, ctx: ClaimContext) -> CallToolResult:
        return CallToolResult(content=[], structured_content={"result": task.task_id})


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            async with Client(build_tasks_server(group), extensions=[Taking()]) as client:
                yield client
            group.cancel_scope.cancel()


async def begun(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    task_id: str = result.structured_content["result"]
    return task_id


async def asked(client: Client, method: str, task_id: str, **answers: Any) -> TaskState:
    params = TaskParams(task_id=task_id, input_responses=answers or None)
    model = TaskState if method == "tasks/get" else Result
    state = await client.session.send_request(TaskRequest(method=method, params=params), model)
    return state if isinstance(state, TaskState) else TaskState(status="")


async def reached(client: Client, task_id: str, status: str) -> TaskState:
    while (state := await asked(client, "tasks/get", task_id)).status != status:
        await checkpoint()
    return state


async def test_a_question_is_answered_by_an_update(client: Client) -> None:
    task_id = await begun(client, "confirm_delete", filename="a.txt")
    state = await reached(client, task_id, "input_required")
    assert state.input_requests is not None
    assert state.input_requests["confirm"]["params"]["message"] == "Delete a.txt?"
    await asked(client, "tasks/update", task_id, other="is ignored")
    assert (await asked(client, "tasks/get", task_id)).status == "input_required"
    await asked(client, "tasks/update", task_id, confirm={"action": "accept"})
    state = await reached(client, task_id, "completed")
    assert state.result is not None
    assert state.result["content"][0]["text"] == "a.txt: {'action': 'accept'}"
    assert state.input_requests is None


async def test_questions_that_are_open_stay_when_others_are_answered(client: Client) -> None:
    task_id = await begun(client, "multi_input")
    await reached(client, task_id, "input_required")
    await asked(client, "tasks/update", task_id, first={"action": "accept"})
    assert ((await asked(client, "tasks/get", task_id)).input_requests or {}).keys() == {"second"}
    await asked(client, "tasks/update", task_id, second={"action": "decline"})
    await reached(client, task_id, "completed")


async def test_an_error_of_the_tool_is_a_result_and_one_of_the_request_is_not(client: Client) -> None:
    told = await reached(client, await begun(client, "failing_job"), "completed")
    assert told.result is not None
    assert told.result["isError"]
    broken = await reached(client, await begun(client, "protocol_error_job"), "failed")
    assert (broken.error, broken.result) == ({"code": -32603, "message": "this job always breaks"}, None)


async def test_a_cancelled_task_is_cancelled_however_often_it_is_asked(client: Client) -> None:
    task_id = await begun(client, "slow_compute", seconds=600)
    await asked(client, "tasks/cancel", task_id)
    await reached(client, task_id, "cancelled")
    await asked(client, "tasks/cancel", task_id)
    with pytest.raises(MCPError, match="there is no task 'job-0'"):
        await asked(client, "tasks/cancel", "job-0")

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, Request, RequestParams, Result
from pydantic import Field

from rlm_mcp.server.server import build_server
from rlm_mcp.server.tasks_extension import IDENTIFIER
from rlm_mcp.workspace.workspace import Workspace
from tests.rlm_mcp.machine import Machine, lost_twice

from .conftest import HeldModel

pytestmark = pytest.mark.anyio

QUESTION: dict[str, Any] = {"query": "How many?", "contexts": ["t"], "mode": "rlm"}


class Task(Result):
    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    status_message: str
    created_at: str
    last_updated_at: str
    ttl_ms: int | None
    poll_interval_ms: int


class TaskState(Result):
    task_id: str
    status: str
    status_message: str
    result: dict[str, Any] | None = None


class TaskParams(RequestParams):
    task_id: str


class TaskRequest(Request[TaskParams, str]):
    method: str
    params: TaskParams


class Poller(ClientExtension):
    """Keeps the handle it is given, and polls until the task has ended."""

    identifier = IDENTIFIER

    def __init__(self, on_created: Callable[[], object] = lambda: None) -> None:
        self.created: list[Task] = []
        self._on_created = on_created

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return (ResultClaim(result_type="task", model=Task, resolve=self._resolve),)

    async def _resolve(self, task: Task, ctx: ClaimContext) -> CallToolResult:
        self.created.append(task)
        self._on_created()
        while True:
            state = await ctx.session.send_request(request("tasks/get", task.task_id), TaskState)
            if state.result is not None:
                return CallToolResult.model_validate(state.result)
            await anyio.lowlevel.checkpoint()


def request(method: str, task_id: str) -> Any:
    return TaskRequest(method=method, params=TaskParams(task_id=task_id))


@pytest.fixture(autouse=True)
async def context(workspace: Workspace) -> None:
    await workspace.contexts.register(text="some text\n", name="t")


async def test_a_run_is_a_task_for_a_client_that_declared_tasks(workspace: Workspace, model: HeldModel) -> None:
    poller = Poller(on_created=model.go.set)
    with anyio.fail_after(60):
        async with Client(build_server(workspace), extensions=[poller]) as client:
            result = await client.call_tool("rlm_solve", QUESTION)
    assert isinstance(result, CallToolResult)
    assert result.structured_content["answer"] == "42"
    (task,) = poller.created
    assert (task.task_id, task.status) == (result.structured_content["run_id"], "working")
    assert (task.ttl_ms, task.poll_interval_ms) == (None, 2_000)


async def test_a_mistake_in_the_call_is_answered_at_once(workspace: Workspace) -> None:
    poller = Poller()
    async with Client(build_server(workspace), extensions=[poller]) as client:
        result = await client.call_tool("rlm_solve", QUESTION | {"contexts": ["nothing"]})
    assert isinstance(result, CallToolResult)
    assert result.is_error
    assert poller.created == []


async def test_a_task_survives_a_reconnect_and_is_cancelled(workspace: Workspace, model: HeldModel) -> None:
    server = build_server(workspace)
    with anyio.fail_after(60):
        async with Client(server) as client:
            run = (await client.call_tool("rlm_solve", QUESTION | {"wait_seconds": 0})).structured_content
        async with Client(server, extensions=[Poller()]) as client:
            await model.waiting.wait()
            state = await client.session.send_request(request("tasks/get", run["run_id"]), TaskState)
            assert state.status == "working"
            assert "turn 2" in state.status_message
            await client.session.send_request(request("tasks/cancel", run["run_id"]), Result)
            await model.cancelled.wait()
            while state.status == "working":
                state = await client.session.send_request(request("tasks/get", run["run_id"]), TaskState)
            assert state.status == "cancelled"


async def test_a_task_that_is_polled_goes_on_though_its_call_was_lost(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")
    machine.model.looks = 2
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await lost_twice(workspace, machine)
            machine.model.go.set()
            async with Client(build_server(workspace), extensions=[Poller()]) as client:
                asked = request("tasks/get", run_id)
                while (state := await client.session.send_request(asked, TaskState)).result is None:
                    await anyio.lowlevel.checkpoint()
    assert (state.result["structuredContent"]["answer"], machine.model.asked) == ("9", 4)


async def test_clients_without_the_extension_get_results_and_no_tasks(workspace: Workspace, era: str) -> None:
    async with Client(build_server(workspace), mode=era) as client:
        run = (await client.call_tool("rlm_solve", QUESTION | {"wait_seconds": 0})).structured_content
        assert run["status"] == "running"
        with pytest.raises(MCPError) as refused:
            await client.session.send_request(request("tasks/get", run["run_id"]), TaskState)
        assert refused.value.error.code == (-32021 if era == "auto" else -32601)


async def test_an_unknown_task_is_an_invalid_parameter(workspace: Workspace) -> None:
    async with Client(build_server(workspace), extensions=[Poller()]) as client:
        assert (client.server_capabilities.extensions or {})[IDENTIFIER] == {}
        with pytest.raises(MCPError) as refused:
            await client.session.send_request(request("tasks/get", "run-nothing"), TaskState)
        assert refused.value.error.code == -32602


class UpdateParams(TaskParams):
    input_responses: dict[str, Any]


class UpdateRequest(Request[UpdateParams, str]):
    method: str = "tasks/update"
    params: UpdateParams


class AskedState(TaskState):
    input_requests: dict[str, Any] = Field(default_factory=dict)


class Answering(Poller):
    """Has a model of its own, which answers the questions of the task."""

    async def _resolve(self, task: Task, ctx: ClaimContext) -> CallToolResult:
        self.created.append(task)
        self.statuses: list[str] = []
        while True:
            state = await ctx.session.send_request(request("tasks/get", task.task_id), AskedState)
            if state.result is not None:
                return CallToolResult.model_validate(state.result)
            self.statuses.append(state.status)
            answers = {name: self._answer(asked["params"]) for name, asked in state.input_requests.items()}
            if answers:
                params = UpdateParams(task_id=task.task_id, input_responses=answers)
                await ctx.session.send_request(UpdateRequest(params=params), Result)
            await anyio.lowlevel.checkpoint()

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        code = "FINAL(n)" if len(asked["messages"]) > 1 else "print(len(context))"
        content = {"type": "text", "text": f"```repl\n{code}\n```"}
        return {"role": "assistant", "content": content, "model": "theirs", "stopReason": "endTurn"}


async def never(context: Any, params: Any) -> Any:
    raise AssertionError("the questions of a task are answered by tasks/update")


async def test_a_task_asks_the_clients_own_model(workspace: Workspace) -> None:
    answering = Answering()
    with anyio.fail_after(60):
        async with Client(build_server(workspace), extensions=[answering], sampling_callback=never) as client:
            result = await client.call_tool("rlm_solve", QUESTION | {"model": "client"})
    assert isinstance(result, CallToolResult)
    assert result.structured_content is not None
    assert (result.structured_content["status"], result.structured_content["answer"]) == ("completed", "42")
    assert "input_required" in answering.statuses

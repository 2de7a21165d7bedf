from typing import Any

import anyio
import pytest
from mcp import Client
from mcp_types import CallToolResult

from rlm_mcp.server.server import build_server
from rlm_mcp.workspace.workspace import Workspace

from .conftest import HeldModel

pytestmark = pytest.mark.anyio

RUN_FIELDS = {
    "run_id", "status", "answer", "answer_chars", "truncated", "offset", "stopped_by", "citations", "coverage",
    "usage", "iterations", "mode", "depth", "trace_uri", "message", "confidence",
}  # fmt: skip
QUESTION = {"query": "How many errors are there?", "contexts": ["t"], "mode": "rlm"}


@pytest.fixture(autouse=True)
async def context(workspace: Workspace) -> None:
    await workspace.contexts.register(text="some text\nERROR here\n", name="t")


async def call(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    fields: dict[str, Any] = result.structured_content
    return fields


async def test_a_run_that_ends_in_time_is_answered_at_once(client: Client, model: HeldModel) -> None:
    model.go.set()
    with anyio.fail_after(60):
        run = await call(client, "rlm_solve", **QUESTION)
    assert set(run) == RUN_FIELDS
    assert (run["status"], run["answer"], run["stopped_by"], run["iterations"]) == ("completed", "42", "final", 2)
    assert run["usage"]["root_calls"] == 2
    assert run["usage"]["cost_usd"] is None
    assert run["trace_uri"] == f"rlm://runs/{run['run_id']}/trace"


async def test_a_long_run_returns_its_id_and_is_waited_for_by_rlm_result(client: Client, model: HeldModel) -> None:
    run = await call(client, "rlm_solve", **QUESTION, wait_seconds=0)
    assert run["status"] == "running"
    assert f"rlm_result(run_id='{run['run_id']}')" in run["message"]
    assert "do not start it again" in run["message"]
    model.go.set()
    with anyio.fail_after(60):
        assert (await call(client, "rlm_result", run_id=run["run_id"]))["answer"] == "42"


async def test_asking_the_same_again_finds_the_run_that_runs(client: Client, model: HeldModel) -> None:
    first = await call(client, "rlm_solve", **QUESTION, wait_seconds=0)
    again = await call(client, "rlm_solve", **QUESTION, wait_seconds=0)
    other = await call(client, "rlm_solve", **QUESTION | {"query": "Another question?"}, wait_seconds=0)
    assert first["run_id"] == again["run_id"] != other["run_id"]


async def test_cancel_run_stops_the_model_call_and_keeps_the_record(client: Client, model: HeldModel) -> None:
    run = await call(client, "rlm_solve", **QUESTION, wait_seconds=0)
    with anyio.fail_after(60):
        await model.waiting.wait()
        cancelled = await call(client, "cancel_run", run_id=run["run_id"])
        await model.cancelled.wait()
    assert (cancelled["status"], cancelled["stopped_by"]) == ("cancelled", "cancelled")
    assert cancelled["usage"]["root_calls"] == 2  # the second one was in flight
    assert await call(client, "rlm_result", run_id=run["run_id"]) == cancelled


async def test_cancelling_the_request_cancels_the_run(client: Client, model: HeldModel, workspace: Workspace) -> None:
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_ignored, client)
            await model.waiting.wait()
            tasks.cancel_scope.cancel()
        await model.cancelled.wait()
        (run,) = (await workspace.runs.list_page()).runs
        async for _ in workspace.runs.follow(run.run_id):
            pass
        assert (await workspace.runs.state(run.run_id)).status == "cancelled"


async def call_ignored(client: Client) -> None:
    await client.call_tool("rlm_solve", QUESTION)


async def test_a_run_outlives_its_client(workspace: Workspace, model: HeldModel, era: str) -> None:
    server = build_server(workspace)
    async with Client(server, mode=era) as client:
        run = await call(client, "rlm_solve", **QUESTION, wait_seconds=0)
    model.go.set()
    with anyio.fail_after(60):
        async with Client(server, mode=era) as client:
            assert (await call(client, "rlm_result", run_id=run["run_id"]))["answer"] == "42"


async def test_progress_tells_what_the_run_is_doing(client: Client, model: HeldModel) -> None:
    told: list[tuple[float, str]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message or ""))
        if "turn 2" in (message or ""):
            model.go.set()

    with anyio.fail_after(60):
        await client.call_tool("rlm_solve", QUESTION, progress_callback=on_progress)
    assert any("turn 2" in message and "asking the root model" in message for _, message in told)
    steps = [progress for progress, _ in told]
    assert steps == sorted(set(steps))


async def test_a_long_answer_is_paged(client: Client, model: HeldModel) -> None:
    model.answer = "".join(f"{i}\n" for i in range(10_000))
    model.go.set()
    with anyio.fail_after(60):
        page = await call(client, "rlm_solve", **QUESTION)
        whole = page["answer"]
        assert page["truncated"]
        while page["truncated"]:
            assert len(str(page)) < 32_000
            page = await call(client, "rlm_result", run_id=page["run_id"], offset=len(whole))
            whole += page["answer"]
    assert whole == model.answer
    assert page["answer_chars"] == len(model.answer)


async def test_a_context_in_use_is_not_removed(client: Client, model: HeldModel) -> None:
    await call(client, "rlm_solve", **QUESTION, wait_seconds=0)
    with anyio.fail_after(60):
        await model.waiting.wait()
        result = await client.call_tool("remove_context", {"context": "t"})
    assert isinstance(result, CallToolResult)
    assert result.is_error


async def test_removed_while_idle(client: Client) -> None:
    assert (await call(client, "remove_context", context="t"))["name"] == "t"

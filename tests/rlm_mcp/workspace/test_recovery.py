"""Runs of a server that ended, and the next server on the same data directory."""

from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from rlm_mcp.records.events import Event, RootReply, RunResumed
from rlm_mcp.records.recovery import MOST_TRIES, TRIES_TOGETHER
from rlm_mcp.records.run import Run
from rlm_mcp.records.run_queue import LocalRunQueue
from rlm_mcp.records.store import Runs
from rlm_mcp.workspace.trial import Trial
from tests.rlm_mcp.machine import REQUEST, Machine, begun, ended

pytestmark = pytest.mark.anyio


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_a_server_resumes_the_runs_that_the_one_before_left(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
        machine.model.go.set()
        async with machine.open(serves=True) as workspace:
            await workspace.recovery.resume_left()
            state = await ended(workspace, run_id)
    assert (state.status, state.answer, state.iterations) == ("completed", "9", 2)
    assert machine.model.asked == 3  # twice before, and the turn that was cut off again


async def test_a_record_of_a_newer_version_is_left_alone_and_the_runs_beside_it_go_on(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
            newer = await workspace.runs.start(replace(REQUEST, query="Another?"))
        record = Runs(machine.settings.data_dir).get(newer).events_path
        written = record.read_text().replace('"format":1', '"format":99', 1)
        record.write_text(written)
        machine.model.go.set()
        async with machine.open(serves=True) as workspace:
            await workspace.recovery.resume_left()
            state = await ended(workspace, run_id)
            assert await workspace.runs.start(replace(REQUEST, query="A third?")) not in {run_id, newer}
    assert (state.status, state.answer, record.read_text()) == ("completed", "9", written)
    assert f"{newer} was left by a server that has ended and cannot be resumed" in caplog.text
    assert "was written in format 99, this version reads up to 1: update rlm-mcp" in caplog.text


async def test_the_request_of_a_left_run_gets_it_also_once_it_has_ended_and_only_then_a_new_one(
    machine: Machine,
) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
        machine.model.go.set()
        async with machine.open(serves=True) as workspace:
            await workspace.recovery.resume_left()
            await ended(workspace, run_id)
            assert not await workspace.runs.is_new(REQUEST)
            assert await workspace.runs.start(REQUEST) == run_id
            assert machine.model.asked == 3
            assert await workspace.runs.is_new(REQUEST)
            assert await workspace.runs.start(REQUEST) != run_id


async def test_a_request_that_found_its_left_run_while_it_went_on_is_a_new_one_afterwards(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
        async with machine.open(serves=True) as workspace:
            await workspace.recovery.resume_left()
            assert await workspace.runs.start(REQUEST) == run_id
            machine.model.go.set()
            await ended(workspace, run_id)
            assert await workspace.runs.is_new(REQUEST)


async def test_a_killed_server_leaves_its_runs_too(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
        record = Runs(machine.settings.data_dir).get(run_id).events_path
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(line for line in lines if "run_ended" not in line and "run_left" not in line))
        assert [run.run_id for run in LocalRunQueue(Runs(machine.settings.data_dir)).left()] == [run_id]


async def test_a_left_run_that_a_client_asks_for_is_resumed(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
        machine.model.go.set()
        async with machine.open(serves=True) as workspace:
            await workspace.recovery.resume_if_left(run_id)
            assert (await ended(workspace, run_id)).answer == "9"


async def test_runs_of_the_command_line_are_not_resumed(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open() as workspace:
            run_id = await begun(workspace, machine)
        async with machine.open(serves=True) as workspace:
            await workspace.recovery.resume_left()
            await workspace.recovery.resume_if_left(run_id)
            assert (await workspace.runs.state(run_id)).status == "cancelled"


async def test_a_run_that_its_client_cancelled_stays_cancelled(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
            workspace.runs.stop(run_id)  # the record gets its end while the server ends, too
        assert LocalRunQueue(Runs(machine.settings.data_dir)).left() == []


async def test_a_cancelled_run_whose_server_dies_before_its_end_is_on_record_gets_it_from_the_next_one(
    machine: Machine,
) -> None:
    queue, asked = LocalRunQueue(Runs(machine.settings.data_dir)), 0
    with anyio.fail_after(60):
        machine.model.is_slow_to_stop = True
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
            asked = machine.model.asked
            workspace.runs.stop(run_id)
            while not queue.is_cancel_requested(run_id):  # noqa: ASYNC110 - as another process sees it
                await anyio.sleep(0.01)
            assert (await workspace.runs.state(run_id)).status == "running"
            written = (record := Runs(machine.settings.data_dir).get(run_id).events_path).read_bytes()
            machine.model.go.set()
        record.write_bytes(written)  # as if it had died then
        async with machine.open(serves=True) as workspace:
            await workspace.recovery.resume_left()
            assert workspace.runs.progress(run_id) is None
            assert (await workspace.runs.state(run_id)).status == "cancelled"
            await workspace.runs.resume(run_id)  # by a user
            assert (await ended(workspace, run_id)).answer == "9"
    assert machine.model.asked == asked + 1


async def test_a_left_run_that_was_cancelled_when_its_process_could_not_hear_it_is_ended(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
        async with machine.open(serves=True) as workspace:
            await workspace.recovery.resume_left(frozenset({run_id}))
            assert (await workspace.runs.state(run_id)).status == "cancelled"
            assert workspace.runs.progress(run_id) is None


@pytest.mark.parametrize(
    ("waiting", "is_cancelled"), [(["c1"], True), (["c1", "c2"], False), (["c1", ""], False), ([], False)]
)
async def test_a_left_run_for_which_only_calls_waited_that_were_given_up_is_cancelled_and_kept_for_the_same_question(
    machine: Machine, waiting: list[str], is_cancelled: bool
) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace, AsyncExitStack() as calls:
            run_id = await begun(workspace, machine)
            for call in waiting:
                await calls.enter_async_context(workspace.calls.waiting(run_id, call))
            await workspace.runs.stop_all()
        machine.model.go.set()
        async with machine.open(serves=True) as workspace:
            await workspace.recovery.resume_left(frozenset({"c1", "c9"}))
            assert ((await workspace.runs.state(run_id)).status == "cancelled") == is_cancelled
            assert await workspace.runs.start(REQUEST) == run_id
            assert (await ended(workspace, run_id)).answer == "9"


async def test_a_left_run_is_cancelled_without_being_resumed(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
        async with machine.open() as workspace:
            assert (await workspace.runs.cancel(run_id)).status == "cancelled"
        assert LocalRunQueue(Runs(machine.settings.data_dir)).left() == []


async def test_a_left_run_that_a_user_cancels_while_others_are_resumed_stays_cancelled(machine: Machine) -> None:
    trial = Trial()
    await trial.begin()  # as if another run were on trial
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
        for _ in range(TRIES_TOGETHER):
            async with machine.open(serves=True) as workspace:
                await workspace.recovery.resume_left()
        async with machine.open(serves=True) as workspace:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(workspace.recovery.resume_left, frozenset(), trial)
                while "1 waiting" not in repr(trial):  # noqa: ASYNC110 - it does not tell
                    await anyio.sleep(0.01)
                await workspace.runs.cancel(run_id)
                trial.end_now()
            assert (await workspace.runs.state(run_id)).status == "cancelled"


async def test_a_run_of_a_living_server_is_not_taken_from_it(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as one, machine.open(serves=True) as other:
            run_id = await begun(one, machine)
            await other.recovery.resume_left()
            await other.recovery.resume_if_left(run_id)
            assert other.runs.progress(run_id) is None
            machine.model.go.set()
            assert (await ended(one, run_id)).answer == "9"


async def test_a_run_that_never_ends_is_resumed_only_so_often(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
        for _ in range(MOST_TRIES):
            async with machine.open(serves=True) as workspace:
                await workspace.recovery.resume_left()
                assert workspace.runs.progress(run_id) is not None
        async with machine.open(serves=True) as workspace:
            await workspace.recovery.resume_left()
            assert workspace.runs.progress(run_id) is None
            assert "runs resume" in (await workspace.runs.state(run_id)).message


async def test_runs_that_were_resumed_in_vain_go_on_one_after_the_other(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_ids = [await begun(workspace, machine)]
            run_ids.append(await workspace.runs.start(replace(REQUEST, query="Another?")))
            while machine.model.asked < 4:  # noqa: ASYNC110 - both are in their second turn then
                await anyio.sleep(0.01)
        for _ in range(TRIES_TOGETHER):
            async with machine.open(serves=True) as workspace:
                await workspace.recovery.resume_left()
                assert workspace.runs.live_count == 2
        machine.model.waits = anyio.Event()
        async with machine.open(serves=True) as workspace, anyio.create_task_group() as tasks:
            tasks.start_soon(workspace.recovery.resume_left)
            await machine.model.waits.wait()
            machine.model.go.set()
            for run_id in run_ids:
                while (await workspace.runs.state(run_id)).status != "completed":  # noqa: ASYNC110 - one is not yet live
                    await anyio.sleep(0.01)
    one, other = sorted(map(Runs(machine.settings.data_dir).get, run_ids), key=resumed_at)
    assert resumed_at(other) > replied_at(one)


def resumed_at(run: Run) -> float:
    """When the run was resumed for the last time, in seconds since 1970."""
    return max(at for at, event in timed(run) if isinstance(event, RunResumed))


def replied_at(run: Run) -> float:
    """When the run got the first reply after that."""
    return min(at for at, event in timed(run) if isinstance(event, RootReply) and at >= resumed_at(run))


def timed(run: Run) -> list[tuple[float, Event]]:
    begins = datetime.fromisoformat(run.created_at).timestamp()
    return [(begins + (event.at or 0.0), event) for event in run.events()]


@pytest.mark.parametrize(("line", "is_resumed"), [("later", True), ("sub_asked", False)])
async def test_a_run_that_gets_further_is_resumed_however_often(machine: Machine, line: str, is_resumed: bool) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
        record = Runs(machine.settings.data_dir).get(run_id).events_path
        for _ in range(MOST_TRIES):
            async with machine.open(serves=True) as workspace:
                await workspace.recovery.resume_left()
                assert workspace.runs.progress(run_id) is not None
            record.write_text(record.read_text() + f'{{"event":"{line}"}}\n')
        assert [run.run_id for run in LocalRunQueue(Runs(machine.settings.data_dir)).left()] == (
            [run_id] if is_resumed else []
        )


async def test_a_call_that_waits_while_the_server_ends_is_told_that_the_run_will_be_resumed(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
            workspace.runs.announce_end()
            workspace.calls.give_up(run_id)  # what the end of the connections does
            assert workspace.runs.progress(run_id) is not None
            await workspace.runs.stop_all()
            state = await workspace.runs.state(run_id)
    assert (state.status, state.stopped_by) == ("running", None)
    assert "goes on with this run" in state.message


async def test_a_server_that_is_stopped_twice_at_once_leaves_its_runs_to_the_next_one(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(workspace.runs.stop_all)
                tasks.start_soon(workspace.runs.stop_all)
    assert [run.run_id for run in LocalRunQueue(Runs(machine.settings.data_dir)).left()] == [run_id]

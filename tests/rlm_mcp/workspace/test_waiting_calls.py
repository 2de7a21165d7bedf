"""The calls of clients that wait for runs: counted, given up by their users, and lost with their connections."""

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from rlm_mcp.records.store import Runs
from tests.rlm_mcp.machine import REQUEST, Machine, begun, ended, lost_twice, started

pytestmark = pytest.mark.anyio


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_the_request_of_a_run_that_ended_just_before_its_server_died_gets_it_once_more_and_pays_nothing(
    machine: Machine,
) -> None:
    machine.model.go.set()
    with anyio.fail_after(60):
        async with machine.open(serves=True) as dying:
            run_id = await started(dying)
            async with dying.calls.waiting(run_id):
                await ended(dying, run_id)
                async with machine.open(serves=True) as successor:  # as if the call were never answered
                    assert not await successor.runs.is_new(REQUEST)
                    assert await successor.runs.start(REQUEST) == run_id
                    async with successor.calls.waiting(run_id):
                        pass
                    assert machine.model.asked == 2
                    assert await successor.runs.is_new(REQUEST)
        async with machine.open(serves=True) as next_one:
            assert await next_one.runs.is_new(REQUEST)
            assert await next_one.runs.start(REQUEST) != run_id


async def test_the_request_of_a_run_whose_end_was_told_is_a_new_one_in_every_process(machine: Machine) -> None:
    machine.model.go.set()
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await started(workspace)
            async with workspace.calls.waiting(run_id):
                await ended(workspace, run_id)
            assert await workspace.runs.is_new(REQUEST)
        async with machine.open(serves=True) as other:
            assert await other.runs.is_new(REQUEST)


async def test_a_call_that_ends_while_another_process_goes_on_with_the_run_leaves_it_to_the_same_question(
    machine: Machine,
) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as one, machine.open(serves=True) as other:
            run_id = await begun(one, machine)
            async with one.calls.waiting(run_id):
                async with other.calls.waiting(run_id):
                    pass
                assert not await other.runs.is_new(REQUEST)
                assert await other.runs.start(REQUEST) == run_id
                await other.close()
                await anyio.wait_all_tasks_blocked()
                assert Runs(machine.settings.data_dir).get(run_id).is_awaited()


async def test_a_cancel_of_a_user_wins_over_the_end_of_the_server_also_when_it_comes_after(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(workspace.runs.stop_all)
                await anyio.lowlevel.checkpoint()
                workspace.calls.give_up(run_id, by_user=True)
            assert (await workspace.runs.state(run_id)).status == "cancelled"


async def test_a_call_that_is_given_up_stops_the_run_unless_another_call_waits(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open() as workspace:
            run_id = await begun(workspace, machine)
            async with workspace.calls.waiting(run_id):
                workspace.calls.give_up(run_id)
                assert workspace.runs.progress(run_id) is not None
            workspace.calls.give_up(run_id)
            assert (await ended(workspace, run_id)).status == "cancelled"


async def test_a_call_that_is_cancelled_while_its_answer_is_on_its_way_leaves_the_run_to_the_same_question(
    machine: Machine,
) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
            async with workspace.calls.waiting(run_id):
                machine.model.go.set()
                await ended(workspace, run_id)
            await workspace.calls.keep_for_repeat(run_id)
            assert await workspace.runs.start(REQUEST) == run_id
            assert await workspace.runs.start(REQUEST) != run_id  # which has its answer now


async def test_the_answer_to_a_client_that_was_lost_waits_for_the_same_question_also_in_the_next_server(
    machine: Machine,
) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
            async with workspace.calls.waiting(run_id):
                pass
            await workspace.calls.keep_for_repeat(run_id)
            machine.model.go.set()
            await ended(workspace, run_id)
            await workspace.close()
            await anyio.wait_all_tasks_blocked()
        async with machine.open(serves=True) as next_one:
            assert await next_one.runs.start(REQUEST) == run_id
            assert machine.model.asked == 2
            async with next_one.calls.waiting(run_id):
                pass
            assert await next_one.runs.start(REQUEST) != run_id


async def test_a_kept_answer_that_a_user_cancels_waits_for_nobody(machine: Machine) -> None:
    machine.model.go.set()
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
            await ended(workspace, run_id)
            await workspace.calls.keep_for_repeat(run_id)
            assert (await workspace.runs.cancel(run_id)).status == "completed"
            assert await workspace.runs.is_new(REQUEST)
        async with machine.open(serves=True) as next_one:
            assert await next_one.runs.is_new(REQUEST)


async def test_the_call_in_flight_of_a_repeated_question_gets_its_reply_though_the_client_is_lost_again(
    machine: Machine,
) -> None:
    with anyio.fail_after(60):
        async with machine.open() as workspace:
            run_id = await lost_twice(workspace, machine)
            machine.model.go.set()
            state = await ended(workspace, run_id)
            assert await workspace.runs.start(REQUEST) == run_id
    assert (state.status, state.answer) == ("completed", "9")
    assert machine.model.asked == 3  # the second turn twice, because the first loss might have been a cancel


async def test_a_run_that_is_held_begins_no_calls_until_somebody_waits_for_it(machine: Machine) -> None:
    machine.model.looks = 2
    with anyio.fail_after(60):
        async with machine.open() as workspace:
            run_id = await lost_twice(workspace, machine)
            machine.model.go.set()
            async for progress in workspace.runs.follow(run_id):
                if "turn 3" in str(progress):
                    break
            await anyio.wait_all_tasks_blocked()
            assert machine.model.asked == 3
            async with workspace.calls.waiting(run_id):
                assert (await ended(workspace, run_id)).answer == "9"
    assert machine.model.asked == 4


async def test_a_run_that_is_held_is_stopped_at_once_by_a_user(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open() as workspace:
            run_id = await lost_twice(workspace, machine)
            assert (await workspace.runs.cancel(run_id)).status == "cancelled"


async def test_a_client_that_leaves_stops_the_run_that_it_waits_for_and_no_other(machine: Machine) -> None:
    with anyio.fail_after(60):
        async with machine.open(serves=True) as workspace:
            run_id = await begun(workspace, machine)
            workspace.runs.stop_waited_for()
            assert workspace.runs.progress(run_id) is not None
            async with workspace.calls.waiting(run_id):
                workspace.runs.stop_waited_for()
                await workspace.runs.stop_all()  # its end, which would leave the run to the next server
            assert (await workspace.runs.state(run_id)).status == "cancelled"
        async with machine.open(serves=True) as workspace:
            await workspace.recovery.resume_left()
            assert workspace.runs.progress(run_id) is None

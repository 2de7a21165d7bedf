"""Runs that a server hands to other processes, as in a cluster."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from rlm_mcp.errors import RunNotWritten
from rlm_mcp.records.events import RunResumed, RunStarted
from rlm_mcp.records.protocols import RunRecord
from rlm_mcp.records.recovery import TRIES_TOGETHER
from rlm_mcp.records.run import Run
from rlm_mcp.records.run_queue import LocalRunQueue, TakenOver
from rlm_mcp.records.store import Runs
from rlm_mcp.workspace.backends import open_backends
from rlm_mcp.workspace.trial import Trial
from rlm_mcp.workspace.workspace import Workspace
from tests.rlm_mcp.machine import REQUEST, Machine, ended, started

pytestmark = pytest.mark.anyio


class Cluster(Machine):
    """Processes that hand runs to each other."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.waiting: dict[str, Run] = {}
        """the runs that no process has taken over yet; they live"""


class SharedQueue(LocalRunQueue):
    """The queue of one process."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(Runs(cluster.settings.data_dir))
        self._waiting = cluster.waiting
        self.is_away = False
        """whether the database of the cluster is away"""
        self.is_lost = False
        """whether a process has died with what is taken over"""
        self.position = 0
        """of the last run that was handed over"""

    def hand_over(self, run: RunRecord) -> bool:
        self.position = run.position
        run.close()
        self._waiting[run.run_id] = self._records.get(run.run_id)
        self._waiting[run.run_id].claim()
        return True

    def take_over(self, run_id: str, position: int) -> TakenOver | None:
        if (waiting := self._waiting.pop(run_id, None)) is not None:
            waiting.close()
        run = self._records.get(run_id)
        run.claim(position)
        return TakenOver(run=run, is_lost=self.is_lost)

    def take_back(self, run_id: str) -> RunRecord | None:
        return self._waiting.pop(run_id, None)

    def request_cancel(self, run_id: str) -> None:
        if self.is_away:
            raise RunNotWritten("the database is away")
        super().request_cancel(run_id)


@pytest.fixture
def machine(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@asynccontextmanager
async def process(machine: Cluster) -> AsyncIterator[tuple[Workspace, SharedQueue]]:
    """A process that serves, and shares its queue with others."""
    queue = SharedQueue(machine)
    async with (
        open_backends(machine.settings) as backends,
        machine.open(serves=True, backends=replace(backends, queue=queue)) as workspace,
    ):
        yield workspace, queue


@asynccontextmanager
async def playing(machine: Cluster, worker: Workspace, run_id: str, position: int) -> AsyncIterator[None]:
    """The worker plays the run during a block, which begins in the second turn, and is awaited to its end."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.handed_over.play, run_id, position, Trial())
        await machine.model.waits.wait()
        yield


async def test_a_task_whose_run_another_process_plays_is_stopped_there(machine: Cluster) -> None:
    with anyio.fail_after(60):
        async with process(machine) as (server, queue), process(machine) as (worker, _):
            run_id = await started(server)
            async with playing(machine, worker, run_id, queue.position):
                server.runs.stop(run_id)
            assert (await server.runs.state(run_id)).status == "cancelled"


async def test_a_run_that_no_process_has_taken_over_yet_is_cancelled_at_once(machine: Cluster) -> None:
    with anyio.fail_after(60):
        async with process(machine) as (server, _):
            run_id = await started(server)
            assert (await server.runs.cancel(run_id)).status == "cancelled"
    assert machine.model.asked == 0


async def test_a_run_that_cannot_be_cancelled_elsewhere_now_ends_no_other(
    machine: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(60):
        async with process(machine) as (server, queue), process(machine) as (worker, _):
            run_id = await started(server)
            async with playing(machine, worker, run_id, queue.position):
                queue.is_away = True
                server.calls.give_up(run_id)
                while "is not cancelled: the database is away" not in caplog.text:  # noqa: ASYNC110 - a log
                    await anyio.sleep(0.01)
                machine.model.go.set()
            assert (await server.runs.state(run_id)).answer == "9"


async def test_a_run_elsewhere_whose_client_was_lost_goes_on_with_the_same_question(machine: Cluster) -> None:
    with anyio.fail_after(60):
        async with process(machine) as (server, queue), process(machine) as (worker, _):
            run_id = await started(server)
            async with playing(machine, worker, run_id, queue.position):
                await server.calls.keep_for_repeat(run_id)
                server.calls.give_up(run_id)
                await anyio.lowlevel.checkpoint()
                assert await server.runs.start(REQUEST) == run_id  # once it is cancelled
            machine.model.go.set()
            await worker.handed_over.play(run_id, queue.position, Trial())
            assert (await server.runs.state(run_id)).answer == "9"
    assert machine.model.asked == 3  # the second turn twice


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_run_whose_process_died_before_its_first_event_counts_as_resumed(
    machine: Cluster, *, is_lost: bool
) -> None:
    machine.model.go.set()
    with anyio.fail_after(60):
        async with process(machine) as (server, queue):
            run_id = await started(server)
            queue.is_lost = is_lost
            await server.handed_over.play(run_id, queue.position, Trial())
            assert (await ended(server, run_id)).answer == "9"
        marks = Runs(machine.settings.data_dir).get(run_id).marks()
        assert [type(mark) for mark in marks[:-1]] == ([RunStarted, RunResumed] if is_lost else [RunStarted])


async def test_of_runs_with_which_processes_have_died_one_at_a_time_is_played(machine: Cluster) -> None:
    trial = Trial()
    with anyio.fail_after(60):
        await trial.begin()  # for another one
        async with process(machine) as (server, _), process(machine) as (worker, _):
            run_id = await started(server)
            record = machine.waiting[run_id]
            for _ in range(TRIES_TOGETHER):
                await anyio.to_thread.run_sync(record.append, RunResumed(served=True))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.handed_over.play, run_id, record.position, trial)
                while repr(trial) != "<Trial, taken, 1 waiting>":  # noqa: ASYNC110 - it does not tell
                    await anyio.sleep(0.01)
                assert machine.model.asked == 0
                trial.end_now()
                await machine.model.waits.wait()  # in its second turn, so that it has got further
                while repr(trial) != "<Trial, free, 0 waiting>":  # noqa: ASYNC110 - likewise
                    await anyio.sleep(0.01)
                machine.model.go.set()
            assert (await server.runs.state(run_id)).answer == "9"

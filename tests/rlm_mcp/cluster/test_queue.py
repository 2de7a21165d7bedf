"""Attempts that are handed from machine to machine: each is played once, and none is lost with a process."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")

from rlm_mcp.cluster.addresses import DatabaseAddress
from rlm_mcp.cluster.database import Cursor, Database, DatabaseUnusable
from rlm_mcp.cluster.notices import Notices
from rlm_mcp.cluster.objects import Objects
from rlm_mcp.cluster.queue import RowRunQueue, Sweep
from rlm_mcp.cluster.runs import RowRuns
from rlm_mcp.records.events import RunEnded, RunResumed, RunStarted
from rlm_mcp.records.lease import LeaseLost
from rlm_mcp.records.recovery import MOST_TRIES, is_left
from tests.peers.cluster import open_queues

pytestmark = [pytest.mark.cluster, pytest.mark.anyio]

STARTED = RunStarted(query="How many?", contexts=[], served=True)
CANCELLED = RunEnded(status="cancelled", stopped_by="cancelled", message="")

T = TypeVar("T")

Reopen = Callable[[], tuple[RowRuns, RowRunQueue]]


@pytest.fixture
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Reopen:
    return open_queues(request, tmp_path, is_beating=False)  # leases expire when a test says so


def sweep_of(runs: RowRuns) -> Sweep:
    return Sweep(runs.database, runs.objects, runs.leases.heartbeats, settling=0)


def jobs_of(runs: RowRuns, run_id: str) -> list[tuple[int, str]]:
    return [
        (position, status)
        for position, status in runs.database.rows(
            "SELECT (args->>'position')::int, status::text FROM procrastinate_jobs"
            " WHERE args->>'owner' = %s AND args->>'run_id' = %s ORDER BY id",
            (runs.owner, run_id),
        )
    ]


def let_expire(runs: RowRuns, run_id: str) -> None:
    runs.database.rows(
        "UPDATE rlm_runs SET held_until = clock_timestamp() WHERE owner = %s AND run_id = %s", (runs.owner, run_id)
    )


def test_a_run_that_was_handed_over_is_taken_over_by_one_and_lives_until_then(reopen: Reopen) -> None:
    runs, queue = reopen()
    run = runs.create(STARTED)
    assert queue.hand_over(run)
    assert (run.is_live(), run.state().status, jobs_of(runs, run.run_id)) == (True, "running", [(1, "todo")])
    with pytest.raises(LeaseLost):
        run.append(CANCELLED)
    assert reopen()[1].take_over(run.run_id, 7) is None
    taken = reopen()[1].take_over(run.run_id, 1)
    assert taken is not None
    assert reopen()[1].take_over(run.run_id, 1) is None  # its job is delivered once more
    assert not taken.is_lost
    taken.run.append(CANCELLED)
    taken.run.close()
    assert (run.is_live(), run.state().status) == (False, "cancelled")
    assert queue.left() == []


def test_a_run_that_waits_for_a_worker_is_taken_back_once(reopen: Reopen) -> None:
    runs, queue = reopen()
    run = runs.create(STARTED)
    assert queue.take_back(run.run_id) is None
    queue.hand_over(run)
    taken_back = reopen()[1].take_back(run.run_id)
    assert taken_back is not None
    assert (queue.take_back(run.run_id), queue.take_over(run.run_id, 1)) == (None, None)
    taken_back.append(CANCELLED)
    taken_back.close()
    assert (run.is_live(), run.state().status) == (False, "cancelled")


def test_the_run_of_a_process_that_died_is_handed_over_once_with_a_job_of_its_own(reopen: Reopen) -> None:
    runs, queue = reopen()
    run, user_run, other = runs.create(STARTED), runs.create(RunStarted(query="?", contexts=[])), runs.create(STARTED)
    for one in (run, user_run):
        let_expire(runs, one.run_id)
    assert run.is_live()  # it is about to be handed over
    sweep = sweep_of(runs)
    sweep.once()
    sweep.once()
    assert [jobs_of(runs, one.run_id) for one in (run, user_run, other)] == [[(1, "todo")], [], []]
    with pytest.raises(LeaseLost):
        run.write_answer("late")
    taken = queue.take_over(run.run_id, 1)
    assert taken is not None
    assert taken.is_lost
    taken.run.append(RunResumed(served=True))
    let_expire(runs, run.run_id)
    sweep.once()
    assert jobs_of(runs, run.run_id) == [(2, "todo")]


def test_an_attempt_without_a_job_gets_another_one(reopen: Reopen) -> None:
    runs, queue = reopen()
    lost, taken_by_the_dead = runs.create(STARTED), runs.create(STARTED)
    for run in (lost, taken_by_the_dead):
        queue.hand_over(run)
    runs.database.rows("DELETE FROM procrastinate_jobs WHERE args->>'run_id' = %s", (lost.run_id,))
    runs.database.rows(
        "UPDATE procrastinate_jobs SET status = 'doing' WHERE args->>'run_id' = %s", (taken_by_the_dead.run_id,)
    )
    sweep_of(runs).once()
    for run in (lost, taken_by_the_dead):
        assert jobs_of(runs, run.run_id) == [(1, "todo")]
        assert queue.take_over(run.run_id, 1) is not None


def test_an_attempt_of_a_worker_that_is_silent_gets_another_job_soon_and_is_played_once(reopen: Reopen) -> None:
    runs, queue = reopen()
    silent, alive = runs.create(STARTED), runs.create(STARTED)
    for run, seconds in ((silent, 5), (alive, -60)):
        queue.hand_over(run)
        runs.database.rows(
            "WITH one AS (INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - %s * interval '1 second')"
            " RETURNING id) UPDATE procrastinate_jobs SET status = 'doing', worker_id = one.id FROM one"
            " WHERE args->>'run_id' = %s",
            (seconds, run.run_id),
        )
    for _ in range(2):
        sweep_of(runs).once()
    assert jobs_of(runs, silent.run_id) == [(1, "doing"), (1, "todo")]
    assert jobs_of(runs, alive.run_id) == [(1, "doing")]
    assert queue.take_over(silent.run_id, 1) is not None
    assert queue.take_over(silent.run_id, 1) is None


def test_a_run_that_kills_whoever_plays_it_is_not_handed_over_for_ever(reopen: Reopen) -> None:
    runs, queue = reopen()
    run, sweep = runs.create(STARTED), sweep_of(runs)
    for position in range(1, MOST_TRIES + 1):
        let_expire(runs, run.run_id)
        sweep.once()
        taken = queue.take_over(run.run_id, position)
        assert taken is not None
        taken.run.append(RunResumed(served=True))
    let_expire(runs, run.run_id)
    sweep.once()
    assert queue.take_over(run.run_id, MOST_TRIES + 1) is None
    found = runs.get(run.run_id)
    assert (found.is_live(), found.state().status) == (False, "failed")


def test_a_run_of_a_clients_model_stays_with_the_process_of_the_client(reopen: Reopen) -> None:
    runs, queue = reopen()
    models = {"root": {"name": "client"}, "sub": {"name": "client"}}
    run = runs.create(RunStarted(query="?", contexts=[], served=True, models=models))
    let_expire(runs, run.run_id)
    sweep_of(runs).once()
    assert jobs_of(runs, run.run_id) == []
    assert queue.left() == []  # a worker could not ask the client
    assert is_left(runs.get(run.run_id))  # but the process that the client asks for it can


async def test_a_cancel_request_of_another_process_comes_at_once(reopen: Reopen) -> None:
    runs, queue = reopen()
    run = await anyio.to_thread.run_sync(runs.create, STARTED)
    with anyio.fail_after(60):
        for _ in range(3):
            await anyio.to_thread.run_sync(queue.drop_cancel_request, run.run_id)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(queue.cancel_requested, run.run_id)
                await anyio.to_thread.run_sync(reopen()[1].request_cancel, run.run_id)
    await anyio.to_thread.run_sync(run.close)


class Away(Database):
    """A database that is away until `is_back` is set."""

    def __init__(self, address: DatabaseAddress) -> None:
        super().__init__(address)
        self.is_back = threading.Event()
        self.was_asked = threading.Event()

    def run(self, work: Callable[[Cursor], T], *, patience: float = 60.0) -> T:
        if not self.is_back.is_set():
            self.was_asked.set()
            raise DatabaseUnusable("the database is away")
        return super().run(work, patience=patience)


async def test_a_run_looks_for_cancel_requests_again_when_the_database_was_away(
    reopen: Reopen, objects: Objects, tmp_path: Path
) -> None:
    runs, queue = reopen()
    run = await anyio.to_thread.run_sync(runs.create, STARTED)
    away = Away(runs.database.address)
    with anyio.fail_after(60), Notices(runs.database) as notices:
        own = RowRuns(away, objects, runs.leases.heartbeats, owner=runs.owner, directory=tmp_path)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(RowRunQueue(own, notices).cancel_requested, run.run_id)
            await anyio.to_thread.run_sync(away.was_asked.wait)
            away.is_back.set()
            away.open()
            await anyio.to_thread.run_sync(queue.request_cancel, run.run_id)
    away.close()
    await anyio.to_thread.run_sync(run.close)

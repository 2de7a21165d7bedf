"""The number of runs of a tenant, counted over the machines of a cluster by their rows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")

from rlm_mcp.cluster.limits import RowLimits
from rlm_mcp.cluster.queue import RowRunQueue
from rlm_mcp.cluster.runs import RowRuns
from rlm_mcp.records.events import RunStarted, ended_event
from rlm_mcp.records.types import Outcome
from rlm_mcp.workspace.tenant_limits import LimitReached, LocalLimits
from tests.peers.cluster import open_queues

pytestmark = [pytest.mark.cluster, pytest.mark.anyio]

STARTED = RunStarted(query="How many?", contexts=[], served=True)

OpenQueue = Callable[[], tuple[RowRuns, RowRunQueue]]


@pytest.fixture
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> OpenQueue:
    return open_queues(request, tmp_path)


async def test_runs_count_wherever_they_are_played_and_while_they_wait_and_once_each(reopen: OpenQueue) -> None:
    (runs, queue), (elsewhere, _) = reopen(), reopen()
    here, there = (RowLimits(LocalLimits(most_runs=2), one.database) for one in (runs, elsewhere))
    async with here.admit_run(runs.owner) as is_on_record:
        assert await there.runs_left(runs.owner) == 1
        first = await anyio.to_thread.run_sync(runs.create, STARTED)
        await is_on_record()
        assert await there.runs_left(runs.owner) == 1
        async with there.admit_run(runs.owner):
            second = await anyio.to_thread.run_sync(elsewhere.create, replace(STARTED, query="How few?"))
        assert (await here.runs_left(runs.owner), await here.runs_left("another")) == (0, 2)
    await anyio.to_thread.run_sync(queue.hand_over, first)
    for limits in (here, there):
        with pytest.raises(LimitReached, match="2 runs are going on: wait for one with rlm_result, or cancel one"):
            await limits.admit_run(runs.owner).__aenter__()
    second.append(ended_event(Outcome(status="completed", answer="17")))
    await second.settled()
    assert await here.runs_left(runs.owner) == 1
    await anyio.to_thread.run_sync(second.close)


async def test_a_run_that_has_a_row_and_still_a_reservation_keeps_no_other_one_from_beginning(
    reopen: OpenQueue,
) -> None:
    runs, _ = reopen()
    here = RowLimits(LocalLimits(most_runs=2), runs.database)
    async with here.admit_run(runs.owner) as is_on_record, anyio.create_task_group() as tasks:
        run = await anyio.to_thread.run_sync(runs.create, STARTED)
        assert await here.runs_left(runs.owner) == 0

        async def begin_another() -> None:
            async with here.admit_run(runs.owner):
                admitted.set()

        admitted = anyio.Event()
        tasks.start_soon(begin_another)
        await anyio.wait_all_tasks_blocked()
        await is_on_record()
        with anyio.fail_after(60):
            await admitted.wait()
    await anyio.to_thread.run_sync(run.close)

"""What every RunQueue has to do, whoever plays the attempts. A new implementation is added to QUEUES."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import pytest

from rlm_mcp.errors import RunBusy, RunNotWritten
from rlm_mcp.records.events import Event, RunEnded, RunLeft, RunResumed, RunStarted
from rlm_mcp.records.protocols import RunStore
from rlm_mcp.records.recovery import MOST_TRIES, has_ended, is_left
from rlm_mcp.records.run import Run
from rlm_mcp.records.run_queue import LocalRunQueue, RunQueue
from rlm_mcp.records.store import Runs
from tests.peers.cluster import open_queues

pytestmark = pytest.mark.anyio

OpenQueue = Callable[[], tuple[RunStore, RunQueue]]
"""Opens the records and the queue of one owner as another process would."""


def local(_: pytest.FixtureRequest, directory: Path) -> OpenQueue:
    def opened() -> tuple[RunStore, RunQueue]:
        return (records := Runs(directory)), LocalRunQueue(records)

    return opened


QUEUES: dict[str, Callable[[pytest.FixtureRequest, Path], OpenQueue]] = {"local": local, "postgres": open_queues}


@pytest.fixture(params=["local", pytest.param("postgres", marks=pytest.mark.cluster)])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> OpenQueue:
    return QUEUES[request.param](request, tmp_path)


STARTED = RunStarted(query="How many?", contexts=[], served=True)
CANCELLED = RunEnded(status="cancelled", stopped_by="cancelled", message="")


@dataclass(slots=True)
class Playing:
    """Plays attempts until `go` is set, and keeps which."""

    go: anyio.Event = field(default_factory=anyio.Event)
    begun: list[tuple[str, int]] = field(default_factory=list)
    ended: list[tuple[str, int]] = field(default_factory=list)

    async def __call__(self, run_id: str, position: int) -> None:
        self.begun.append((run_id, position))
        await self.go.wait()
        self.ended.append((run_id, position))


async def test_what_was_handed_in_is_played_at_once_and_to_its_end_also_after_the_close(reopen: OpenQueue) -> None:
    _, queue = reopen()
    playing = Playing()
    queue.submit("run-1", 10)  # before anybody serves
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.serve, playing)
            queue.submit("run-2", 20)
            await anyio.wait_all_tasks_blocked()
            assert sorted(playing.begun) == [("run-1", 10), ("run-2", 20)]
            queue.close()
            queue.close()
            await anyio.wait_all_tasks_blocked()
            assert playing.ended == []
            playing.go.set()
    assert sorted(playing.ended) == [("run-1", 10), ("run-2", 20)]


async def test_a_run_whose_process_died_is_left_for_one_other(reopen: OpenQueue) -> None:
    records, queue = reopen()
    live, cut_off, ended, left, of_a_user = [
        await anyio.to_thread.run_sync(records.create, started)
        for started in (*[STARTED] * 4, replace(STARTED, served=None))
    ]
    await anyio.to_thread.run_sync(ended.append, CANCELLED)
    await anyio.to_thread.run_sync(left.append, CANCELLED)
    await anyio.to_thread.run_sync(left.append, RunLeft())
    position = cut_off.position
    for run in (cut_off, ended, left, of_a_user):
        run.close()

    assert {run.run_id for run in queue.left()} == {cut_off.run_id, left.run_id}
    assert (has_ended(ended), has_ended(left), is_left(live)) == (True, False, False)
    assert len(queue.left(1)) == 1
    first, second = reopen()[0].get(cut_off.run_id), reopen()[0].get(cut_off.run_id)
    first.claim(position)
    with pytest.raises(RunBusy):
        second.claim(position)
    assert [run.run_id for run in queue.left()] == [left.run_id]
    await anyio.to_thread.run_sync(first.append, RunResumed(served=True))
    first.close()
    with pytest.raises(RunBusy):  # the old attempt, delivered once more after the new one has died too
        second.claim(position)
    assert {run.run_id for run in queue.left()} == {cut_off.run_id, left.run_id}
    live.close()


def test_a_run_that_kills_whoever_plays_it_is_not_left_for_ever(reopen: OpenQueue) -> None:
    records, queue = reopen()
    run = records.create(STARTED)
    run.close()
    for _ in range(MOST_TRIES):
        (left,) = queue.left()
        left.claim()
        left.append(RunResumed(served=True))
        left.close()
    assert queue.left() == []


async def test_a_player_learns_that_another_process_asks_it_to_cancel(reopen: OpenQueue) -> None:
    records, queue = reopen()
    run = await anyio.to_thread.run_sync(records.create, STARTED)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.cancel_requested, run.run_id)
            await anyio.to_thread.run_sync(reopen()[1].request_cancel, run.run_id)
        await queue.cancel_requested(run.run_id)  # again, at once
    run.close()
    assert await anyio.to_thread.run_sync(reopen()[1].is_cancel_requested, run.run_id)  # also once the player is dead
    await anyio.to_thread.run_sync(queue.drop_cancel_request, run.run_id)
    assert not await anyio.to_thread.run_sync(queue.is_cancel_requested, run.run_id)
    with anyio.move_on_after(0) as waits:
        await queue.cancel_requested(run.run_id)
    assert waits.cancelled_caught


class Unread(Run):
    """A record that must not be read."""

    def marks(self) -> list[Event]:
        raise AssertionError("it was read")


def test_a_run_that_goes_on_is_known_without_its_record(tmp_path: Path) -> None:
    run = Runs(tmp_path).create(STARTED)
    assert not is_left(Unread(run.directory))
    run.close()


def test_a_cancel_that_cannot_be_asked_for_is_a_sentence(tmp_path: Path) -> None:
    records = Runs(tmp_path)
    queue, run = LocalRunQueue(records), records.create(STARTED)
    run.close()
    shutil.rmtree(run.directory)
    with pytest.raises(
        RunNotWritten, match=rf"^the process that runs {run.run_id} cannot be asked to cancel it \(.+\):"
    ):
        queue.request_cancel(run.run_id)

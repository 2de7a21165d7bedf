"""What every Leases has to do, and what a record does under a lease that has ended. A new one is added to LEASES."""

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from rlm_mcp.errors import RunBusy
from rlm_mcp.records.events import Decided, RunEnded, RunStarted, name_of
from rlm_mcp.records.lease import EXPIRY_SECONDS, FileLeases, LeaseLost, Leases, MemoryLeases
from rlm_mcp.records.store import Runs
from tests.peers.cluster import open_runs

pytestmark = pytest.mark.anyio

OpenLeases = Callable[[], Leases]
"""Opens the leases of one owner as another process would."""


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def files(_: pytest.FixtureRequest, directory: Path) -> OpenLeases:
    for name in RUNS:
        (directory / "runs" / name).mkdir(parents=True)
    return lambda: FileLeases(directory / "runs")


def memory(_: pytest.FixtureRequest, __: Path) -> OpenLeases:
    leases = MemoryLeases(Clock())
    return lambda: leases


def postgres(request: pytest.FixtureRequest, directory: Path) -> OpenLeases:
    reopen = open_runs(request, directory)
    runs = reopen()
    for name in RUNS:
        runs.database.rows(
            "INSERT INTO rlm_runs (owner, run_id, created_at, written_at, fingerprint, portable, position, epoch)"
            " VALUES (%s, %s, '', now(), '', true, 0, 0)",
            (runs.owner, name),
        )
    return lambda: reopen().leases


RUNS = ("run-1", "run-2")
LEASES: dict[str, Callable[[pytest.FixtureRequest, Path], OpenLeases]] = {
    "files": files,
    "memory": memory,
    "postgres": postgres,
}


@pytest.fixture(params=["files", "memory", pytest.param("postgres", marks=pytest.mark.cluster)])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> OpenLeases:
    return LEASES[request.param](request, tmp_path)


def test_of_two_who_take_a_lease_one_has_it(reopen: OpenLeases) -> None:
    first, second = reopen(), reopen()
    lease = first.take("run-1")
    for other in (first, second):
        with pytest.raises(RunBusy, match="run-1 is being run by another process"):
            other.take("run-1")
    assert (lease.is_valid(), second.is_held("run-1")) == (True, True)
    second.take("run-2").release()
    lease.release()


def test_a_released_lease_is_the_next_ones_and_stays_lost_to_its_holder(reopen: OpenLeases) -> None:
    first = reopen().take("run-1")
    first.release()
    assert (first.is_valid(), reopen().is_held("run-1")) == (False, False)
    second = reopen().take("run-1")
    first.release()
    assert (first.is_valid(), second.is_valid(), reopen().is_held("run-1")) == (False, True, True)
    second.release()


def test_looking_whether_a_lease_is_held_takes_it_from_nobody(reopen: OpenLeases) -> None:
    leases = reopen()
    leases.take("run-1").release()
    assert [leases.is_held("run-1") for _ in range(3)] == [False] * 3
    lease = leases.take("run-1")
    assert [reopen().is_held("run-1") for _ in range(3)] == [True] * 3
    assert lease.is_valid()
    lease.release()


def test_a_lease_that_is_not_renewed_ends_for_its_holder_before_others_can_take_it() -> None:
    clock = Clock()
    leases = MemoryLeases(clock)
    first = leases.take("run-1")
    for _ in range(3):
        clock.now += 1.5
        first.renew()
    assert first.is_valid()
    clock.now += EXPIRY_SECONDS - 0.5
    assert (first.is_valid(), leases.is_held("run-1")) == (False, True)
    first.renew()  # too late: it does not know who has been told what
    clock.now += 0.5
    second = leases.take("run-1")
    first.renew()
    assert (first.is_valid(), second.is_valid()) == (False, True)


DECIDED = Decided(turn=1, step="again", why="output", detail="")
CANCELLED = RunEnded(status="cancelled", stopped_by="cancelled", message="")


async def test_one_whose_lease_has_expired_neither_writes_nor_may_ask_a_model(tmp_path: Path) -> None:
    clock = Clock()
    leases = MemoryLeases(clock)
    stale = await anyio.to_thread.run_sync(Runs(tmp_path, leases).create, RunStarted(query="?"))
    stale.append(DECIDED)
    await stale.settled()
    stale.require_lease()
    stale.append(DECIDED)  # queued when its process stood still
    clock.now = EXPIRY_SECONDS
    successor = Runs(tmp_path, leases).get(stale.run_id)
    await anyio.to_thread.run_sync(successor.claim, stale.path_of("events.jsonl").stat().st_size)

    with pytest.raises(LeaseLost, match=f"goes on with {stale.run_id} no longer"):
        await stale.settled()
    for act in (stale.require_lease, lambda: stale.append(CANCELLED), lambda: stale.write_answer("old")):
        with pytest.raises(LeaseLost):
            act()
    assert stale.save_checkpoint(1, b"old") is False
    await anyio.to_thread.run_sync(stale.close)
    assert successor.is_live()
    successor.append(CANCELLED)
    await successor.settled()
    assert [name_of(event) for event in successor.events()] == ["run_started", "decided", "run_ended"]
    assert (successor.answer(), successor.checkpoint()) == (None, None)
    successor.close()


async def test_whoever_closed_a_record_writes_nothing_into_that_of_the_next(tmp_path: Path) -> None:
    first = await anyio.to_thread.run_sync(Runs(tmp_path).create, RunStarted(query="?"))
    first.close()
    with pytest.raises(LeaseLost):
        first.append(DECIDED)
    second = Runs(tmp_path).get(first.run_id)
    second.claim()
    with pytest.raises(LeaseLost):
        first.append(DECIDED)
    second.close()
    assert [name_of(event) for event in first.events()] == ["run_started"]


def test_a_record_that_has_grown_since_it_was_read_is_not_claimed(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    run = runs.create(RunStarted(query="?"))
    read = run.position
    run.append(CANCELLED)
    run.close()
    late = runs.get(run.run_id)
    with pytest.raises(RunBusy, match="another process has gone on with"):
        late.claim(read)
    assert not late.is_live()
    late.claim(run.position)
    late.close()

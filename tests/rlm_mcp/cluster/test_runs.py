"""Runs in Postgres: what one who has lost a run, or a confirmation, or the database for a while, does and does not."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")

from rlm_mcp.bucket_address import BucketAddress
from rlm_mcp.cluster.addresses import parse_database
from rlm_mcp.cluster.database import Cursor, Database, DatabaseUnusable
from rlm_mcp.cluster.leases import Heartbeats
from rlm_mcp.cluster.objects import Objects
from rlm_mcp.cluster.runs import RowRuns
from rlm_mcp.cluster.schema import prepare_schema
from rlm_mcp.errors import RunBusy, RunNotWritten, RunRecordDamaged
from rlm_mcp.records.events import Decided, RunEnded, RunStarted, ended_event, name_of
from rlm_mcp.records.lease import EXPIRY_SECONDS, MARGIN_SECONDS, LeaseLost
from rlm_mcp.records.types import Outcome
from rlm_mcp.redact import Secret
from tests.peers.cluster import BUCKET, PostgresServer, access_to, open_runs, postgres_server

pytestmark = [pytest.mark.cluster, pytest.mark.anyio]

T = TypeVar("T")

STARTED = RunStarted(query="How many?", contexts=[], served=True)
DECIDED = Decided(turn=1, step="again", why="output", detail="")
CANCELLED = RunEnded(status="cancelled", stopped_by="cancelled", message="")


@dataclass
class Clock:
    """A clock that the test sets."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Doubting(Database):
    """Loses the confirmation of every commit, and does all work again."""

    def run(self, work: Callable[[Cursor], T], *, patience: float = 60.0) -> T:
        super().run(work, patience=patience)
        return super().run(work, patience=patience)


@pytest.fixture
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], RowRuns]:
    return open_runs(request, tmp_path)


def runs_on(database: Database, objects: Objects, heartbeats: Heartbeats, directory: Path) -> RowRuns:
    return RowRuns(database, objects, heartbeats, owner=directory.name, directory=directory)


def let_expire(runs: RowRuns, run_id: str) -> None:
    """As if the holder of the lease had stood still."""
    runs.database.rows(
        "UPDATE rlm_runs SET held_until = clock_timestamp() WHERE owner = %s AND run_id = %s", (runs.owner, run_id)
    )


def epochs(runs: RowRuns, run_id: str) -> list[tuple[int, int]]:
    return [
        (seq, epoch)
        for seq, epoch in runs.database.rows(
            "SELECT seq, epoch FROM rlm_events WHERE owner = %s AND run_id = %s ORDER BY seq", (runs.owner, run_id)
        )
    ]


def test_nothing_of_an_old_epoch_comes_after_the_first_event_of_the_next(reopen: Callable[[], RowRuns]) -> None:
    first, second = reopen(), reopen()
    for turn in range(10):
        stale = first.create(STARTED)
        appended = 0

        def append_until_lost() -> None:
            nonlocal appended
            with suppress(LeaseLost):
                while True:
                    stale.append(DECIDED)  # noqa: B023 - joined in the same round
                    appended += 1

        writer = threading.Thread(target=append_until_lost)
        writer.start()
        while appended < turn:
            pass
        successor = second.get(stale.run_id)
        while True:
            let_expire(second, stale.run_id)
            with suppress(RunBusy):  # the writer has renewed it by appending
                successor.claim()
                break
        successor.append(CANCELLED)
        writer.join()
        with pytest.raises(LeaseLost):
            stale.write_answer("old")
        successor.close()
        found = epochs(first, stale.run_id)
        assert [seq for seq, _ in found] == list(range(1, len(found) + 1))
        assert [epoch for _, epoch in found] == [1] * (appended + 1) + [2]
        assert second.get(stale.run_id).answer() is None


def test_what_was_done_before_its_confirmation_was_lost_is_not_done_twice(
    database: Database, objects: Objects, tmp_path: Path
) -> None:
    with Doubting(database.address) as doubting, Heartbeats(doubting, is_beating=False) as heartbeats:
        runs = runs_on(doubting, objects, heartbeats, tmp_path)
        run = runs.create(STARTED)
        run.append(DECIDED)
        run.close()
        again = runs.get(run.run_id)
        again.claim(2)
        heartbeats.beat()
        again.require_lease()
        again.write_answer("17")
        again.append(ended_event(Outcome(status="completed", answer="17")))
        again.close()
        assert [name_of(event) for event in runs.get(run.run_id).events()] == ["run_started", "decided", "run_ended"]
        assert epochs(runs, run.run_id) == [(1, 1), (2, 1), (3, 2)]
        assert runs.get(run.run_id).state().answer == "17"


async def test_one_that_stood_still_asks_no_model_and_leaves_the_run_without_an_end(
    database: Database, objects: Objects, tmp_path: Path
) -> None:
    clock = Clock()
    with Heartbeats(database, clock=clock, is_beating=False) as heartbeats:
        runs = runs_on(database, objects, heartbeats, tmp_path)
        run = await anyio.to_thread.run_sync(runs.create, STARTED)
        clock.now += EXPIRY_SECONDS - MARGIN_SECONDS - 0.1
        run.require_lease()
        clock.now += 0.1
        run.append(DECIDED)
        await run.settled()  # the database renews the lease: nobody has taken it
        run.require_lease()
        clock.now += EXPIRY_SECONDS - MARGIN_SECONDS
        with pytest.raises(LeaseLost, match=f"goes on with {run.run_id} no longer"):
            run.require_lease()
        for act in (run.require_lease, lambda: run.append(CANCELLED), lambda: run.write_answer("late")):
            with pytest.raises(LeaseLost):
                act()
        assert run.save_checkpoint(1, b"late") is False
        run.close()
        assert run.is_live()  # what it has sent may be under way until the lease expires
        let_expire(runs, run.run_id)
        assert [name_of(event) for event in run.events()] == ["run_started", "decided"]
        assert run.state().status == "running"  # for a while: a worker will take it over
        runs.database.rows("UPDATE rlm_runs SET portable = false WHERE run_id = %s", (run.run_id,))
        assert run.state().status == "failed"  # nobody else can go on with it


def test_a_lease_that_somebody_has_taken_is_over_at_the_next_heartbeat(
    database: Database, objects: Objects, tmp_path: Path
) -> None:
    with Heartbeats(database, is_beating=False) as heartbeats:
        runs = runs_on(database, objects, heartbeats, tmp_path)
        run, other = runs.create(STARTED), runs.create(STARTED)
        heartbeats.beat()
        let_expire(runs, run.run_id)
        successor = runs.get(run.run_id)
        successor.claim()
        run.require_lease()  # until it learns of it
        heartbeats.beat()
        with pytest.raises(LeaseLost):
            run.append(DECIDED)
        for one in (other, successor):
            one.require_lease()
            one.close()


async def test_a_restart_of_the_database_delays_a_run_and_loses_nothing(
    postgres: PostgresServer, objects: Objects, tmp_path: Path
) -> None:
    with (
        postgres_server(postgres.programs, is_durable=True) as server,
        Database(parse_database(Secret(server.url))) as database,
        Heartbeats(database) as heartbeats,
    ):
        prepare_schema(database)
        runs = runs_on(database, objects, heartbeats, tmp_path)
        run = await anyio.to_thread.run_sync(runs.create, STARTED)
        restarting = threading.Timer(0.3, server.start)
        for turn in range(1, 41):
            run.append(replace(DECIDED, turn=turn))
            if turn == 20:
                await anyio.to_thread.run_sync(server.stop)
                restarting.start()
            if turn % 10 == 0:
                await run.settled()
        await anyio.to_thread.run_sync(restarting.join)
        run.require_lease()
        assert [event.turn for event in runs.get(run.run_id).events()] == list(range(41))
        await anyio.to_thread.run_sync(run.close)


@pytest.fixture
def unreachable() -> Objects:
    return Objects(BucketAddress(bucket=BUCKET), access=access_to("http://127.0.0.1:1"), patience=0.2)


def test_without_the_bucket_a_checkpoint_is_left_out_and_an_answer_is_refused(
    database: Database, unreachable: Objects, tmp_path: Path
) -> None:
    with Heartbeats(database) as heartbeats:
        runs = runs_on(database, unreachable, heartbeats, tmp_path)
        run = runs.create(STARTED)
        assert run.save_checkpoint(1, b"one") is False
        with pytest.raises(
            RunNotWritten, match=rf"the answer of {run.run_id} cannot be written: the bucket of the server cannot"
        ):
            run.write_answer("17")
        with pytest.raises(RunNotWritten, match="the run goes on when rlm_result asks for it"):
            run.append(CANCELLED)  # so that its successor writes the answer
        run.close()
        assert [name_of(event) for event in run.events()] == ["run_started"]


class Failing(Database):
    """Fails at one query more after so many."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.address)
        self.queries = 0
        self.fails_at = 0

    def run(self, work: Callable[[Cursor], T], *, patience: float = 60.0) -> T:
        self.queries += 1
        if self.queries == self.fails_at:
            raise DatabaseUnusable("the database is away")
        return super().run(work, patience=patience)


class Watched(Database):
    """Knows the threads that have waited for it."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.address)
        self.threads: set[int] = set()

    def run(self, work: Callable[[Cursor], T], *, patience: float = 60.0) -> T:
        self.threads.add(threading.get_ident())
        return super().run(work, patience=patience)


async def test_no_event_makes_the_event_loop_wait_for_the_database(
    database: Database, objects: Objects, tmp_path: Path
) -> None:
    watched = await anyio.to_thread.run_sync(Watched(database).__enter__)
    with watched, Heartbeats(database) as heartbeats:
        runs = runs_on(watched, objects, heartbeats, tmp_path)
        new = await anyio.to_thread.run_sync(runs.create, STARTED)
        new.append(DECIDED)
        await anyio.to_thread.run_sync(new.close)
        again = await anyio.to_thread.run_sync(runs.get, new.run_id)
        await anyio.to_thread.run_sync(again.claim)
        again.append(DECIDED)
        await again.settled()
        await anyio.to_thread.run_sync(again.close)
        assert threading.get_ident() not in watched.threads


@pytest.mark.parametrize("attempt", [None, 1])
def test_a_lease_is_not_kept_by_one_that_could_not_take_the_run(
    database: Database, objects: Objects, tmp_path: Path, attempt: int | None
) -> None:
    with Failing(database) as failing, Heartbeats(database, is_beating=False) as heartbeats:
        runs = runs_on(failing, objects, heartbeats, tmp_path)
        run = runs.create(STARTED)
        run.close()
        if attempt is not None:
            database.rows("UPDATE rlm_runs SET attempt = 1 WHERE run_id = %s", (run.run_id,))
        other = runs.get(run.run_id)
        failing.fails_at = failing.queries + 3
        with suppress(RunNotWritten, DatabaseUnusable):
            other.claim() if attempt is None else other.claim_attempt(attempt)
            other.close()
        failing.fails_at = 0
        assert not runs.leases.is_held(run.run_id)
        assert "0 leases" in repr(heartbeats)


def test_an_answer_that_is_gone_or_changed_is_told(reopen: Callable[[], RowRuns]) -> None:
    runs = reopen()
    run = runs.create(STARTED)
    run.write_answer("17" * 200_000)
    run.append(ended_event(Outcome(status="completed", answer="17" * 200_000)))
    run.close()
    (key,) = runs.objects.keys(f"of-{runs.owner}/")
    runs.objects.put(key, b"18")
    with pytest.raises(RunRecordDamaged, match=f"{key} is not the answer that {run.run_id} recorded"):
        runs.get(run.run_id).answer()
    runs.objects.delete(key)
    with pytest.raises(RunRecordDamaged, match=f"the answer of {run.run_id} is gone: .* has no object {key}"):
        runs.get(run.run_id).answer()


def test_an_old_checkpoint_is_deleted_when_the_next_one_is_on_record(reopen: Callable[[], RowRuns]) -> None:
    runs = reopen()
    run = runs.create(STARTED)
    for turn in (1, 2, 3):
        assert run.save_checkpoint(turn, bytes([turn]))
    assert len(list(runs.objects.keys(f"of-{runs.owner}/"))) == 1
    run.close()

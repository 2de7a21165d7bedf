"""Attempts at runs that are handed from machine to machine, by Procrastinate: one job for each attempt.

Theory of operation. The row of the run is the truth: `attempt` is the position at which it was handed over, and whoever
takes it over sets that to NULL with the same statement that takes the lease. A job only says where to look. So a job
that is delivered twice, or late, finds no attempt at its position and does nothing. An attempt and its job are made in
one transaction. What is lost nevertheless is found by the sweep, which every worker does once a second:

    runs without an end, whose leases have expired        are handed over anew, under a new epoch
    attempts whose job is gone, or whose worker died      get another job

No job is ever tried again by Procrastinate itself.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import procrastinate

from rlm_mcp.cluster.database import PATIENCE_SECONDS, Cursor, Database, DatabaseUnusable, execute
from rlm_mcp.cluster.leases import Heartbeats
from rlm_mcp.cluster.notices import Notices, notify
from rlm_mcp.cluster.objects import Objects
from rlm_mcp.cluster.runs import RowRun, RowRuns
from rlm_mcp.errors import RlmError, RunBusy, RunNotWritten, StorageUnreachable
from rlm_mcp.records.lease import EXPIRY_SECONDS
from rlm_mcp.records.protocols import RunRecord
from rlm_mcp.records.recovery import MOST_AT_ONCE, WITHIN_SECONDS, is_resumable
from rlm_mcp.records.run_queue import OwnAttempts, TakenOver

QUEUE, TASK = "runs", "rlm_mcp.play"

CANCEL_POLL_SECONDS = 5.0
"""How often a run looks whether it is to be cancelled, apart from the notices that tell it."""

STALLED_SECONDS = 10.0
"""Without a heartbeat, a worker of Procrastinate is taken for dead. What it played is recovered by the leases."""

_SILENT_SECONDS = EXPIRY_SECONDS + 1.0
"""What a worker of Procrastinate without a heartbeat for this long has not yet taken over gets another job, as early as
the runs that it played. If it lives, one of the two jobs finds nothing to do."""

_SWEPT_AT_ONCE = 20

_NOWHERE = Path()
"""A sweep writes no files."""

_LEFT = (
    "NOT ended AND attempt IS NULL AND (held_until IS NULL OR held_until <= clock_timestamp())"
    " AND written_at > clock_timestamp() - %(within)s * interval '1 second'"
)
"""Runs that nobody goes on with."""

_SETTLED = " AND pg_postmaster_start_time() < clock_timestamp() - %(settling)s * interval '1 second'"
"""Not while those who live have not yet been able to renew the leases that expired when the database was away."""


class RowRunQueue(OwnAttempts):
    """The attempts of one owner. Those of runs that cannot be handed over are played by the process that has them."""

    def __init__(self, runs: RowRuns, notices: Notices) -> None:
        super().__init__()
        self._runs = runs
        self._notices = notices
        self._jobs = JobMaker()

    def __repr__(self) -> str:
        return f"<RowRunQueue of {self._runs!r}>"

    def hand_over(self, run: RunRecord) -> bool:
        """Releases the lease and makes a job, in one transaction. Raises RunNotWritten."""
        if not isinstance(run, RowRun):
            return False
        lease, position = run.lease_for_handover(), run.position

        def hand_over(cursor: Cursor) -> None:
            released = execute(
                cursor,
                "UPDATE rlm_runs SET attempt = position, holder = NULL, held_until = NULL"
                " WHERE owner = %s AND run_id = %s AND epoch = %s AND attempt IS NULL RETURNING position",
                (self._runs.owner, run.run_id, lease.epoch),
            ).fetchone()
            if released is not None:  # or it has been handed over, or others have it
                self._jobs.make(cursor, self._runs.owner, run.run_id, position)

        try:
            self._runs.database.run(hand_over)
        except DatabaseUnusable as error:
            raise RunNotWritten(f"{run.run_id} cannot be handed to a worker: {error}") from error
        lease.give_up()
        run.close()
        return True

    def take_over(self, run_id: str, position: int) -> TakenOver | None:
        """Claims a run that was handed over at this position; None if that attempt is not waiting any more."""
        run = self._runs.get(run_id)
        try:
            return TakenOver(run=run, is_lost=run.claim_attempt(position))
        except RunBusy:
            return None

    def take_back(self, run_id: str) -> RowRun | None:
        """Claims a run that waits for a worker; None if it does not."""
        query = "SELECT attempt FROM rlm_runs WHERE owner = %s AND run_id = %s AND attempt IS NOT NULL"
        rows = self._runs.database.rows(query, (self._runs.owner, run_id))
        run = self._runs.get(run_id)
        try:
            for (attempt,) in rows:
                run.claim_attempt(attempt)
                return run
        except RunBusy:
            pass  # a worker was faster
        return None

    def left(self, most: int = MOST_AT_ONCE) -> Sequence[RowRun]:
        """The runs that no process goes on with although it should, those that were written last first.

        Not those of a client's model, which wait until that client asks for them, in whichever process.
        """
        rows = self._runs.database.rows(
            f"SELECT run_id FROM rlm_runs WHERE owner = %(owner)s AND portable AND {_LEFT}"  # noqa: S608 - constants
            " ORDER BY written_at DESC",
            {"owner": self._runs.owner, "within": WITHIN_SECONDS},
        )
        found: list[RowRun] = []
        for (run_id,) in rows:
            run = self._runs.get(run_id)
            if is_resumable(run):
                found.append(run)
            if len(found) == most:
                break
        return found

    def request_cancel(self, run_id: str) -> None:
        """Notes it in the row, and tells whoever plays the run. Raises RunNotWritten."""

        def request(cursor: Cursor) -> None:
            query = "UPDATE rlm_runs SET cancel_requested = true WHERE owner = %s AND run_id = %s"
            execute(cursor, query, (self._runs.owner, run_id))
            notify(cursor, "cancel", self._runs.owner, run_id)

        try:
            self._runs.database.run(request)
        except DatabaseUnusable as error:
            raise RunNotWritten(f"the process that runs {run_id} cannot be asked to cancel it: {error}") from error

    async def cancel_requested(self, run_id: str) -> None:
        """Looks at the row at once, at each notice, and every CANCEL_POLL_SECONDS.

        While the database is away, nobody can have asked for it.
        """
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def look(told: str | None) -> None:
            if told in {None, run_id}:
                loop.call_soon_threadsafe(news.set)

        def is_requested() -> bool:
            with suppress(DatabaseUnusable):
                return self._reads_cancel_request(run_id, patience=0)
            return False

        with self._notices.listening("cancel", self._runs.owner, look):
            while not await anyio.to_thread.run_sync(is_requested):
                with anyio.move_on_after(CANCEL_POLL_SECONDS):
                    await news.wait()
                news.clear()

    def is_cancel_requested(self, run_id: str) -> bool:
        """Whether anybody has asked for that."""
        return self._reads_cancel_request(run_id, patience=PATIENCE_SECONDS)

    def _reads_cancel_request(self, run_id: str, *, patience: float) -> bool:
        query = "SELECT cancel_requested FROM rlm_runs WHERE owner = %s AND run_id = %s"
        return self._runs.database.rows(query, (self._runs.owner, run_id), patience=patience) == [(True,)]

    def drop_cancel_request(self, run_id: str) -> None:
        """Forgets an earlier request: the run goes on."""
        query = "UPDATE rlm_runs SET cancel_requested = false WHERE owner = %s AND run_id = %s"
        self._runs.database.rows(query, (self._runs.owner, run_id))


class JobMaker:
    """Makes jobs in transactions of this program."""

    def __init__(self) -> None:
        # Never opened: it gets a connection with each job.
        self._app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())

    def make(self, cursor: Cursor, owner: str, run_id: str, position: int) -> None:
        """Makes the job of an attempt, and notes it in the row."""
        task = self._app.configure_task(TASK, queue=QUEUE, connection=cursor.connection)
        job = task.defer(owner=owner, run_id=run_id, position=position)
        query = "UPDATE rlm_runs SET job = %s WHERE owner = %s AND run_id = %s"
        execute(cursor, query, (job, owner, run_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """The runs and attempts that one sweep has handed over."""

    runs: int = 0
    attempts: int = 0


class Sweep:
    """Finds what is lost when processes die, for all owners."""

    def __init__(
        self, database: Database, objects: Objects, heartbeats: Heartbeats, *, settling: float = EXPIRY_SECONDS
    ) -> None:
        """When the database has come back, nothing is handed over for `settling` seconds."""
        self._settling = settling
        self._database = database
        self._objects = objects
        self._heartbeats = heartbeats
        self._jobs = JobMaker()

    def once(self) -> Swept:
        """Hands over the runs of dead processes, and makes the jobs that are missing. Raises DatabaseUnusable."""
        rows = self._database.rows(
            f"SELECT owner, run_id, epoch FROM rlm_runs WHERE portable AND {_LEFT}{_SETTLED}"  # noqa: S608 - constants
            " ORDER BY held_until LIMIT %(most)s",
            {"within": WITHIN_SECONDS, "most": _SWEPT_AT_ONCE, "settling": self._settling},
            patience=0,
        )
        runs = sum(self._hand_over(owner, run_id, epoch) for owner, run_id, epoch in rows)
        return Swept(runs=runs, attempts=self._database.run(self._remake_jobs, patience=0))

    def _hand_over(self, owner: str, run_id: str, epoch: int) -> bool:
        runs = RowRuns(self._database, self._objects, self._heartbeats, owner=owner, directory=_NOWHERE)
        try:
            is_worth_it = is_resumable(runs.get(run_id))
        except StorageUnreachable:
            raise
        except RlmError:
            is_worth_it = False  # its record cannot be read
        key = {"owner": owner, "run_id": run_id, "epoch": epoch, "within": WITHIN_SECONDS}

        def hand_over(cursor: Cursor) -> bool:
            change = "attempt = position, epoch = epoch + 1, holder = NULL, held_until = NULL"
            found = execute(
                cursor,
                f"UPDATE rlm_runs SET {change if is_worth_it else 'portable = false'}"  # noqa: S608 - constants
                f" WHERE owner = %(owner)s AND run_id = %(run_id)s AND epoch = %(epoch)s AND {_LEFT}"
                " RETURNING position, job",
                key,
            ).fetchone()
            if found is None or not is_worth_it:
                return False
            position, job = found
            execute(cursor, "DELETE FROM procrastinate_jobs WHERE id = %s", (job,))
            self._jobs.make(cursor, owner, run_id, position)
            return True

        return self._database.run(hand_over, patience=0)

    def _remake_jobs(self, cursor: Cursor) -> int:
        """Makes the jobs of attempts that have none, or whose worker died before it took them over."""
        values = {
            "stalled": STALLED_SECONDS,
            "silent": _SILENT_SECONDS,
            "settling": self._settling,
            "most": _SWEPT_AT_ONCE,
        }
        execute(
            cursor,
            "DELETE FROM procrastinate_jobs WHERE status = 'doing' AND NOT EXISTS (SELECT FROM procrastinate_workers"
            " WHERE id = worker_id AND last_heartbeat > now() - %(stalled)s * interval '1 second')",
            values,
        )
        missing = execute(
            cursor,
            "SELECT owner, run_id, attempt FROM rlm_runs WHERE attempt IS NOT NULL AND NOT EXISTS ("
            "SELECT FROM procrastinate_jobs WHERE id = job AND (status = 'todo' OR status = 'doing' AND ("
            "pg_postmaster_start_time() >= clock_timestamp() - %(settling)s * interval '1 second'"
            " OR EXISTS (SELECT FROM procrastinate_workers"
            " WHERE id = worker_id AND last_heartbeat > now() - %(silent)s * interval '1 second'))))"
            " LIMIT %(most)s FOR UPDATE SKIP LOCKED",
            values,
        ).fetchall()
        for owner, run_id, attempt in missing:
            self._jobs.make(cursor, owner, run_id, attempt)
        return len(missing)

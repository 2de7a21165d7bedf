"""Runs in Postgres: a row for each run, and one for each event; answers and checkpoints are objects in the bucket.

    OWNER/runs/RUN/EPOCH-…              the answer, or the REPL after the last finished turn, of one writer

Theory of operation. Every write is fenced by the epoch of the writer's lease (leases.py): the statement that appends
events also increases the position in the run's row, and does so only where the row still has that epoch and position.
Whoever has lost the run changes nothing by it and is told so; one whose statement is sent again after its confirmation
was lost finds that it was done. An object is written under a key of its own before the row names it. Events that are
appended together make one statement (records/group_commit.py), which also renews the lease.

While the database is away, appended events wait in the queue of their record, and the run waits in `settled`.
"""

import builtins
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from rlm_mcp.cluster.database import PATIENCE_SECONDS, Cursor, Database, DatabaseUnusable, execute
from rlm_mcp.cluster.leases import Heartbeats, RowLease, RowLeases
from rlm_mcp.cluster.objects import BucketUnusable, ObjectMissing, Objects, owner_prefix
from rlm_mcp.errors import RunBusy, RunNotWritten, RunRecordDamaged, RunRecordTooNew, UnknownRun
from rlm_mcp.models.sampling_queue import CLIENT
from rlm_mcp.records.events import Event, RunEnded, RunStarted, answer_bytes
from rlm_mcp.records.group_commit import GroupCommit
from rlm_mcp.records.lease import EXPIRY_SECONDS, LeaseLost
from rlm_mcp.records.lines import OUTLINE, event_of, fruitless_resumes, is_enough, line_of, mark_of
from rlm_mcp.records.reading import check_format
from rlm_mcp.records.recovery import WITHIN_SECONDS, is_unanswered, model_names
from rlm_mcp.records.run import CHECKPOINT_MAX_BYTES
from rlm_mcp.records.run_states import full_run_id, read_state, unreadable_state
from rlm_mcp.records.store import RECENT_RUNS
from rlm_mcp.records.types import RunPage, RunState

_RUN_ID = re.compile(r"run-[0-9a-f]{12}")

_PAGE = 2_000
"""Events that one query reads."""

_OF_RUN = "owner = %(owner)s AND run_id = %(run_id)s"

_APPEND = f"""
WITH fenced AS (
    UPDATE rlm_runs SET position = %(end)s, written_at = clock_timestamp(), ended = coalesce(%(ended)s, ended),
        held_until = clock_timestamp() + %(expiry)s * interval '1 second'
    WHERE {_OF_RUN} AND epoch = %(epoch)s AND position = %(start)s RETURNING owner
)
INSERT INTO rlm_events (owner, run_id, seq, epoch, is_mark, line)
SELECT fenced.owner, %(run_id)s, %(start)s + new.number, %(epoch)s, new.is_mark, new.line
FROM fenced, unnest(%(marks)s::boolean[], %(lines)s::text[]) WITH ORDINALITY AS new (is_mark, line, number)
"""  # noqa: S608 - consists of constants


class RowRuns:
    """All runs of one owner."""

    def __init__(
        self, database: Database, objects: Objects, heartbeats: Heartbeats, *, owner: str, directory: Path
    ) -> None:
        """`directory` is where files that are made of records are written."""
        self.database = database
        self.objects = objects
        self.briefly = objects.briefly()
        self.owner = owner
        self.directory = directory
        self.leases = RowLeases(database, heartbeats, owner)

    def __repr__(self) -> str:
        return f"<RowRuns of {self.owner!r} in {self.database!r}>"

    def create(self, started: RunStarted) -> "RowRun":
        """A new run. Its first event is `started`, completed with its id and creation time. Raises RunNotWritten."""
        run_id = f"run-{secrets.token_hex(6)}"
        holder, asked = self.leases.new_holder(), self.leases.clock()
        try:
            created_at = self.database.now().isoformat(timespec="microseconds")
            started = replace(started, run_id=run_id, created_at=created_at)
            line = line_of(started, at=0)

            def create(cursor: Cursor) -> None:
                execute(
                    cursor,
                    "INSERT INTO rlm_runs (owner, run_id, created_at, written_at, fingerprint, portable, position,"
                    " epoch, holder, held_until) VALUES (%s, %s, %s, clock_timestamp(), %s, %s, 1, 1, %s,"
                    " clock_timestamp() + %s * interval '1 second') ON CONFLICT DO NOTHING",
                    (
                        self.owner, run_id, created_at, started.fingerprint or "", is_portable(started), holder,
                        EXPIRY_SECONDS,
                    ),
                )  # fmt: skip
                execute(
                    cursor,
                    "INSERT INTO rlm_events VALUES (%s, %s, 1, 1, true, %s) ON CONFLICT DO NOTHING",
                    (self.owner, run_id, line.decode().rstrip("\n")),
                )

            self.database.run(create)
        except DatabaseUnusable as error:
            raise RunNotWritten(f"no run can be recorded: {error}") from error
        run = RowRun(self, run_id, created_at=created_at)
        run.begin(self.leases.taken(run_id, 1, position=1, asked=asked))
        return run

    def get(self, run_id: str) -> "RowRun":
        """The run with this id, or the only one whose id begins with it; `run-` may be left out.

        Raises UnknownRun, AmbiguousRun, DatabaseUnusable.
        """
        if _RUN_ID.fullmatch(run_id):
            query = "SELECT 1 FROM rlm_runs WHERE owner = %s AND run_id = %s"
            if self.database.rows(query, (self.owner, run_id)):
                return self._run(run_id)
        return self._run(full_run_id(run_id, self._ids("SELECT run_id FROM rlm_runs WHERE owner = %s ORDER BY run_id")))

    def list(self, *, limit: int = 20, cursor: str | None = None) -> RunPage:
        """Runs, newest first. `cursor` is the `next_cursor` of the page before."""
        created_at, _, run_id = (cursor or "").rpartition("|")
        rows = self.database.rows(
            "SELECT created_at, run_id FROM rlm_runs WHERE owner = %(owner)s"
            " AND (%(cursor)s::text IS NULL OR (created_at, run_id) < (%(created_at)s, %(run_id)s))"
            " ORDER BY created_at DESC, run_id DESC LIMIT %(most)s",
            {
                "owner": self.owner,
                "cursor": cursor,
                "created_at": created_at,
                "run_id": run_id,
                "most": limit + 1,
            },
        )
        page = rows[:limit]
        return RunPage(
            runs=tuple(self._state_of(found) for _, found in page),
            next_cursor=f"{page[-1][0]}|{page[-1][1]}" if len(rows) > limit and page else None,
        )

    def _state_of(self, run_id: str) -> RunState:
        try:
            return self._run(run_id).state()
        except (RunRecordTooNew, RunRecordDamaged) as error:
            return unreadable_state(run_id, error)

    def context_ids(self) -> "set[str]":
        """The contexts of all runs on record. Raises RunRecordTooNew, RunRecordDamaged."""
        ids = self._ids("SELECT run_id FROM rlm_runs WHERE owner = %s")
        return {one for run_id in ids for one in self._run(run_id).context_ids()}

    def unanswered(self, fingerprint: str, *, except_model: str | None = None) -> "RowRun | None":
        """A run of this request that is to be found again, among those that were written last; see RunStore."""
        query = "SELECT run_id FROM rlm_runs WHERE owner = %s AND fingerprint = %s ORDER BY written_at DESC LIMIT %s"
        found = map(self._run, self._ids(query, fingerprint, RECENT_RUNS))
        return next((run for run in found if is_unanswered(run, fingerprint, except_model)), None)

    def _ids(self, query: str, *values: object) -> "builtins.list[str]":
        return [run_id for (run_id,) in self.database.rows(query, (self.owner, *values))]

    def _run(self, run_id: str) -> "RowRun":
        return RowRun(self, run_id)


class RowRun:
    """One run. Reading needs no lease; the first `append` takes it."""

    def __init__(self, runs: RowRuns, run_id: str, *, created_at: str | None = None) -> None:
        """`created_at` is read from the row unless it is known."""
        self.run_id = run_id
        self._runs = runs
        self._database = runs.database
        self._key: dict[str, Any] = {"owner": runs.owner, "run_id": run_id}
        self._lock = threading.Lock()
        """held while an event gets its time and its place in the queue"""
        self._queue: GroupCommit | None = None
        self._lease: RowLease | None = None
        """kept when it is over, so that nothing can be written that was not claimed anew"""
        self._position = 0
        self._written = 0
        self._created = None if created_at is None else datetime.fromisoformat(created_at)
        self._patience = PATIENCE_SECONDS

    def __repr__(self) -> str:
        return f"<RowRun {self.run_id} {self._lease or 'closed'}>"

    @property
    def position(self) -> int:
        """The number of events of the record of this writer, with those that are queued."""
        return self._position

    # --- writing

    def begin(self, lease: RowLease) -> None:
        """Writes under a lease that this process has just taken."""
        self._lease = lease
        self._position = self._written = lease.position
        self._patience = PATIENCE_SECONDS

    def append(self, event: Event) -> None:
        """Puts one event on record with the time of the database. Any thread may do so; on the loop see `settled`.

        Raises RunNotWritten, and RunBusy if it is the first one and another process has the lease.
        """
        with self._lock:
            if self._lease is None:
                self._take(attempt=None)
            if self._lease is None or self._lease.is_over:
                raise self._lost()
            if not self._patience:  # an end that says so would be on record when the storage is back
                raise RunNotWritten(
                    f"the record of {self.run_id} could not be written for {PATIENCE_SECONDS:.0f} s: once database and"
                    " bucket are back, the run goes on when rlm_result asks for it"
                )
            queue = self._queue = self._queue or GroupCommit(self._write)
            queue.add(line_of(event, at=(self._database.now() - self._created_time()).total_seconds()))
            self._position += 1
        queue.begin()

    async def settled(self) -> None:
        """Returns once everything appended so far is written. Raises RunNotWritten."""
        if self._queue is not None:
            await self._queue.settled()

    def _write(self, lines: list[bytes]) -> None:
        lease = self._lease
        if lease is None or lease.is_over:
            raise self._lost()
        asked = self._runs.leases.clock()
        try:
            is_written = self._database.run(partial(self._insert, lines, lease), patience=self._patience)
        except DatabaseUnusable as error:
            self._patience = 0  # whoever waits has waited long enough
            raise RunNotWritten(f"the record of {self.run_id} cannot be written: {error}") from error
        if not is_written:
            lease.give_up()
            raise self._lost()
        lease.renewed(asked)
        self._written += len(lines)
        lines.clear()

    def _insert(self, lines: Sequence[bytes], lease: RowLease, cursor: Cursor, *, start: int | None = None) -> bool:
        """Whether the lines are on record now, after `start` lines of this writer."""
        first = start is None
        start = self._written if start is None else start
        new = lines[start - self._written :]
        ends = [isinstance(mark, RunEnded) for line in new if (mark := mark_of(line)) is not None]
        values = self._key | {
            "start": start,
            "end": start + len(new),
            "epoch": lease.epoch,
            "ended": ends[-1] if ends else None,
            "expiry": EXPIRY_SECONDS,
            "marks": [mark_of(line) is not None for line in new],
            "lines": [line.decode().rstrip("\n") for line in new],
        }
        if execute(cursor, _APPEND, values).rowcount == len(new):
            return True
        found = execute(cursor, f"SELECT epoch, position FROM rlm_runs WHERE {_OF_RUN}", self._key).fetchone()  # noqa: S608 - constants
        if found is None or found[0] != lease.epoch or not first or not start <= found[1] <= start + len(new):
            return False
        # An earlier trial has written some of them, and its confirmation was lost.
        return found[1] == start + len(new) or self._insert(lines, lease, cursor, start=found[1])

    def claim(self, position: int | None = None) -> None:
        """Takes the lease. Raises RunNotWritten, and RunBusy if another has it or the record does not end there."""
        with self._lock:
            if self._lease is not None and self._lease.is_valid():
                return
            self._take(attempt=None)
            if position not in {None, self._position}:
                self._release()
                raise RunBusy(f"another process has gone on with {self.run_id} just now: wait for it with rlm_result.")

    def claim_attempt(self, position: int) -> bool:
        """Takes the lease for a queued attempt; whether somebody died who had it after the last event.

        Raises RunNotWritten, and RunBusy if it is not queued any more.
        """
        with self._lock:
            self._take(attempt=position)
            try:
                query = f"SELECT epoch FROM rlm_events WHERE {_OF_RUN} ORDER BY seq DESC LIMIT 1"  # noqa: S608 - constants
                rows = self._database.rows(query, self._key)
            except DatabaseUnusable as error:
                self._release()
                raise RunNotWritten(f"the record of {self.run_id} cannot be written: {error}") from error
            # A run that its writer hands over keeps its epoch until it is taken; a sweep increases it.
            return self._lease is not None and bool(rows) and self._lease.epoch > rows[0][0] + 1

    def require_lease(self) -> None:
        """Raises LeaseLost where another may have gone on with the run. Then this process does not any more."""
        lease = self._lease
        if lease is None or not lease.is_valid():
            if lease is not None:
                lease.give_up()
            raise self._lost()

    def close(self) -> None:
        """Writes what is queued and releases the lease. Idempotent."""
        if self._queue is not None:
            self._queue.close()
        with self._lock:
            self._queue = None
            self._release()

    def lease_for_handover(self) -> RowLease:
        """The lease, after what is queued was written; whoever asks hands the run on. Raises RunNotWritten."""
        if self._queue is not None:
            self._queue.commit_now()
        lease = self._lease
        if lease is None or lease.is_over:
            raise self._lost()
        return lease

    def _take(self, *, attempt: int | None) -> None:
        if self._queue is not None:
            self._queue.close()  # what an ended lease left in it is not written under the next one
            self._queue = None
        self._release()
        try:
            self._created_time()  # now: events are appended on the event loop, which must not wait for the database
            lease = self._runs.leases.take(self.run_id, attempt=attempt)
        except DatabaseUnusable as error:
            raise RunNotWritten(f"the record of {self.run_id} cannot be written: {error}") from error
        except (UnknownRun, RunRecordDamaged) as error:
            raise RunNotWritten(f"the record of {self.run_id} has been deleted: ask anew.") from error
        self.begin(lease)

    def _release(self) -> None:
        if self._lease is not None:
            self._lease.release()

    def _lost(self) -> LeaseLost:
        return LeaseLost(
            f"this process goes on with {self.run_id} no longer (its lease was released, or ended while it stood still"
            " or was cut off from the database): wait for the run with rlm_result"
        )

    def _created_time(self) -> datetime:
        if self._created is None:
            self._created = datetime.fromisoformat(self._row("created_at")[0])
        return self._created

    # --- reading

    def started(self) -> RunStarted | None:
        """The first event, if the record begins with it. Raises RunRecordTooNew, RunRecordDamaged."""
        with self._readable():
            first = next(self.events(until=1), None)
        return first if isinstance(first, RunStarted) else None

    def context_ids(self) -> set[str]:
        """The contexts of the run. Raises RunRecordTooNew, and RunRecordDamaged rather than leave one out."""
        started = self.started()
        with self._readable():
            if started is None:
                raise ValueError("it does not begin with the first event of a run")
            return {str(context["context_id"]) for context in started.contexts}

    def events(self, *, until: int | None = None) -> Iterator[Event]:
        """The events written so far, or the first `until` ones. Raises RunRecordTooNew."""
        return (event for event, _ in self._events_between(0, until) if event is not None)

    def events_from(self, position: int) -> Iterator[tuple[Event | None, int]]:
        """The events after a position, each with the position after it; None for lines that are no events.

        Raises RunRecordTooNew.
        """
        return self._events_between(position, None)

    def _events_between(self, position: int, until: int | None) -> Iterator[tuple[Event | None, int]]:
        for seq, line in self._lines(position, until):
            if seq == 1:
                self._check_format(line)
            yield event_of(line), seq

    def _lines(self, position: int, until: int | None = None) -> Iterator[tuple[int, bytes]]:
        while True:
            rows = self._database.rows(
                f"SELECT seq, line FROM rlm_events WHERE {_OF_RUN} AND seq > %(position)s"  # noqa: S608 - constants
                " AND (%(until)s::bigint IS NULL OR seq <= %(until)s) ORDER BY seq LIMIT %(most)s",
                self._key | {"position": position, "until": until, "most": _PAGE},
            )
            yield from ((seq, line.encode()) for seq, line in rows)
            if len(rows) < _PAGE:
                return
            position = rows[-1][0]

    def marks(self) -> list[Event]:
        """The events that begin, end, leave or resume the run."""
        return [event for line in self._mark_lines() if (event := mark_of(line)) is not None]

    def _mark_lines(self) -> list[bytes]:
        query = f"SELECT line FROM rlm_events WHERE {_OF_RUN} AND is_mark ORDER BY seq"  # noqa: S608 - constants
        return [line.encode() for (line,) in self._database.rows(query, self._key)]

    def fruitless_resumes(self) -> int:
        """How often in a row servers have resumed the run since it last got any further."""
        return fruitless_resumes(line for _, line in self._lines(0))

    def trace(self) -> str:
        """The record as JSON Lines."""
        return "".join(f"{line.decode()}\n" for _, line in self._lines(0))

    def is_torn(self) -> bool:
        """False: an event is written as a whole."""
        return False

    def state(self) -> RunState:
        """The state that the record leads to. A run with neither an end nor a writer counts as failed and resumable.

        Raises RunRecordTooNew, RunRecordDamaged.
        """
        with self._readable():
            return read_state(self.run_id, self.is_live, self._state_events, self.answer)

    def _state_events(self) -> Iterator[Event]:
        """The events that its state is computed from: if the run itself recorded its end, only the outline."""
        rows = self._database.rows(
            f"SELECT seq, line FROM rlm_events WHERE {_OF_RUN} AND (seq = 1 OR EXISTS ("  # noqa: S608 - constants
            "SELECT FROM unnest(%(outline)s::text[]) AS one (start) WHERE starts_with(line, one.start))) ORDER BY seq",
            self._key | {"outline": [start.decode() for start in OUTLINE]},
        )
        if rows and rows[0][0] == 1:
            self._check_format(rows[0][1].encode())
        outline = [event for _, line in rows if (event := event_of(line.encode())) is not None]
        return iter(outline) if is_enough(outline) else self.events()

    def _check_format(self, line: bytes) -> None:
        first: object = None
        with suppress(ValueError, RecursionError):
            first = json.loads(line)
        check_format(self.run_id, first)

    def is_live(self) -> bool:
        """Whether any process, this one included, has the lease, or the run is queued for one."""
        return (self._lease is not None and self._lease.is_valid()) or self._runs.leases.is_held(self.run_id)

    def _row(self, *columns: str) -> tuple[Any, ...]:
        """Columns of the run's row. Raises RunRecordDamaged if it has been deleted."""
        rows = self._database.rows(f"SELECT {', '.join(columns)} FROM rlm_runs WHERE {_OF_RUN}", self._key)  # noqa: S608 - constants
        if not rows:
            raise RunRecordDamaged(f"the record of {self.run_id} has been deleted: ask anew.")
        return rows[0]

    def _update(self, assignment: str, values: dict[str, Any]) -> bool:
        """Changes the row, if this writer has the run; False if another has taken it."""
        if self._lease is None:
            with self._lock:
                self._take(attempt=None)
        lease = self._lease
        if lease is None or lease.is_over:
            return False
        query = f"UPDATE rlm_runs SET {assignment} WHERE {_OF_RUN} AND epoch = %(epoch)s RETURNING run_id"  # noqa: S608 - constants
        return bool(self._database.rows(query, self._key | values | {"epoch": lease.epoch}))

    # --- answers and checkpoints

    def write_answer(self, answer: object) -> None:
        """Stores the answer byte-exact: text as UTF-8 (lone surrogates kept), anything else as JSON.

        Raises RunNotWritten.
        """
        name, data = answer_bytes(answer)
        key = self._object(name)
        try:
            self._runs.objects.put(key, data)
            is_written = self._update("answer = %(key)s", {"key": key})
        except (BucketUnusable, DatabaseUnusable) as error:
            self._patience = 0  # so that the run is left without an end, and its successor writes the answer
            raise RunNotWritten(f"the answer of {self.run_id} cannot be written: {error}") from error
        if not is_written:
            raise self._lost()

    def answer(self) -> Any:
        """The stored answer, or None. Raises RunRecordDamaged, also if it is another than the run recorded."""
        (key,) = self._row("answer")
        if key is None:
            return None
        try:
            stored = self._runs.objects.get(key)
        except ObjectMissing as error:
            raise RunRecordDamaged(f"the answer of {self.run_id} is gone: {error}, or ask again") from error
        last = next(reversed(self.marks()), None)
        if isinstance(last, RunEnded) and last.answer_sha256 not in (None, hashlib.sha256(stored).hexdigest()):
            raise RunRecordDamaged(
                f"the object {key} is not the answer that {self.run_id} recorded: restore it from a backup, or ask anew"
            )
        with self._readable():
            return stored.decode("utf-8", "surrogatepass") if key.endswith(".txt") else json.loads(stored)

    def save_checkpoint(self, turn: int, data: bytes) -> bool:
        """Replaces the REPL checkpoint by that of `turn`. False if it is too big or cannot be written now."""
        lease = self._lease
        if len(data) > CHECKPOINT_MAX_BYTES or lease is None or not lease.is_valid():
            return False
        key = self._object("checkpoint.bin")
        try:
            (before,) = self._row("checkpoint")
            self._runs.briefly.put(key, data)
            is_kept = self._update("checkpoint = %(key)s, checkpoint_turn = %(turn)s", {"key": key, "turn": turn})
            unused = before if is_kept else key
            if unused is not None:
                self._runs.briefly.delete(unused)
        except (BucketUnusable, DatabaseUnusable):
            return False
        return is_kept

    def checkpoint(self) -> tuple[int, bytes] | None:
        """The turn after which the newest checkpoint was made, and its bytes.

        None where the bucket does not have it: the code of the turns is run again instead.
        """
        turn, key = self._row("checkpoint_turn", "checkpoint")
        if key is None:
            return None
        try:
            return int(turn), self._runs.objects.get(key)
        except (ObjectMissing, BucketUnusable):
            return None

    def _object(self, name: str) -> str:
        """A key that is written once."""
        epoch = 0 if self._lease is None else self._lease.epoch
        return f"{owner_prefix(self._runs.owner)}/runs/{self.run_id}/{epoch}-{secrets.token_hex(4)}-{name}"

    # --- whether a call waits

    def note_waiting(self, call: str = "") -> None:
        """Notes that a call waits for the end of the run."""
        with suppress(DatabaseUnusable):  # a question that is asked again is a new one
            self._note_awaited("clock_timestamp()", "array_append(waiting_calls, %(call)s)", call)

    def note_told(self) -> None:
        """Notes that no call waits any more."""
        self._note_awaited("NULL", "'{}'")

    def _note_awaited(self, at: str, calls: str, call: str = "") -> None:
        self._database.rows(
            f"UPDATE rlm_runs SET awaited_at = {at}, waiting_calls = {calls} WHERE {_OF_RUN}",  # noqa: S608 - constants
            self._key | {"call": call},
        )

    def waiting_calls(self) -> frozenset[str]:
        """The ids of the calls that were noted as waiting."""
        (calls,) = self._row("waiting_calls")
        return frozenset(calls)

    def is_awaited(self) -> bool:
        """Whether a call waits, or did when its process died, within WITHIN_SECONDS."""
        return bool(
            self._database.rows(
                f"SELECT 1 FROM rlm_runs WHERE {_OF_RUN}"  # noqa: S608 - constants
                " AND awaited_at > clock_timestamp() - %(within)s * interval '1 second'",
                self._key | {"within": WITHIN_SECONDS},
            )
        )

    def path_of(self, name: str) -> Path:
        """A file of this machine, in a directory of the run."""
        directory = self._runs.directory / self.run_id
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return directory / name

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Raises RunRecordDamaged for values that no run writes."""
        try:
            yield
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
            raise RunRecordDamaged(
                f"the record of {self.run_id} is damaged ({error}): restore the database from a backup, or ask anew."
            ) from error


def is_portable(started: RunStarted) -> bool:
    """Whether any machine of a cluster may go on with a run: it needs neither a client's model nor its functions."""
    return bool(started.served) and CLIENT not in model_names(started) and not started.functions

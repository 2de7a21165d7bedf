"""Leases of runs in Postgres: rows that expire by the clock of the database, and the heartbeats that renew them.

Theory of operation. Whoever takes a lease increases `epoch` of the run's row, the fencing token: what its predecessor
still tries to write does not find its epoch any more, and is not written. So a lease protects records by its epoch, not
by the time. Requests to models cannot be fenced like this. They need a lease that is *valid*: one that was renewed so
recently, by the monotonic clock of this machine, that nobody else can have it. A node that stood still, or was cut off
from the database, finds its leases invalid, and sends nothing.

    expires      EXPIRY_SECONDS after it was renewed, by the clock of the database: others may take it
    ends         MARGIN_SECONDS earlier, by the clock of this machine, counted from before it was renewed
    heartbeat    every HEARTBEAT_SECONDS, one statement for all leases of runs of a process

A lease that has ended becomes valid again when it is renewed before anybody took it.
"""

import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Self

from rlm_mcp.cluster.database import Cursor, Database, DatabaseUnusable, execute
from rlm_mcp.concurrency import background_thread
from rlm_mcp.errors import RunBusy, UnknownRun
from rlm_mcp.records.lease import EXPIRY_SECONDS, MARGIN_SECONDS

HEARTBEAT_SECONDS = 1.0

SWEEPING_SECONDS = 120.0
"""A run counts as one that goes on for this long after its lease expired, or the database came back: a worker will take
it over."""

_RELEASING_SECONDS = 2.0
"""How long a lease is tried to be released; otherwise it expires."""


def seconds_awake_or_not() -> float:
    """A clock that also counts the time in which the machine was suspended, where the system has one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class RowLease:
    """A lease that this process has, or had."""

    def __init__(
        self, heartbeats: "Heartbeats", owner: str, run_id: str, epoch: int, *, position: int, asked: float
    ) -> None:
        """`position` is that of the record; `asked` is when it was asked for, by the clock of the heartbeats."""
        self.owner = owner
        self.run_id = run_id
        self.epoch = epoch
        self.position = position
        self._heartbeats = heartbeats
        self._ends = asked + EXPIRY_SECONDS - MARGIN_SECONDS
        self._is_over = False

    def __repr__(self) -> str:
        return f"<RowLease {self.run_id}, epoch {self.epoch}{', over' if self._is_over else ''}>"

    @property
    def is_over(self) -> bool:
        """Whether it was released or given up here, or somebody else has taken it."""
        return self._is_over

    def is_valid(self) -> bool:
        """Whether it was renewed so recently that nobody else can have it."""
        return not self._is_over and self._heartbeats.clock() < self._ends

    def renewed(self, asked: float) -> None:
        """Notes that the database has renewed it, as it was asked to at this time."""
        self._ends = max(self._ends, asked + EXPIRY_SECONDS - MARGIN_SECONDS)

    def give_up(self) -> None:
        """Renews it no more. It expires, so that nothing that is under way meets its successor before."""
        self._is_over = True
        self._heartbeats.forget(self)

    def release(self) -> None:
        """Lets others take it at once. Idempotent."""
        if not self._is_over:
            self.give_up()
            self._heartbeats.release(self)


class Heartbeats:
    """The leases of runs of one process, renewed by a thread of its own over a connection of its own."""

    def __init__(
        self,
        database: Database,
        *,
        node: str | None = None,
        clock: Callable[[], float] = seconds_awake_or_not,
        is_beating: bool = True,
        renewals: Sequence[Callable[[Database], object]] = (),
    ) -> None:
        """Without `is_beating`, leases are renewed only by `beat`. `renewals` renew those of other things."""
        self.database = database
        self.node = node or f"{socket.gethostname()}-{secrets.token_hex(3)}"
        self.clock = clock
        self._leases: set[RowLease] = set()
        self._lock = threading.Lock()
        self._thread = background_thread("heartbeats", self._keep_beating) if is_beating else nullcontext()
        self._renewals = renewals

    def __repr__(self) -> str:
        return f"<Heartbeats of {self.node}, {len(self._leases)} leases>"

    def __enter__(self) -> Self:
        self._thread.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.__exit__(kind, error, at)

    def add(self, lease: RowLease) -> None:
        """Renews a lease from now on."""
        with self._lock:
            self._leases.add(lease)

    def forget(self, lease: RowLease) -> None:
        """Renews it no more."""
        with self._lock:
            self._leases.discard(lease)

    def beat(self) -> None:
        """Renews all leases once; those that others have taken are over. Raises DatabaseUnusable."""
        self._renew_runs()
        for renew in self._renewals:
            renew(self.database)

    def _renew_runs(self) -> None:
        with self._lock:
            leases = list(self._leases)
        if not leases:
            return
        asked = self.clock()
        rows = self.database.rows(
            "UPDATE rlm_runs SET held_until = clock_timestamp() + %s * interval '1 second'"
            " FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS mine (owner, run_id, epoch)"
            " WHERE rlm_runs.owner = mine.owner AND rlm_runs.run_id = mine.run_id AND rlm_runs.epoch = mine.epoch"
            " AND holder IS NOT NULL RETURNING rlm_runs.owner, rlm_runs.run_id, rlm_runs.epoch",
            (
                EXPIRY_SECONDS,
                [lease.owner for lease in leases],
                [lease.run_id for lease in leases],
                [lease.epoch for lease in leases],
            ),
            patience=0,
        )
        kept = set(rows)
        for lease in leases:
            if (lease.owner, lease.run_id, lease.epoch) in kept:
                lease.renewed(asked)
            else:
                lease.give_up()

    def release(self, lease: RowLease) -> None:
        """Lets others take a lease, unless one has it already."""
        try:
            self.database.rows(
                "UPDATE rlm_runs SET holder = NULL, held_until = NULL WHERE owner = %s AND run_id = %s AND epoch = %s",
                (lease.owner, lease.run_id, lease.epoch),
                patience=_RELEASING_SECONDS,
            )
        except DatabaseUnusable:
            return  # it expires

    def _keep_beating(self, ending: threading.Event) -> None:
        while not ending.wait(HEARTBEAT_SECONDS):
            try:
                self.beat()
            except DatabaseUnusable:
                continue  # the leases end for their holders until it is back


class RowLeases:
    """The leases of the runs of one owner."""

    def __init__(self, database: Database, heartbeats: Heartbeats, owner: str) -> None:
        self._database = database
        self.heartbeats = heartbeats
        self._owner = owner

    def __repr__(self) -> str:
        return f"<RowLeases of {self._owner!r}>"

    def take(self, run_id: str, *, attempt: int | None = None) -> RowLease:
        """Takes the lease of a run that nobody has; of a queued run only with the position of its attempt.

        Raises RunBusy, UnknownRun, DatabaseUnusable.
        """
        holder = self.new_holder()
        asked = self.heartbeats.clock()

        def take(cursor: Cursor) -> tuple[int, str, int] | None:
            found = execute(
                cursor,
                "UPDATE rlm_runs SET epoch = epoch + 1, holder = %s, attempt = NULL,"
                " held_until = clock_timestamp() + %s * interval '1 second'"
                " WHERE owner = %s AND run_id = %s AND (held_until IS NULL OR held_until <= clock_timestamp())"
                " AND attempt IS NOT DISTINCT FROM %s RETURNING epoch, holder, position",
                (holder, EXPIRY_SECONDS, self._owner, run_id, attempt),
            ).fetchone()
            # Or an earlier trial has got it, and its confirmation was lost.
            return (
                found
                or execute(
                    cursor,
                    "SELECT epoch, holder, position FROM rlm_runs WHERE owner = %s AND run_id = %s",
                    (self._owner, run_id),
                ).fetchone()
            )

        found = self._database.run(take)
        if found is None:
            raise UnknownRun(f"there is no run {run_id!r} in the database: list them with `rlm-mcp runs list`")
        epoch, held_by, position = found
        if held_by != holder:
            raise RunBusy(f"{run_id} is being run by another process: wait for it, or cancel it there")
        return self.taken(run_id, epoch, position=position, asked=asked)

    def taken(self, run_id: str, epoch: int, *, position: int, asked: float) -> RowLease:
        """The lease that this process has just taken, renewed from now on."""
        lease = RowLease(self.heartbeats, self._owner, run_id, epoch, position=position, asked=asked)
        self.heartbeats.add(lease)
        return lease

    def new_holder(self) -> str:
        """A name for whoever takes a lease, used once."""
        return f"{self.heartbeats.node}/{secrets.token_hex(4)}"

    def clock(self) -> float:
        """The clock by which leases end for their holders."""
        return self.heartbeats.clock()

    def is_held(self, run_id: str) -> bool:
        """Whether anybody has the lease or is about to: the run waits in the queue or for a sweep (queue.py)."""
        found = self._database.rows(
            "SELECT attempt IS NOT NULL OR coalesce(held_until > clock_timestamp(), false)"
            " OR (portable AND NOT ended AND held_until IS NOT NULL AND greatest(held_until,"
            " pg_postmaster_start_time()) > clock_timestamp() - %s * interval '1 second')"
            " FROM rlm_runs WHERE owner = %s AND run_id = %s",
            (SWEEPING_SECONDS, self._owner, run_id),
        )
        return found == [(True,)]

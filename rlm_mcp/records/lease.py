"""The lease of a run: the right to go on with it, which one holder has at a time.

Theory of operation. Whoever begins a run or goes on with one takes its lease before the first event and releases it
after the last. Without a valid lease nothing is put on record and no model is asked, so that a process that stood still
while another took its run over neither writes into the record of its successor nor pays for what that one asks again.

On one machine a lease is a lock on the file of the record, which the system releases when the holder's process ends and
nobody can take from a living one. Leases that are kept elsewhere expire unless they are renewed; they have to end for
their holder before others can take them. `tests/rlm_mcp/records/test_leases.py` is what every implementation has to
pass.
"""

import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Protocol

from rlm_mcp.errors import RunBusy, RunNotWritten
from rlm_mcp.files import try_lock

_LOCK_TRIES = 10

EXPIRY_SECONDS, MARGIN_SECONDS = 3.0, 1.0
"""Time after its renewal at which others may take a lease in memory, and how much earlier it ends for its holder, so
that the holder has sent before whatever it has begun to send."""


class LeaseLost(RunNotWritten):
    """Another process may have gone on with a run, so that this one writes and sends nothing for it any more."""


class Lease(Protocol):
    """The right of one holder to go on with a run."""

    def is_valid(self) -> bool:
        """Whether nobody else can have the run. Costs nothing: it is asked before each event and each request."""

    def release(self) -> None:
        """Lets others take it. Idempotent."""


class Leases(Protocol):
    """The leases of the runs of one owner. Both methods may do I/O, are called on worker threads, and raise OSError."""

    def take(self, run_id: str) -> Lease:
        """Takes the lease of a run. Raises RunBusy while another holder has it."""

    def is_held(self, run_id: str) -> bool:
        """Whether anybody, in this process or another, has it."""


# --- on one machine


class FileLeases:
    """Leases that are locks on the records in a directory. Many processes may share it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __repr__(self) -> str:
        return f"<FileLeases {self._directory}>"

    def take(self, run_id: str) -> Lease:
        """Locks the file of the record, which is made if it does not exist."""
        file = FileIO(self._directory / run_id / "events.jsonl", "a+")
        if not _locked(file):
            file.close()
            raise _busy(run_id)
        return _FileLease(file)

    def is_held(self, run_id: str) -> bool:
        """Whether the file of the record is locked."""
        with (self._directory / run_id / "events.jsonl").open("rb") as file:
            return not try_lock(file.fileno(), shared=True)


class _FileLease:
    def __init__(self, file: FileIO) -> None:
        self._file = file

    def is_valid(self) -> bool:
        return not self._file.closed

    def release(self) -> None:
        self._file.close()


def _locked(file: FileIO) -> bool:
    """Locks a file unless another process has done it. Callers of `is_held` hold a lock for microseconds."""
    for _ in range(_LOCK_TRIES):
        if try_lock(file.fileno()):
            return True
        time.sleep(0.005)
    return False


# --- in memory


class MemoryLeases:
    """Leases in memory that expire, as those of several machines do; for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._holders: dict[str, MemoryLease] = {}

    def __repr__(self) -> str:
        return f"<MemoryLeases of {len(self._holders)} runs>"

    def take(self, run_id: str) -> "MemoryLease":
        """Takes a lease that nobody has, or that has expired."""
        if self.is_held(run_id):
            raise _busy(run_id)
        lease = self._holders[run_id] = MemoryLease(self._clock)
        return lease

    def is_held(self, run_id: str) -> bool:
        """Whether somebody has taken or renewed it EXPIRY_SECONDS ago at most."""
        holder = self._holders.get(run_id)
        return holder is not None and holder.ends > self._clock()


class MemoryLease:
    """A lease that its holder has to renew."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.ends = clock() + EXPIRY_SECONDS
        """by the clock; from then on others may take it"""

    def is_valid(self) -> bool:
        """Whether it was renewed in time."""
        return self._clock() < self.ends - MARGIN_SECONDS

    def renew(self) -> None:
        """Holds it longer, unless it has ended."""
        if self.is_valid():
            self.ends = self._clock() + EXPIRY_SECONDS

    def release(self) -> None:
        """Lets others take it."""
        self.ends = self._clock()


def _busy(run_id: str) -> RunBusy:
    return RunBusy(f"{run_id} is being run by another process: wait for it, or cancel it there")

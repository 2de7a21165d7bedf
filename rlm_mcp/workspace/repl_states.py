"""The variables of the REPLs of `inspect_context`, kept so that they survive eviction, a restart and a killed process.

    repls/lock                         held while the files below are compared or replaced
    repls/<context_id>.lease           who has the REPL of the context, and how many cells have begun in it
    repls/<context_id>.<image>.state   the variables after one of these cells

Theory of operation. Whoever opens a REPL takes its state, and with it a new lease: what an earlier taker saves from
then on is refused, and before its next cell it sees that it has to take the state again. So a process that stood still
never replaces a newer state, and processes that share a directory see one REPL. A cell is counted before it begins, and
a state says how many cells it holds, so that a successor can say what is missing after a process was killed.

A state belongs to an image of the sandbox: those of other images are left alone, and go when room is needed. Nothing
is synced: after a power cut the variables may be gone, which is then told.
"""

import errno
import os
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from rlm_mcp.errors import RlmError
from rlm_mcp.files import replacing, try_lock

MOST_BYTES = 512 << 20
"""All states of one owner; the oldest go first."""

MOST_STATE_BYTES = 64 << 20
"""One state. Packing and writing a larger one would take seconds after every cell."""

_MAGIC = b"RLMR1\n"
_HEADER = struct.Struct("<6sQI")
"""The magic bytes, the number of cells, and the CRC-32 of the rest."""

_LEASE = struct.Struct("<6s16sQ")
"""The magic bytes, the lease, and the number of cells that have begun."""

_LOCK_SECONDS = 5.0
"""The lock is held for microseconds, or while the oldest of many states are deleted."""


class StateNotKept(RlmError):
    """The variables of a REPL cannot be kept; the text is the reason."""


class StorageAway(StateNotKept):
    """They cannot be kept now, and later perhaps."""


class _ReplTaken(Exception):
    """Another has taken the REPL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenState:
    """A REPL that was taken: the lease to save with, and the variables as they were after `cells` cells.

    `begun` is the number of cells that have begun before. Without `data`, `lost` says why, unless there was no cell.
    With `is_usual`, that variables come back is not worth a note: they move to whichever server is asked.
    """

    lease: str
    begun: int = 0
    data: bytes | None = None
    cells: int = 0
    lost: str = ""
    is_usual: bool = False


ReplNews = Literal["wanted", "free", "dropped"]
"""Another process waits for a REPL, it can be taken now, or it was forgotten."""


class ReplStates(Protocol):
    """Where the states of one owner are kept. Every method may block, and raises StateNotKept.

    `tests/rlm_mcp/workspace/test_repl_states.py` is what every implementation has to pass.
    """

    def take(self, context_id: str, image: str) -> TakenState | None:
        """Gives the state of a context's REPL to the caller, who alone may save it from now on.

        None while a process that can be reached uses the REPL: it is told to let the REPL go. The caller tries again.
        """

    def count_cell(self, context_id: str, lease: str, begun: int) -> bool:
        """Notes that so many cells have begun, before one does; False if another has taken the REPL."""

    def is_held(self, context_id: str, lease: str) -> bool:
        """Whether nobody has taken or dropped the REPL since this lease was given."""

    def save(self, context_id: str, lease: str, image: str, cells: int, data: bytes) -> bool:
        """Replaces the state by that after `cells` cells; False, and no change, if another has taken the REPL."""

    def delete_replaced(self) -> None:
        """Deletes what the saved states have replaced, where that takes time that `save` does not take.

        What cannot be deleted now is left to the next call. Raises nothing.
        """

    def release(self, context_id: str, lease: str) -> None:
        """Lets others take the REPL at once, also if not all is saved. The lease stays valid until one does."""

    def listening(self, context_id: str, hear: Callable[[ReplNews], None]) -> AbstractContextManager[None]:
        """Calls `hear` on the event loop of the caller with what becomes known during a block. News may be lost."""

    def drop(self, context_id: str) -> None:
        """Forgets the REPL of a context: its next taker begins anew."""

    def context_ids(self) -> set[str]:
        """The contexts of whose REPLs anything is kept."""


# --- in memory


class MemoryReplStates:
    """States in memory, for tests."""

    def __init__(self, *, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._leases: dict[str, tuple[str, int]] = {}
        self._states: dict[tuple[str, str], tuple[int, bytes]] = {}

    def __repr__(self) -> str:
        return f"<MemoryReplStates {len(self._states)} states>"

    def take(self, context_id: str, image: str) -> TakenState:
        """Gives the state to the caller."""
        lease, begun = secrets.token_hex(8), self._leases.get(context_id, ("", 0))[1]
        self._leases[context_id] = lease, begun
        cells, data = self._states.get((context_id, image), (0, None))
        others = any(named == context_id for named, _ in self._states)
        return _taken(lease, begun, cells=cells, data=data, lost=FOREIGN if others else NOT_SAVED)

    def count_cell(self, context_id: str, lease: str, begun: int) -> bool:
        """Notes the number of cells of the holder of the lease."""
        if self._leases.get(context_id, ("", 0))[0] != lease:
            return False
        self._leases[context_id] = lease, begun
        return True

    def is_held(self, context_id: str, lease: str) -> bool:
        """Whether the lease is still valid."""
        return self._leases.get(context_id, ("", 0))[0] == lease

    def save(self, context_id: str, lease: str, image: str, cells: int, data: bytes) -> bool:
        """Replaces the state."""
        check_size(data)
        if self._leases.get(context_id, ("", 0))[0] != lease:
            return False
        self._states.pop((context_id, image), None)
        self._states[context_id, image] = cells, data
        while sum(len(kept) for _, kept in self._states.values()) > self._most_bytes:
            del self._states[next(iter(self._states))]
        return True

    def delete_replaced(self) -> None:
        """Nothing: `save` has done it."""

    def release(self, context_id: str, lease: str) -> None:
        """Nothing: a REPL is taken at once."""

    def listening(self, *_: object, **__: object) -> AbstractContextManager[None]:
        """There is no news: nobody waits."""
        return nullcontext()

    def drop(self, context_id: str) -> None:
        """Forgets the REPL."""
        self._leases.pop(context_id, None)
        for key in [key for key in self._states if key[0] == context_id]:
            del self._states[key]

    def context_ids(self) -> set[str]:
        """The contexts that have a lease."""
        return set(self._leases)


# --- in files


class FileReplStates:
    """States in a directory, which is made when the first REPL is taken. Many threads and processes may share it."""

    def __init__(self, directory: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self._directory = directory
        self._most_bytes = most_bytes

    def __repr__(self) -> str:
        return f"<FileReplStates {self._directory}>"

    def take(self, context_id: str, image: str) -> TakenState:
        """Gives the state to the caller. One that is damaged is as good as none."""
        lease = secrets.token_hex(8)
        with self._written(), self._locked():
            self._delete_parts(context_id)
            cells, data, lost = self._read_state(context_id, image)
            begun = max(self._read_lease(context_id)[1], cells)
            self._write_lease(context_id, lease, begun)
        return _taken(lease, begun, cells=cells, data=data, lost=lost)

    def count_cell(self, context_id: str, lease: str, begun: int) -> bool:
        """Notes the number of cells of the holder of the lease."""
        with self._written(), self._locked():
            if self._read_lease(context_id)[0] != lease:
                return False
            self._write_lease(context_id, lease, begun)
        return True

    def is_held(self, context_id: str, lease: str) -> bool:
        """Whether the lease is still valid."""
        with self._written():
            return self._read_lease(context_id)[0] == lease

    def save(self, context_id: str, lease: str, image: str, cells: int, data: bytes) -> bool:
        """Replaces the state atomically, then deletes the oldest states that exceed the bound."""
        check_size(data)
        path = self._state_path(context_id, image)
        try:
            # The lock is held from the comparison until the file has its name, not while it is written.
            with self._written(), ExitStack() as held:
                with replacing(path, part=self._part_path(context_id, lease), mode=0o600) as file:
                    file.write(_HEADER.pack(_MAGIC, cells, zlib.crc32(data)))
                    file.write(data)
                    held.enter_context(self._locked())
                    self._require_lease(context_id, lease)
                self._delete_oldest()
        except _ReplTaken:
            return False
        return True

    def delete_replaced(self) -> None:
        """Nothing: `save` has done it."""

    def release(self, context_id: str, lease: str) -> None:
        """Nothing: a REPL is taken at once."""

    def listening(self, *_: object, **__: object) -> AbstractContextManager[None]:
        """There is no news: nobody waits."""
        return nullcontext()

    def drop(self, context_id: str) -> None:
        """Forgets the REPL."""
        if not self._directory.is_dir():
            return
        with self._written(), self._locked():
            self._lease_path(context_id).unlink(missing_ok=True)  # whoever saves after that is refused
            for path in self._directory.glob(f"{context_id}.*.state"):
                path.unlink(missing_ok=True)
            self._delete_parts(context_id)

    def context_ids(self) -> set[str]:
        """The contexts that have a lease or a state."""
        with self._written():
            paths = [*self._directory.glob("*.lease"), *self._directory.glob("*.state")]
            return {path.name.split(".")[0] for path in paths}

    # --- leases

    def _lease_path(self, context_id: str) -> Path:
        return self._directory / f"{context_id}.lease"

    def _read_lease(self, context_id: str) -> tuple[str, int]:
        """The holder, and the number of cells that have begun."""
        try:
            magic, holder, begun = _LEASE.unpack(self._lease_path(context_id).read_bytes())
        except (FileNotFoundError, struct.error):
            return "", 0
        return (holder.decode("ascii", "replace"), begun) if magic == _MAGIC else ("", 0)

    def _require_lease(self, context_id: str, lease: str) -> None:
        if self._read_lease(context_id)[0] != lease:
            raise _ReplTaken

    def _write_lease(self, context_id: str, lease: str, begun: int) -> None:
        """In place: a few bytes are written whole, or not at all where the disk has no space for a new file."""
        path = self._lease_path(context_id)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, _LEASE.pack(_MAGIC, lease.encode(), begun))
        except OSError:
            if not os.fstat(descriptor).st_size:
                path.unlink()
            raise
        finally:
            os.close(descriptor)

    # --- states

    def _state_path(self, context_id: str, image: str) -> Path:
        return self._directory / f"{context_id}.{image}.state"

    def _part_path(self, context_id: str, lease: str) -> Path:
        return self._directory / f".{context_id}.{lease}.part"

    def _delete_parts(self, context_id: str) -> None:
        """Deletes what a process that was killed, or has lost the REPL, was writing."""
        for path in self._directory.glob(f".{context_id}.*.part"):
            path.unlink(missing_ok=True)

    def _read_state(self, context_id: str, image: str) -> tuple[int, bytes | None, str]:
        """The number of cells and the data of a state, or why there is none."""
        try:
            content = self._state_path(context_id, image).read_bytes()
        except FileNotFoundError:
            others = any(self._directory.glob(f"{context_id}.*.state"))
            return 0, None, FOREIGN if others else NOT_SAVED
        data = content[_HEADER.size :]
        if len(content) < _HEADER.size:
            return 0, None, DAMAGED
        magic, cells, checksum = _HEADER.unpack(content[: _HEADER.size])
        return (cells, data, "") if magic == _MAGIC and checksum == zlib.crc32(data) else (0, None, DAMAGED)

    def _delete_oldest(self) -> None:
        found = [(path.stat(), path) for path in self._directory.glob("*.state")]
        size = sum(status.st_size for status, _ in found)
        for status, path in sorted(found, key=lambda pair: pair[0].st_mtime_ns):
            if size <= self._most_bytes:
                return
            path.unlink(missing_ok=True)
            size -= status.st_size

    # --- the lock, and errors

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            ends = time.monotonic() + _LOCK_SECONDS
            while not try_lock(descriptor):
                if time.monotonic() > ends:
                    raise TimeoutError(errno.ETIMEDOUT, f"another process has locked {self._directory}")
                time.sleep(0.002)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StateNotKept(f"{error.strerror or error}") from error


NOT_SAVED = "they were not saved before the server ended"
FOREIGN = "another version of the sandbox saved them"
DAMAGED = "their saved state is damaged or of another version"


def _taken(lease: str, begun: int, *, cells: int, data: bytes | None, lost: str) -> TakenState:
    return TakenState(
        lease=lease, begun=begun, data=data, cells=cells, lost="" if data is not None or not begun else lost
    )


def check_size(data: bytes) -> None:
    """Raises StateNotKept if a state is too large."""
    if len(data) > MOST_STATE_BYTES:
        raise StateNotKept(f"they take {len(data) >> 20} MiB, and {MOST_STATE_BYTES >> 20} are kept")

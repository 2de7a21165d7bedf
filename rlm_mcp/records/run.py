"""One run on disk: a directory with its record in `events.jsonl`.

    runs/<run_id>/events.jsonl      one JSON object a line, appended as things happen; the first has the format version
    runs/<run_id>/answer.txt|json   the answer, byte-exact, replaced atomically
    runs/<run_id>/checkpoint.bin    the REPL after the last finished turn, replaced atomically
    runs/<run_id>/cancel            asks the process that runs it to cancel it (run_queue.py)
    runs/<run_id>/awaited           calls that wait for its end, or did when its process died, one id a line

Durability: on the event loop `append` queues an event, which is written within moments, together with others; once
`settled` has returned it is with the operating system, so a killed process loses nothing that was waited for. In other
threads `append` itself waits. The first event, the ends of runs and the answer are also synced to the disk; a power cut
may take the events in between, and readers accept a torn last line. Everything else about a run (its state, what
`resume` and `replay` need) is computed from the events. They hold no path of this machine: contexts are named by id,
name and size. `at` in an event is wall-clock seconds since the run was created, pauses before a resume included. An
event about something that takes time (a reply, a block) is written when that ends and has its duration in `seconds`.

A live run has its lease (lease.py), here a lock on its events file. A run whose record has no end and whose lease
nobody holds was cut off.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Any

from rlm_mcp.errors import RunBusy, RunNotWritten, RunRecordDamaged
from rlm_mcp.files import replacing
from rlm_mcp.records.events import Event, RunEnded, RunStarted, answer_bytes
from rlm_mcp.records.group_commit import GroupCommit
from rlm_mcp.records.lease import FileLeases, Lease, LeaseLost, Leases
from rlm_mcp.records.lines import OUTLINE, SYNCED, fruitless_resumes, is_enough, line_of, mark_of
from rlm_mcp.records.reading import read_events, read_lines
from rlm_mcp.records.recovery import WITHIN_SECONDS
from rlm_mcp.records.run_states import read_state
from rlm_mcp.records.types import RunState

CHECKPOINT_MAX_BYTES = 64 << 20
"""Above this, storing a checkpoint costs more than running the code of the turns again."""


class Run:
    """The files of one run. Reading needs no lease; the first `append`, or `writable=True`, takes it."""

    def __init__(self, directory: Path, *, writable: bool = False, leases: Leases | None = None) -> None:
        self.run_id = directory.name
        self.directory = directory
        self._events = directory / "events.jsonl"
        self._lock = threading.Lock()
        """held while an event gets its time and its place in the queue, never while one is written"""
        self._queue: GroupCommit | None = None
        """of a writer; it refers back to the run, so that only `close` lets both go at once"""
        self._leases = leases or FileLeases(directory.parent)
        self._lease: Lease | None = None
        """kept when it is not valid any more, so that nothing can be written that was not claimed anew"""
        self._file: FileIO | None = None
        self._position = 0
        self._is_unsynced = False
        self._created: float | None = None
        if writable:
            self.claim()

    def __repr__(self) -> str:
        return f"<Run {self.run_id} {'open' if self._file else 'closed'}>"

    @property
    def created_at(self) -> str:
        """When the run was created, ISO 8601 in UTC."""
        started = self.started()
        return started.created_at if started else ""

    def started(self) -> RunStarted | None:
        """The first event, if the record begins with it. Raises RunRecordTooNew, RunRecordDamaged."""
        with self._readable():
            first = next(self.events(), None)
        return first if isinstance(first, RunStarted) else None

    def context_ids(self) -> set[str]:
        """The contexts of the run. Raises RunRecordTooNew, and RunRecordDamaged rather than leave one out."""
        started = self.started()
        with self._readable():
            if started is None and any(self.events()):
                raise ValueError("it does not begin with the first event of a run")
            return {str(context["context_id"]) for context in (started.contexts if started else ())}

    @property
    def events_path(self) -> Path:
        """The file of the record."""
        return self._events

    @property
    def position(self) -> int:
        """Where the record of this writer ends, in bytes, with what is queued."""
        return self._position

    def append(self, event: Event) -> None:
        """Puts one event on record with the current time. Safe from any thread; on the event loop see `settled`.

        Raises RunNotWritten, and RunBusy if it is the first one and another process has the lease. Part of the event
        may then be in the file: it is completed by the next event that can be written; otherwise readers skip it, and
        the next writer removes it.
        """
        with self._lock, self._written():
            self._take_first_lease()
            self.require_lease()
            queue = self._queue = self._queue or GroupCommit(self._write)
            line = line_of(event, at=time.time() - self._created_time(event))
            queue.add(line)
            self._position += len(line)
        queue.begin()

    async def settled(self) -> None:
        """Returns once everything appended so far is written. Raises RunNotWritten."""
        if self._queue is not None:
            await self._queue.settled()

    def _write(self, lines: list[bytes]) -> None:
        """Writes lines and takes out what is written."""
        self._is_unsynced |= any(line.startswith(SYNCED) for line in lines)
        data, written = b"".join(lines), 0
        with self._written():
            self.require_lease()
            file = self._open()
            try:
                while written < len(data):
                    written += file.write(data[written:])
            finally:
                lines[:] = [data[written:]]
            if self._is_unsynced:
                os.fsync(file.fileno())
                self._is_unsynced = False

    def _created_time(self, event: Event) -> float:
        """When the run was created, in seconds since 1970. `event` tells it while the record is still empty."""
        if self._created is None:
            created_at = self.created_at or (event.created_at if isinstance(event, RunStarted) else "")
            with self._readable():
                self._created = datetime.fromisoformat(created_at).timestamp() if created_at else time.time()
        return self._created

    def events(self, *, until: int | None = None) -> Iterator[Event]:
        """The events written so far, or those in the first `until` bytes. Raises RunRecordTooNew."""
        return read_events(self._events, until=until)

    def events_from(self, position: int) -> Iterator[tuple[Event | None, int]]:
        """The events after a position, each with the position after it; None for lines that are no events.

        Raises RunRecordTooNew.
        """
        return read_lines(self._events, position)

    def marks(self) -> list[Event]:
        """The events that begin, end, leave or resume the run; nothing else in its record is parsed."""
        return list(_marks(self._events))

    def fruitless_resumes(self) -> int:
        """How often in a row servers have resumed the run since it last got any further."""
        with self._events.open("rb") as file:
            return fruitless_resumes(file)

    def trace(self) -> str:
        """The record as it stands on disk. Raises RunRecordDamaged where it is not UTF-8."""
        with self._readable():
            return self._events.read_text(encoding="utf-8")

    def is_torn(self) -> bool:
        """Whether the record ends in the middle of a line."""
        with self._events.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            return file.read(1) != b"\n"

    def note_waiting(self, call: str = "") -> None:
        """Notes that a call waits for the end of the run."""
        with suppress(OSError), self.path_of("awaited").open("a", encoding="ascii") as calls:
            calls.write(f"{call}\n")  # on a full disk a question that is asked again is a new one

    def waiting_calls(self) -> frozenset[str]:
        """The ids of the calls that were noted as waiting."""
        with suppress(OSError):
            return frozenset(self.path_of("awaited").read_text("ascii", "replace").splitlines())
        return frozenset()

    def note_told(self) -> None:
        """Notes that no call waits any more."""
        self.path_of("awaited").unlink(missing_ok=True)

    def is_awaited(self) -> bool:
        """Whether a call waits, or did when its process died, within WITHIN_SECONDS."""
        with suppress(OSError):
            return time.time() - self.path_of("awaited").stat().st_mtime < WITHIN_SECONDS
        return False

    def path_of(self, name: str) -> Path:
        """A file beside the record."""
        return self.directory / name

    def claim(self, position: int | None = None) -> None:
        """Takes the lease. Raises RunNotWritten, and RunBusy if another has it or the record does not end there."""
        with self._lock, self._written():
            self._take_lease()
            if position not in {None, self._position}:
                self._release()
                raise RunBusy(f"another process has gone on with {self.run_id} just now: wait for it with rlm_result.")

    def require_lease(self) -> None:
        """Raises LeaseLost where this is not, or not any more, who goes on with the run."""
        if self._lease is None or not self._lease.is_valid():
            raise LeaseLost(
                f"this process goes on with {self.run_id} no longer (its lease was released, or ended while it stood"
                " still): wait for the run with rlm_result"
            )

    def close(self) -> None:
        """Writes what is queued and releases the lease. Idempotent."""
        if self._queue is not None:
            self._queue.close()
        with self._lock:
            self._queue = None
            self._release()

    def write_answer(self, answer: object) -> None:
        """Stores the answer byte-exact: text as UTF-8 (lone surrogates kept), anything else as JSON.

        Raises RunNotWritten.
        """
        name, data = answer_bytes(answer)
        with self._written():
            self._take_first_lease()
            self.require_lease()
            _replace(self.directory / name, data)

    def answer(self) -> Any:
        """The stored answer, or None. Raises RunRecordDamaged, also if it is another than the run recorded."""
        with self._readable():
            for path in (self.directory / "answer.txt", self.directory / "answer.json"):
                if path.is_file():
                    stored = path.read_bytes()
                    self._check_answer(path, stored)
                    return stored.decode("utf-8", "surrogatepass") if path.suffix == ".txt" else json.loads(stored)
        return None

    def _check_answer(self, path: Path, stored: bytes) -> None:
        """Compares an answer that is kept only in its own file with the digest in the record."""
        last = next(reversed(self.marks()), None)
        if isinstance(last, RunEnded) and last.answer_sha256 not in (None, hashlib.sha256(stored).hexdigest()):
            raise RunRecordDamaged(
                f"{path} is not the answer that {self.run_id} recorded: restore the file from a backup, or ask again"
            )

    def save_checkpoint(self, turn: int, data: bytes) -> bool:
        """Replaces the REPL checkpoint by that of `turn`. False if it is too big or cannot be written."""
        if len(data) > CHECKPOINT_MAX_BYTES or self._lease is None or not self._lease.is_valid():
            return False
        # Not synced: after a power cut, the code of the turns is run again instead.
        try:
            _replace(self.directory / "checkpoint.bin", turn.to_bytes(8, "little") + data, sync=False)
        except OSError:
            return False
        return True

    def checkpoint(self) -> tuple[int, bytes] | None:
        """The turn after which the newest checkpoint was made, and its bytes."""
        file = self.directory / "checkpoint.bin"
        if not file.is_file():
            return None
        data = file.read_bytes()
        return (int.from_bytes(data[:8], "little"), data[8:]) if len(data) > 8 else None

    def state(self) -> RunState:
        """The state that the record leads to. A run with neither an end nor a writer counts as failed and resumable.

        Raises RunRecordTooNew, RunRecordDamaged.
        """
        with self._readable():
            return read_state(self.run_id, self.is_live, self._state_events, self.answer)

    def _state_events(self) -> Iterator[Event]:
        """The events that its state is computed from: if the run itself recorded its end, only the outline."""
        outline = list(read_events(self._events, only=OUTLINE))
        return iter(outline) if is_enough(outline) else self.events()

    def is_live(self) -> bool:
        """Whether any process, this one included, has the lease."""
        return (self._lease is not None and self._lease.is_valid()) or self._leases.is_held(self.run_id)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Raises RunRecordDamaged for a file that cannot be read, or that holds other values than a run writes."""
        try:
            yield
        except OSError as error:
            raise RunRecordDamaged(
                f"the record of {self.run_id} cannot be read ({reason_of(error)}): check the permissions of"
                f" {self.directory} and the disk"
            ) from error
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
            raise RunRecordDamaged(
                f"the record of {self.run_id} is damaged ({error}): restore {self.directory} from a backup, or"
                " delete it"
            ) from error

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunNotWritten(
                f"the record of {self.run_id} cannot be written ({reason_of(error)}): free some space on the disk, then"
                f" continue the run with `rlm-mcp runs resume {self.run_id}`"
            ) from error

    def _take_first_lease(self) -> None:
        """A record that was never claimed is claimed by what is written first."""
        if self._lease is None:
            self._take_lease()

    def _take_lease(self) -> None:
        if self._lease is not None and self._lease.is_valid():
            return
        if self._queue is not None:
            self._queue.close()  # what an ended lease left in it is not written under the next one
            self._queue = None
        self._release()
        self._lease = self._leases.take(self.run_id)
        try:
            self._open()
        except OSError:
            self._release()
            raise

    def _open(self) -> FileIO:
        if self._file is None:
            file = FileIO(self._events, "a+")
            _drop_torn_line(file)
            self._position = file.seek(0, os.SEEK_END)
            self._file = file
        return self._file

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lease is not None:
            self._lease.release()


def _marks(path: Path) -> Iterator[Event]:
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n") and (event := mark_of(line)) is not None:
                yield event


def _replace(path: Path, data: bytes, *, sync: bool = True) -> None:
    with replacing(path, sync=sync) as file:
        file.write(data)


def reason_of(error: BaseException) -> str:
    """The operating system's words for an error, or its first cause."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if error.__cause__ is None else reason_of(error.__cause__)


def _drop_torn_line(file: FileIO) -> None:
    """Removes a half-written last line, so that the next event starts on a line of its own."""
    size = file.seek(0, os.SEEK_END)
    position = size
    while position > 0:
        start = max(0, position - 65536)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            if start + newline + 1 < size:
                file.truncate(start + newline + 1)
            return
        position = start
    if size:
        file.truncate(0)

"""A session: one guest that runs cells, survives being stopped, and can be saved and copied.

Theory of operation.

    NEW ── first cell ──> READY ── exec ──> RUNNING ── ends, raises, is interrupted ──> READY
                            │                  └── traps ──> POISONED ── undo ──> READY
                            └── close, from any state ──> CLOSED

The state is saved before each cell: the pages written since the image, the mutable globals, a mark in the file system.
A cell that ends by itself, by an exception or by KeyboardInterrupt leaves a sound interpreter and keeps all it did. A
trap stops C code at an arbitrary point, so the cell is undone: pages, globals and files return to the saved state, and
the session has the variables it had before.

Traps are: the loop check (a cell that did not react to its interrupt), stack overflow in C code, `os._exit` and
`abort`, and damage that the guest did to itself. `exec` during another cell raises; a session never queues.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Literal, Self

import wasmtime

from wasm_runtime.budget import SessionMemory
from wasm_runtime.capture import Capture
from wasm_runtime.channel import CallLog, CallWatcher, Channel, ItemSource
from wasm_runtime.deadlines import ExpiredBy
from wasm_runtime.distributed import DistributedCopies, Distribution, ItemSupply, RemoteCopies
from wasm_runtime.errors import GuestCallError, OutOfMemoryBudget, RuntimeFailure, SessionBusy, SessionClosed
from wasm_runtime.foresight import CellForesight, Foresight, Rehearsal
from wasm_runtime.guest_machine import FileSource, GuestMachine, SavedMachine
from wasm_runtime.imports.guest import REAL, Surroundings
from wasm_runtime.limits import LARGEST_MEMORY, Limits
from wasm_runtime.linking import active_guest
from wasm_runtime.machine.memory import INTERRUPT_ADDRESS, KILL_ADDRESS, BadPointer, MemoryRuns
from wasm_runtime.parallel import WORKERS_AT_MOST, ParallelCopies
from wasm_runtime.results import TEXT_CHARS, ExecResult, StopReason, describe_error
from wasm_runtime.shared import Shared
from wasm_runtime.snapshot import Checkpoint, Template
from wasm_runtime.vfs.devices import NullDevice

logger = logging.getLogger("wasm_runtime")

SessionState = Literal["NEW", "READY", "RUNNING", "POISONED", "CLOSED"]

# How long `close` waits for a running cell: longer than its grace period, and than the host needs to undo a cell.
CLOSE_SECONDS = 5.0

# A larger guest is not copied only to save time: making three times its memory would take longer than many an answer.
_REHEARSED_BYTES = 128 << 20

# What a clock says does not depend on answers, but on how long they take: one of two copies sees it run ahead, so that
# they differ in what they make of it. The date stays the same.
_HURRY_NS = 61_357_000_000

# The guest's buffer for output that was not flushed: a length, then the bytes (guest/host/streams.py).
_PENDING_HEADER = 4
_PENDING_AT_MOST = 1 << 14


class Session:
    """One guest. Make it with `Runtime.session`, use it from one thread at a time, close it."""

    def __init__(
        self,
        shared: Shared,
        *,
        limits: Limits,
        files: Mapping[str, FileSource],
        calls: Mapping[str, Callable[..., object]],
        owner: str | None = None,
        foresight: Foresight | None = None,
        distribution: Distribution | None = None,
        surroundings: Surroundings = REAL,
        copy_of: GuestMachine | None = None,
        since: SavedMachine | None = None,
    ) -> None:
        """`copy_of` gives its files, as they were at `since`, to the new session's machine; `_fork` copies the rest."""
        self._shared, self.limits, self._files, self._calls = shared, limits, files, calls
        self.owner = owner
        self._surroundings = surroundings
        self._state: SessionState = "NEW"
        self._turn = threading.Lock()
        self._is_closing = False
        self._stdout, self._stderr = Capture(limits.output_bytes), Capture(limits.output_bytes)
        # A copy has none: the cell that waits for it may not have given its own back yet.
        self._deadline = shared.deadlines.deadline(self, None if copy_of is not None else shared.places(owner))
        image = shared.image
        # The packages of an image do not count, so that equal limits leave a session equally much.
        memory_bytes = min(limits.memory_bytes + image.package_bytes, LARGEST_MEMORY)
        self._memory = SessionMemory(memory_bytes, image.memory_bytes, shared.budget, owner)
        self._channel = Channel(
            calls,
            partial(shared.call_threads, owner),
            waiting=self._deadline.paused,
            on_interrupted=self._clear_stops,
            fork=self._work_in_copies,
            memory=self._memory,
            seconds_left=self._deadline.seconds_left,
        )
        self._machine = GuestMachine(
            shared,
            quota=self._memory,
            memory_bytes=memory_bytes,
            files=files,
            functions=list(calls),
            devices={
                "/dev/stdin": NullDevice(),
                "/dev/stdout": self._stdout,
                "/dev/stderr": self._stderr,
                "/dev/host": self._channel,
            },
            surroundings=surroundings,
            copy_of=copy_of,
            since=since,
        )
        self._foresight: CellForesight | None = None
        if foresight is not None:
            self._foresight = CellForesight(
                foresight, partial(shared.copy_threads, owner), self._rehearsing_copies, self._memory
            )
        self._distribution = distribution
        self._served: list[dict[str, object]] = []
        self._since: SavedMachine | None = None
        self._is_copying_allowed = True
        self._execs = 0
        self._cell_names = itertools.count(1)
        shared.add_session(self)

    # running code

    def exec(self, code: str, *, seconds: float | None = None, prepare: str | None = None) -> ExecResult:
        """Run a block of Python in the session's namespace; an exception that it raises is in the result.

        `seconds` replaces `limits.cell_seconds`. `prepare` is a `module:function` of the guest that is called with the
        code first, in the cell's time. The text that it returns is run instead, and if the cell is undone, so is what
        `prepare` did.
        Raises SessionBusy, SessionClosed.
        """
        with self._running():
            self._execs += 1
            seconds = self.limits.cell_seconds if seconds is None else seconds
            with self._undoable() as saved, self._foreseen(saved):
                if prepare is None:
                    return self._exec(code, seconds, seconds, saved)
                prepared = self._prepare(prepare, code, seconds, saved)
                # An interrupt of the preparation leaves no time for the cell.
                reason = self._deadline.expired or "deadline"
                return self._exec(prepared, seconds, self.seconds_left, saved, reason)

    def call(self, function: str, *args: object, seconds: float | None = None) -> object:
        """Call `module:function` in the guest with JSON values; -> its JSON value.

        Raises GuestCallError if the function raised or was stopped.
        """
        with self._running():
            request: dict[str, object] = {"kind": "call", "function": function, "args": list(args)}
            return self._ask(request, self.limits.cell_seconds if seconds is None else seconds)

    def install(self, module: str, source: str) -> None:
        """Make a guest module from text. Cells can import it by its name; it is not in their namespace."""
        with self._running():
            self._ask({"kind": "install", "module": module, "source": source}, self.limits.cell_seconds)

    def interrupt(self) -> None:
        """Stop the running cell, if any: by KeyboardInterrupt, then by a trap and undo. Safe from any thread."""
        self._deadline.expire()

    # sessions as values

    def checkpoint(self) -> Checkpoint:
        """Return the session's state: what differs from the template or the image that it began with."""
        with self._running():
            return self._machine.checkpoint(self._execs)

    def restore(self, saved: Checkpoint) -> None:
        """Put the session into a saved state. Raises SnapshotMismatch, OutOfMemoryBudget."""
        saved.require_image(self._shared.image.sha256)
        with self._running():
            self._machine.restore(saved)
            self._channel.cancel_all()
            self._execs = saved.execs

    def start_from(self, template: Template) -> None:
        """Put a new session into the state of a template. Raises SnapshotMismatch, OutOfMemoryBudget."""
        with self._running():
            self._machine.start_from(template)
            self._execs = template.state.execs

    def fork(self) -> "Session":
        """Return an independent copy with the same limits, files and calls; the caller closes it."""
        with self._running():
            return self._fork(self._machine.written())

    def reset(self) -> None:
        """Undo everything that cells did: variables, files, patches. Mounted files and the template stay."""
        with self._running():
            self._channel.cancel_all()
            self._machine.reset()
            if self._machine.template is not None:
                self._execs = self._machine.template.state.execs

    def close(self, *, wait_seconds: float = CLOSE_SECONDS) -> None:
        """End the session and release its memory; a cell that runs on another thread is stopped first.

        A cell that cannot end, because a host function that it has called does not return, is waited for at most
        `wait_seconds`: the session is then released when that cell ends.
        """
        self._is_closing = True
        ends = time.monotonic() + wait_seconds
        while not self._turn.acquire(timeout=0.05):
            self.interrupt()
            if time.monotonic() >= ends:
                logger.warning("%r is closed while a host function has not returned", self)
                return
        try:
            self._release()
        finally:
            self._turn.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        size = "" if self._state == "CLOSED" else f", {self._machine.memory.size >> 20} MiB"
        return f"<Session {self._state}, {self._execs} execs{size}>"

    def work_for(self, supply: ItemSupply, *, readers: frozenset[str], workers: int, seconds: float) -> None:
        """Work on items of a `parallel_map` whose guest waits elsewhere: this session has been restored from that.

        Up to `workers` copies work at the same time, each for at most `seconds`, until `supply` ends or the rest is
        better done at the home of the map (see distributed). Other host functions than `readers` are not called.
        """
        with self._running():
            written = self._machine.written()
            copies = RemoteCopies(lambda: self._fork(written), readers=readers, seconds=seconds, memory=self._memory)
            copies.work_for(supply, self._shared.copy_threads(self.owner), workers)

    # called by the deadline thread

    def interrupt_guest(self) -> None:
        """Raise KeyboardInterrupt in the guest at its next poll, and end the wait it may be in."""
        memory = self._machine.memory
        memory.poke(INTERRUPT_ADDRESS, 1)
        memory.poke(self._shared.image.signal_handling, 1)
        self._channel.interrupt()

    def trap_guest(self) -> None:
        """Trap the guest at its next loop head."""
        self._machine.memory.poke(KILL_ADDRESS, 1)

    # called by `ParallelCopies`, for a copy made inside a host call

    def work_on_items(self, items: ItemSource, seconds: float) -> StopReason | None:
        """Run the guest's `worker` until there are no more items; -> what stopped it before that."""
        self._channel.items = items
        with self._running(), self._deadline.running(seconds), active_guest(self._machine.guest):
            interpreter = self._machine.interpreter
            try:
                # The original released its thread state around the host call; the copy acquires it again.
                gil = interpreter.call("PyGILState_Ensure")
                interpreter.call("PyObject_CallNoArgs", self._shared.image.worker)
                interpreter.call("PyGILState_Release", gil)
            except wasmtime.Trap as trap:
                return self._stop_reason(trap)
        return None

    # called by `CellForesight`, for a copy in the state in which the running cell started

    def rehearse(self, rehearsal: Rehearsal, function: str | None, seconds: float) -> None:
        """Run the cell once more; `rehearsal` answers its calls."""
        self._channel.watcher, self._is_copying_allowed = rehearsal, False
        requests = list(self._served)
        if rehearsal.guesses_otherwise:
            self._machine.guest.hurry_ns = _HURRY_NS
        if function is not None:
            requests.insert(0, {"kind": "call", "function": function, "args": []})
        with self._running(), self._deadline.running(seconds), active_guest(self._machine.guest):
            self._clear_stops()
            for request in requests:
                if rehearsal.is_stopped:
                    return
                self._channel.set_request(request)
                try:
                    self._machine.interpreter.call("PyObject_CallNoArgs", self._shared.image.serve)
                except wasmtime.Trap:
                    return

    def hold(self, n: int) -> bool:
        """Reserve memory of the host for this copy, which returns it when it is closed."""
        return self._memory.reserve(n)

    def watch_calls(self, watcher: CallWatcher) -> None:
        """Have the watcher of a copy hear of its host calls."""
        self._channel.watcher = watcher

    def abandon(self) -> None:
        """End the work of a copy at the guest's next loop head."""
        self._channel.interrupt()
        self.trap_guest()

    def take_output(self) -> str:
        """Return and forget what was printed since the last time."""
        text = self._stdout.text()
        self._stdout.clear()
        return text

    @property
    def template(self) -> Template | None:
        """The state in which the session began, unless that was the image's."""
        return self._machine.template

    @property
    def call_log(self) -> CallLog:
        """The host calls of the item that this copy works on."""
        return self._channel.call_log

    @property
    def stopped_by(self) -> StopReason | None:
        """The reason for which the running cell was asked to stop."""
        return self._deadline.expired

    @property
    def memory_bytes(self) -> int:
        """The memory of the session beyond the image: a checkpoint holds at most so much."""
        return self._memory.reserved

    @property
    def seconds_left(self) -> float:
        """The rest of the time of the cell that runs, or ran last; 0 if it was stopped."""
        return 0.0 if self._deadline.expired else self._deadline.seconds_left()

    # private

    @contextmanager
    def _running(self) -> Iterator[None]:
        if not self._turn.acquire(blocking=False):
            raise SessionBusy(f"{self!r} is running a cell on another thread: wait for it, or call interrupt()")
        try:
            if self._is_closing:
                raise SessionClosed(f"{self!r} was closed: make a new session with Runtime.session()")
            self._state = "RUNNING"
            with self._deadline.computing():
                yield
        finally:
            if self._state == "RUNNING":
                self._state = "READY"
            try:
                if self._is_closing:
                    self._release()
            finally:
                self._turn.release()

    @contextmanager
    def _undoable(self) -> Iterator[SavedMachine]:
        """Keep the state for the body, which may be undone."""
        saved = self._machine.save()
        try:
            yield saved
        finally:
            self._machine.forget(saved)

    @contextmanager
    def _foreseen(self, saved: SavedMachine) -> Iterator[None]:
        """Have copies, made in the `saved` state, rehearse the cell of the body while it waits."""
        if self._foresight is None:
            yield
            return
        self._served, self._since, self._channel.watcher = [], saved, self._foresight
        try:
            yield
        finally:
            self._since = self._channel.watcher = None
            self._foresight.end_cell()

    def _prepare(self, function: str, code: str, seconds: float, saved: SavedMachine) -> str:
        """Return the text that the guest's function makes of the code, or the code itself if that fails."""
        request: dict[str, object] = {"kind": "call", "function": function, "args": [code]}
        report, _, _ = self._serve(request, seconds, saved)
        value = report.get("value")
        return value if isinstance(value, str) and "error" not in report else code

    def _exec(
        self, code: str, seconds: float, seconds_left: float, saved: SavedMachine, reason: ExpiredBy = "deadline"
    ) -> ExecResult:
        self._stdout.clear()
        self._stderr.clear()
        started = time.perf_counter()
        request: dict[str, object] = {"kind": "cell", "code": code, "name": f"<cell {next(self._cell_names)}>"}
        report, stopped, undone = self._serve(request, seconds_left, saved, reason)
        error = describe_error(report.get("error"), stopped, seconds)
        value = report.get("value")
        return ExecResult(
            stdout=self._stdout.text(),
            stderr=self._stderr.text(),
            value=value[:TEXT_CHARS] if isinstance(value, str) else None,
            error=error,
            truncated=self._stdout.truncated or self._stderr.truncated,
            stdout_chars=self._stdout.chars,
            seconds=time.perf_counter() - started,
            memory_bytes=self._machine.memory.size - self._shared.image.package_bytes,
            stopped_by=stopped or ("exit" if error is not None and error.type == "SystemExit" else None),
            undone=undone,
        )

    def _ask(self, request: dict[str, object], seconds: float) -> object:
        with self._undoable() as saved:
            report, stopped, _ = self._serve(request, seconds, saved)
        error = describe_error(report.get("error"), stopped, seconds)
        if error is not None:
            raise GuestCallError(error.type, error.message)
        return report.get("value")

    def _serve(
        self, request: dict[str, object], seconds: float, saved: SavedMachine, reason: ExpiredBy = "deadline"
    ) -> tuple[dict[str, object], StopReason | None, bool]:
        """Have the guest carry out one request; -> (report, what stopped it, whether `saved` was restored)."""
        guest = self._machine.guest
        self._clear_stops()
        guest.ended = guest.failure = None
        request |= self._machine.introduction()
        if self._since is not None:
            self._served.append(request)
        self._channel.set_request(request)
        earlier = self._channel.newest_ticket
        trapped: StopReason | None = None
        with self._deadline.running(seconds, reason=reason), active_guest(guest):
            try:
                returned = self._machine.interpreter.call("PyObject_CallNoArgs", self._shared.image.serve)
            except wasmtime.Trap as trap:
                trapped = self._stop_reason(trap)
            else:
                if not returned or self._channel.report is None:
                    trapped = "trap"
        self._channel.end_request()
        if trapped is not None:
            self._state = "POISONED"
            self._rescue_output()
            self._channel.cancel_all()
            self._machine.undo(saved)
            self._state = "RUNNING"
        if guest.failure is not None:
            raise RuntimeFailure("a host function of the sandbox failed; the cell was ended") from guest.failure
        if trapped is not None:
            return {}, trapped, True
        report = self._channel.report or {}
        if not _is_interrupt(report):
            return report, None, False
        # An interrupt between submitting calls and waiting for them leaves calls whose tickets nobody knows.
        self._channel.cancel_after(earlier)
        return report, self._deadline.expired, False

    def _stop_reason(self, trap: wasmtime.Trap) -> StopReason:
        ended = self._machine.guest.ended
        if ended is not None:
            return "exit" if ended == "exit" else "trap"
        if trap.trap_code == wasmtime.TrapCode.STACK_OVERFLOW:
            return "stack"
        return self._deadline.expired or "trap"

    def _clear_stops(self) -> None:
        memory = self._machine.memory
        for address in (INTERRUPT_ADDRESS, self._shared.image.signal_handling, KILL_ADDRESS):
            if memory.peek(address):  # a needless store would make the page one more to save
                memory.poke(address, 0)

    def _rescue_output(self) -> None:
        """Take the output that the guest had printed but not flushed when it trapped."""
        image, memory = self._shared.image, self._machine.memory
        for address, capture in [(image.stdout_pending, self._stdout), (image.stderr_pending, self._stderr)]:
            try:
                length = min(memory.u32(address), _PENDING_AT_MOST)
                capture.add(bytes(memory.view(address + _PENDING_HEADER, length)))
            except BadPointer:
                continue

    def _rehearsing_copies(self, count: int) -> "Iterator[Session]":
        """Copy this session, whose guest waits, as it was when the running cell started."""
        if self._machine.memory.size > _REHEARSED_BYTES:
            raise OutOfMemoryBudget(f"{self!r} is too large to be copied while it waits")
        written = self._machine.written(self._since)
        for _ in range(count):
            yield self._fork(written, self._since)

    def _fork(self, written: MemoryRuns, since: SavedMachine | None = None) -> "Session":
        """Copy this session, whose guest must not run meanwhile; `written` is the memory that it has written."""
        child = Session(
            self._shared,
            limits=self.limits,
            files=self._files,
            calls=self._calls,
            owner=self.owner,
            distribution=self._distribution,
            surroundings=self._surroundings,
            copy_of=self._machine,
            since=since,
        )
        try:
            child._machine.copy_from(self._machine, written, since)
            child._execs, child._served = self._execs, list(self._served)
        except BaseException:  # a signal too: nobody else could close the copy
            child.close()
            raise
        return child

    def _work_in_copies(self, count: int, workers: int, ahead: bool) -> dict[str, object]:  # noqa: FBT001 - ForkFunction
        if not self._is_copying_allowed:
            return {"ok": []} if ahead else {"refused": "this runs in a copy already: copies do not make copies"}
        written = self._machine.written()
        copies: ParallelCopies
        # Code that asks for few workers wants few copies.
        if self._distribution is None or ahead or workers < min(count, WORKERS_AT_MOST):
            copies = ParallelCopies(
                lambda: self._fork(written),
                count=count,
                ahead=ahead,
                seconds=self._deadline.seconds_left(),
                memory=self._memory,
            )
        else:
            copies = DistributedCopies(
                lambda: self._fork(written),
                count=count,
                seconds_left=self._deadline.seconds_left,
                memory=self._memory,
                distribution=self._distribution,
                make_checkpoint=partial(self._checkpoint_up_to, self._distribution.most_bytes),
            )
        answer = copies.work_on_all(
            self._shared.copy_threads(self.owner), workers, self._channel.interrupted, self._deadline.paused
        )
        self._deadline.charge(copies.longest_seconds)
        if ahead:
            self._channel.use_ahead_logs(copies.logs, copies.held_bytes)
        else:
            self._memory.release(copies.held_bytes)
        if not self._deadline.seconds_left():  # a long answer would only delay the end
            self._deadline.expire("deadline")
            return {"interrupted": True}
        return answer

    def _checkpoint_up_to(self, most_bytes: int) -> Checkpoint | None:
        return self._machine.checkpoint(self._execs) if self._memory.reserved <= most_bytes else None

    def _release(self) -> None:
        if self._state == "CLOSED":
            return
        self._state = "CLOSED"
        self._channel.cancel_all()
        self._machine.close()
        self._shared.remove_session(self)
        # They refer to this session: in a reference cycle, closed sessions would wait for the garbage collector.
        del self._channel, self._foresight


def _is_interrupt(report: dict[str, object]) -> bool:
    error = report.get("error")
    return isinstance(error, dict) and error.get("type") == "KeyboardInterrupt"

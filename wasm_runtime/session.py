"""A session: one interpreter that runs cells, is stopped without being lost, and can be saved and copied.

Theory of operation.

    NEW ── first cell ──> READY ── exec ──> RUNNING ── ends, raises, is interrupted ──> READY
                            │                  └── traps ──> POISONED ── undo ──> READY
                            └── close, from any state ──> CLOSED

Before each cell the state is saved: the pages written since the image (`pages`), the mutable globals, a mark in
the file system. A cell that ends by itself, by an exception or by KeyboardInterrupt leaves a sound interpreter
and keeps all it did. A trap leaves the C code in the middle of something, so the cell is undone: pages, globals
and files go back, and the session has the variables it had before.

Traps are: the loop check (a cell that did not heed its interrupt), stack overflow in C code, `os._exit` and
`abort`, and damage that the guest did to itself. `exec` outside READY raises; a session never queues.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import wasmtime

from wasm_runtime.budget import SessionMemory
from wasm_runtime.capture import Capture
from wasm_runtime.channel import CallLog, Channel, Errand
from wasm_runtime.errors import (
    GuestCallError,
    OutOfMemoryBudget,
    RuntimeFailure,
    SessionBusy,
    SessionClosed,
    SnapshotMismatch,
)
from wasm_runtime.imports.guest import Guest
from wasm_runtime.limits import Limits
from wasm_runtime.linking import running
from wasm_runtime.machine.interpreter import Interpreter
from wasm_runtime.machine.memory import INTERRUPT_ADDRESS, KILL_ADDRESS, PAGE_BYTES, BadPointer
from wasm_runtime.machine.pages import Runs, SavedPages
from wasm_runtime.parallel import Crew
from wasm_runtime.results import ExecError, ExecResult, StoppedBy
from wasm_runtime.snapshot import Checkpoint, Template
from wasm_runtime.vfs.devices import Device, NullDevice
from wasm_runtime.vfs.filesystem import Mark, Vfs
from wasm_runtime.vfs.flags import AT_FDCWD

if TYPE_CHECKING:
    from wasm_runtime.runtime import Runtime

State = Literal["NEW", "READY", "RUNNING", "POISONED", "CLOSED"]
FileSource = bytes | str | Path

# Growing by at least this spares a host call for each 64 KiB of a growing list.
_GROWTH_BYTES = 1 << 20
_PENDING_HEADER = 4
_PENDING_AT_MOST = 1 << 14
# The guest cuts what it tells to half of this; one that has been tampered with might not.
_TOLD_CHARS, _NAME_CHARS = 2 << 20, 1000


@dataclass(frozen=True, slots=True)
class _Saved:
    """The state before a cell."""

    pages: SavedPages
    globals: tuple[int, ...]
    mark: Mark
    fresh: bool
    unexposed: list[str]


class Session:
    """One guest. Make it with `Runtime.session`, use it from one thread at a time, close it."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        limits: Limits,
        files: Mapping[str, FileSource],
        calls: Mapping[str, Callable[..., object]],
        copy_of: Session | None = None,
    ) -> None:
        """`copy_of` gives its files to the new session; `fork` then gives it the rest."""
        self._runtime, self.limits, self._files, self._calls = runtime, limits, files, calls
        self._state: State = "NEW"
        self._turn = threading.Lock()
        self._memory = SessionMemory(limits.memory_bytes, runtime.image.memory_bytes, runtime.budget)
        self._interpreter = Interpreter(runtime.engine, runtime.prelinked, memory_bytes=limits.memory_bytes)
        self._pages = runtime.pages(self._interpreter.memory)
        self._template: Template | None = None
        self._stdout, self._stderr = Capture(limits.output_bytes), Capture(limits.output_bytes)
        self._deadline = runtime.watch.deadline(self)
        self._channel = Channel(
            calls,
            runtime.executor,
            waiting=self._deadline.paused,
            interruption_told=self._clear_stops,
            fork=self._work_in_copies,
        )
        self._vfs = self._new_vfs() if copy_of is None else self._copied_vfs(copy_of)
        self._guest = Guest(memory=self._interpreter.memory, vfs=self._vfs, grow=self._grow)
        self._fresh, self._unexposed = True, list(calls)
        self._execs = 0
        self._cell_names = itertools.count(1)

    # running code

    def exec(self, code: str, *, seconds: float | None = None, prepare: str | None = None) -> ExecResult:
        """Run a block of Python in the session's namespace; what it raises is in the result.

        `seconds` replaces `limits.cell_seconds`. `prepare` is a `module:function` of the guest that is called with the
        code first; the text that it returns is run in its place, and what it did is undone together with a cell that
        is. Raises SessionBusy, SessionClosed.
        """
        with self._running():
            self._execs += 1
            seconds = self.limits.cell_seconds if seconds is None else seconds
            with self._undoable() as saved:
                prepared = code if prepare is None else self._prepared(prepare, code, seconds, saved)
                return self._exec(prepared, seconds, saved)

    def call(self, function: str, *args: object, seconds: float | None = None) -> object:
        """Call `module:function` in the guest with JSON values; -> its JSON value.

        Raises GuestCallError with what it raised, or that it was stopped.
        """
        with self._running():
            request: dict[str, object] = {"kind": "call", "function": function, "args": list(args)}
            return self._ask(request, self.limits.cell_seconds if seconds is None else seconds)

    def install(self, module: str, source: str) -> None:
        """Make a guest module from text, importable by its name and not in the namespace of the cells."""
        with self._running():
            self._ask({"kind": "install", "module": module, "source": source}, self.limits.cell_seconds)

    def interrupt(self) -> None:
        """Stop the cell that runs, if one does: KeyboardInterrupt, then a trap and undo. From any thread."""
        self._deadline.expire()

    # sessions as values

    def checkpoint(self) -> Checkpoint:
        """Return the session's state; what differs from the image, not more."""
        with self._running():
            return self._checkpoint()

    def restore(self, saved: Checkpoint) -> None:
        """Put the session into a saved state. Raises SnapshotMismatch, OutOfMemoryBudget."""
        saved.require_image(self._runtime.image.sha256)
        with self._running():
            self._reach(saved.memory_bytes)
            to_image = [] if self._template is None else self._template.start.image
            self._take_state(saved, [*to_image, *saved.runs])

    def fork(self) -> Session:
        """Return an independent copy with the same limits, files and calls; the caller closes it."""
        with self._running():
            return self._fork()

    def reset(self) -> None:
        """Forget everything that cells did: variables, files, patches. Mounted files and the template stay."""
        with self._running():
            if self._template is not None:
                self._take_state(self._template.state, [])
                return
            self._channel.cancel_all()
            self._pages.replace([])
            self._interpreter.set_globals(self._runtime.image.globals)
            self._vfs.close()
            self._vfs = self._guest.vfs = self._new_vfs()
            self._fresh, self._unexposed = True, list(self._calls)

    def close(self) -> None:
        """End the session and give back its memory; a cell that runs on another thread is stopped first."""
        while not self._turn.acquire(timeout=0.05):
            self.interrupt()
        try:
            if self._state != "CLOSED":
                self._state = "CLOSED"
                self._release()
        finally:
            self._turn.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        size = "" if self._state == "CLOSED" else f", {self._interpreter.memory.size >> 20} MiB"
        return f"<Session {self._state}, {self._execs} execs{size}>"

    # Stoppable: called by the watch, from its thread

    def soft_stop(self) -> None:
        """Raise KeyboardInterrupt in the guest at its next poll, and end the wait it may be in."""
        memory = self._interpreter.memory
        memory.poke(INTERRUPT_ADDRESS, 1)
        memory.poke(self._runtime.image.signal_handling, 1)
        self._channel.interrupt()

    def hard_stop(self) -> None:
        """Trap the guest at its next loop head."""
        self._interpreter.memory.poke(KILL_ADDRESS, 1)

    # inside

    @contextmanager
    def _running(self) -> Iterator[None]:
        if not self._turn.acquire(blocking=False):
            raise SessionBusy(f"{self!r} is running a cell on another thread: wait for it, or call interrupt()")
        try:
            if self._state == "CLOSED":
                raise SessionClosed(f"{self!r} was closed: make a new session with Runtime.session()")
            self._state = "RUNNING"
            yield
        finally:
            if self._state == "RUNNING":
                self._state = "READY"
            self._turn.release()

    def _prepared(self, function: str, code: str, seconds: float, saved: _Saved) -> str:
        """What the guest makes of the code; the code itself when the guest fails at that."""
        request: dict[str, object] = {"kind": "call", "function": function, "args": [code]}
        report, _, _ = self._serve(request, seconds, saved)
        value = report.get("value")
        return value if isinstance(value, str) and "error" not in report else code

    def _exec(self, code: str, seconds: float, saved: _Saved) -> ExecResult:
        self._stdout.clear()
        self._stderr.clear()
        started = time.perf_counter()
        request: dict[str, object] = {"kind": "cell", "code": code, "name": f"<cell {next(self._cell_names)}>"}
        report, stopped, undone = self._serve(request, seconds, saved)
        error = _error(report.get("error"), stopped, seconds)
        value = report.get("value")
        return ExecResult(
            stdout=self._stdout.text(),
            stderr=self._stderr.text(),
            value=value[:_TOLD_CHARS] if isinstance(value, str) else None,
            error=error,
            truncated=self._stdout.truncated or self._stderr.truncated,
            stdout_chars=self._stdout.chars,
            seconds=time.perf_counter() - started,
            memory_bytes=self._interpreter.memory.size,
            stopped_by=stopped or ("exit" if error is not None and error.type == "SystemExit" else None),
            undone=undone,
        )

    def _ask(self, request: dict[str, object], seconds: float) -> object:
        with self._undoable() as saved:
            report, stopped, _ = self._serve(request, seconds, saved)
        error = _error(report.get("error"), stopped, seconds)
        if error is not None:
            raise GuestCallError(error.type, error.message)
        return report.get("value")

    @contextmanager
    def _undoable(self) -> Iterator[_Saved]:
        """Save the state, and forget it when what may have to be undone is over."""
        saved = _Saved(self._pages.save(), self._interpreter.globals(), self._vfs.mark(), self._fresh, self._unexposed)
        try:
            yield saved
        finally:
            self._vfs.forget(saved.mark)
            self._pages.forget(saved.pages)

    def _serve(
        self, request: dict[str, object], seconds: float, saved: _Saved
    ) -> tuple[dict[str, object], StoppedBy | None, bool]:
        """Have the guest carry out one request; -> (report, what stopped it, whether all since `saved` is undone)."""
        if self._fresh:
            request |= {"entropy": os.urandom(32).hex(), "functions": self._unexposed}
            self._fresh, self._unexposed = False, []
        self._clear_stops()
        self._guest.ended = self._guest.failure = None
        self._channel.begin(request)
        trapped: StoppedBy | None = None
        with self._deadline.running(seconds), running(self._guest):
            try:
                returned = self._interpreter.call("PyObject_CallNoArgs", self._runtime.image.serve)
            except wasmtime.Trap as trap:
                trapped = self._cause(trap)
            else:
                if not returned or self._channel.report is None:
                    trapped = "trap"
        if trapped is not None:
            self._state = "POISONED"
            self._rescue_output()
            self._undo(saved)
            self._state = "RUNNING"
        if self._guest.failure is not None:
            raise RuntimeFailure("a host function of the sandbox failed; the cell was ended") from self._guest.failure
        if trapped is not None:
            return {}, trapped, True
        report = self._channel.report or {}
        return report, self._deadline.expired if _is_interrupt(report) else None, False

    def _undo(self, saved: _Saved) -> None:
        self._channel.cancel_all()
        self._pages.restore(saved.pages)
        self._interpreter.set_globals(saved.globals)
        self._vfs.undo(saved.mark)
        self._fresh, self._unexposed = saved.fresh, saved.unexposed

    def _cause(self, trap: wasmtime.Trap) -> StoppedBy:
        if self._guest.ended is not None:
            return "exit" if self._guest.ended == "exit" else "trap"
        if trap.trap_code == wasmtime.TrapCode.STACK_OVERFLOW:
            return "stack"
        return self._deadline.expired or "trap"

    def _clear_stops(self) -> None:
        memory = self._interpreter.memory
        for address in (INTERRUPT_ADDRESS, self._runtime.image.signal_handling, KILL_ADDRESS):
            if memory.peek(address):  # a store would make the page one more to save
                memory.poke(address, 0)

    def _rescue_output(self) -> None:
        """Take what the guest had printed and not flushed when it trapped; see guest/host/streams.py."""
        image = self._runtime.image
        for address, capture in [(image.stdout_pending, self._stdout), (image.stderr_pending, self._stderr)]:
            try:
                length = min(self._interpreter.memory.u32(address), _PENDING_AT_MOST)
                capture.add(bytes(self._interpreter.memory.view(address + _PENDING_HEADER, length)))
            except BadPointer:
                continue

    def _grow(self, size: int) -> bool:
        """Give the guest a heap of at least `size` bytes, a little more where the budget has it."""
        now = self._interpreter.memory.size
        for wanted in (max(size, now + _GROWTH_BYTES), size):
            pages = -(-max(0, wanted - now) // PAGE_BYTES) * PAGE_BYTES
            if self._memory.reserve(pages):
                if self._interpreter.grow(now + pages):
                    return True
                self._memory.release(pages)
        return False

    def _devices(self) -> dict[str, Device]:
        return {
            "/dev/stdin": NullDevice(),
            "/dev/stdout": self._stdout,
            "/dev/stderr": self._stderr,
            "/dev/host": self._channel,
        }

    def _new_vfs(self) -> Vfs:
        vfs = Vfs(clock=time.time_ns, quota=self._memory, devices=self._devices())
        vfs.mount(self._runtime.image.stdlib_path, self._runtime.image.stdlib)
        for path, source in self._files.items():
            vfs.mount(path, source.encode() if isinstance(source, str) else source)
        vfs.openat(AT_FDCWD, b"/dev/host", os.O_RDWR)  # descriptor 3, as in the image
        return vfs

    def _copied_vfs(self, original: Session) -> Vfs:
        try:
            return original._vfs.clone(quota=self._memory, devices=self._devices())
        except MemoryError as error:
            raise OutOfMemoryBudget(
                f"{error}: close other sessions, or raise memory_budget_bytes of the Runtime"
            ) from error

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            image=self._runtime.image.sha256,
            runs=self._pages.changed(),
            memory_bytes=self._interpreter.memory.size,
            globals=self._interpreter.globals(),
            files=self._vfs.dump(),
            execs=self._execs,
        )

    def begin_at(self, template: Template) -> None:
        """As a new session: take up the state of a template. Raises SnapshotMismatch, OutOfMemoryBudget."""
        with self._running():
            self._reach(template.state.memory_bytes)
            self._share(template)
            self._take_state(template.state, [])

    def _share(self, template: Template) -> None:
        """As a new session that is long enough: begin with the memory of a template."""
        self._pages.close()
        self._pages, self._template = self._runtime.pages(self._interpreter.memory, template.start), template

    def _reach(self, memory_bytes: int) -> None:
        """Let memory be so long at least."""
        missing = memory_bytes - self._interpreter.memory.size
        if missing > 0:
            self._memory.require(missing)
            if not self._interpreter.grow(memory_bytes):
                self._memory.release(missing)
                raise SnapshotMismatch(
                    f"this checkpoint needs {memory_bytes >> 20} MiB of memory and the session may have "
                    f"{self.limits.memory_bytes >> 20}: restore it into one with a higher memory_bytes"
                )

    def _take_state(self, saved: Checkpoint, runs: Runs) -> None:
        """Take up a saved state, whose memory is the one this session began with plus `runs`."""
        self._channel.cancel_all()
        vfs = self._new_vfs()
        try:
            vfs.load(saved.files)
        except ValueError as error:
            vfs.close()
            raise SnapshotMismatch(f"the files of this checkpoint cannot be read: {error}") from error
        except MemoryError as error:
            vfs.close()
            raise OutOfMemoryBudget(f"the files of this checkpoint do not fit: {error}") from error
        self._vfs.close()
        self._vfs = self._guest.vfs = vfs
        self._pages.replace(runs)
        self._interpreter.set_globals(saved.globals)
        self._execs, self._fresh, self._unexposed = saved.execs, True, []

    def _fork(self, written: Runs | None = None) -> Session:
        """Copy this session, whose guest stands still meanwhile; `written` is `pages.written()`, if it is known."""
        child = self._runtime.enrol(
            Session(self._runtime, limits=self.limits, files=self._files, calls=self._calls, copy_of=self)
        )
        try:
            child._adopt(self, self._pages.written() if written is None else written)  # noqa: SLF001 - another Session
        except BaseException:
            child.close()
            raise
        return child

    def _adopt(self, parent: Session, written: Runs) -> None:
        self._reach(parent._interpreter.memory.size)
        if parent._template is not None:
            self._share(parent._template)
        self._pages.replace(written)
        self._interpreter.set_globals(parent._interpreter.globals())
        self._execs, self._fresh, self._unexposed = parent._execs, True, []

    def _work_in_copies(self, count: int, workers: int, ahead: bool) -> dict[str, object]:  # noqa: FBT001 - ForkFunction
        written, left, fork_lock = self._pages.written(), self._deadline.left, threading.Lock()

        def copy() -> Session:
            with fork_lock:  # they read this session's files and counters
                return self._fork(written)

        crew = Crew(copy, count=count, ahead=ahead, seconds=left)
        answer = crew.work(self._runtime.crew_threads(), workers, self._channel.interrupted)
        self._deadline.charge(crew.longest_seconds)
        self._channel.ran_ahead(crew.logs)
        return answer

    def work_off(self, errand: Errand, seconds: float) -> StoppedBy | None:
        """As a copy made inside a host call: run the guest's `worker` on items of `errand`; -> what stopped it."""
        self._channel.errand = errand
        with self._running(), self._deadline.running(seconds), running(self._guest):
            try:
                # The original let go of its thread state around the call; the copy takes it up again.
                gil = self._interpreter.call("PyGILState_Ensure")
                self._interpreter.call("PyObject_CallNoArgs", self._runtime.image.worker)
                self._interpreter.call("PyGILState_Release", gil)
            except wasmtime.Trap as trap:
                return self._cause(trap)
        return None

    def take_output(self) -> str:
        """Return and forget what was printed since the last time."""
        text = self._stdout.text()
        self._stdout.clear()
        return text

    @property
    def call_log(self) -> CallLog:
        """The host calls of the item that a copy works on."""
        return self._channel.log

    @property
    def stopped_by(self) -> StoppedBy | None:
        """What has asked the cell that runs to stop."""
        return self._deadline.expired

    @property
    def seconds_left(self) -> float:
        """What is left of the time of the cell that runs."""
        return self._deadline.left

    def _release(self) -> None:
        self._channel.cancel_all()
        self._vfs.close()
        self._pages.close()
        self._interpreter.close()
        self._memory.close()
        self._runtime.forget(self)
        # They refer to this session: left in circles, closed sessions would wait for a full garbage collection.
        del self._channel, self._guest, self._vfs


def _is_interrupt(report: dict[str, object]) -> bool:
    error = report.get("error")
    return isinstance(error, dict) and error.get("type") == "KeyboardInterrupt"


def _error(raised: object, stopped: StoppedBy | None, seconds: float) -> ExecError | None:
    """Return what ended the cell: the guest's exception, in the words of the host where the host caused it."""
    told = raised if isinstance(raised, dict) else {}
    line = told.get("line")
    kind, message = str(told.get("type", ""))[:_NAME_CHARS], str(told.get("message", ""))[:_TOLD_CHARS]
    match stopped:
        case "deadline":
            kind, message = "TimeoutError", f"the cell was stopped after {seconds:g} s"
        case "interrupt":
            kind, message = "KeyboardInterrupt", "the cell was interrupted"
        case "stack":
            kind, message = "RecursionError", "C code recursed too deeply (a very deeply nested object or text)"
        case "exit":
            kind, message = "SystemExit", "the cell ended the interpreter"
        case "trap":
            kind, message = "SystemError", "the cell damaged the interpreter"
    if not kind:
        return None
    if stopped is not None:
        message += "; the session is as it was before the cell" if not told else "; variables are kept"
    return ExecError(
        type=kind,
        message=message,
        line=line if isinstance(line, int) else None,
        traceback=str(told.get("traceback", ""))[:_TOLD_CHARS] or f"{kind}: {message}",
    )

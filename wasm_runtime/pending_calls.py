"""Host calls in flight, and waiting for them.

A ticket is the number of one submitted call. Calls are started on the guest's thread, finish on any thread, and are
collected once. A wait ends when enough calls have finished, when its time is over, or when the guest is interrupted.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future
from concurrent.futures import wait as wait_for_futures
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from wasm_runtime.errors import CallRefused
from wasm_runtime.held_bytes import Reservable, Unlimited, json_bytes

logger = logging.getLogger("wasm_runtime")

# Answers of earlier cells that nobody has fetched are kept up to this much, for code that still has their tickets. To
# find the oldest takes time, so some more may come before they are dropped.
_KEPT_BYTES, _MORE_BYTES = 16 << 20, 4 << 20
_DROPPED = (
    f"the answers of earlier cells that were not fetched took over {_KEPT_BYTES >> 20} MiB, and this one was dropped"
)

# Copies of an answer while it is fetched: its text on the host, and in the guest the parts, the text and the value.
_FETCHING = 4

HostFunction = Callable[..., object]


class Pause(Protocol):
    """Entered while the guest waits; `outside` is whether for somebody outside of this process."""

    def __call__(self, *, outside: bool = True) -> AbstractContextManager[object]:
        """Return the context of one wait."""


def no_pause(*, outside: bool = True) -> AbstractContextManager[object]:  # noqa: ARG001 - a Pause has it
    """Return a context that does nothing."""
    return nullcontext()


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """The value that a call has returned, or the text of its refusal."""

    value: object
    refusal: str | None = None


CANCELLED = CallOutcome(None, "the call was cancelled")


@dataclass(slots=True, kw_only=True)
class _PendingCall:
    """A call in flight, or one whose outcome waits to be fetched.

    Thousands of outcomes may wait: they are kept without their futures, whose locks and lists every garbage collection
    would visit.

    held_bytes   what is reserved for its arguments, and from its end on for its answer
    is_outside   whether somebody outside of this process works on it: the wait for that is not the cell's time
    """

    name: str
    future: Future[object] | CallOutcome
    held_bytes: int
    is_outside: bool


class PendingCalls:
    """The calls in flight of one session. Used on the guest's thread; `interrupt` may be called from any thread."""

    def __init__(self, memory: Reservable | None = None, pause: Pause = no_pause) -> None:
        """Arguments and answers are reserved in `memory`. `pause` is entered while calls are waited for."""
        self._memory = memory or Unlimited()
        self._pause = pause
        self._calls: dict[int, _PendingCall] = {}
        self._finished: set[int] = set()
        self._finished_bytes = 0
        self._cell_has_ended = False
        self._awaited: set[int] = set()
        self._missing = 0  # how many of the awaited calls must still finish
        self._missing_outside = 0  # how many of the awaited calls outside have not finished
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._logged_failures: set[tuple[str, type]] = set()
        self.interrupted: Future[None] = Future()

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, name: str, future: Future[object], *, held_bytes: int = 0, is_outside: bool = False) -> int:
        """Register a call of function `name`, whose `held_bytes` are reserved already; -> its ticket."""
        ticket = next(self._numbers)
        self._calls[ticket] = _PendingCall(name=name, future=future, held_bytes=held_bytes, is_outside=is_outside)

        def finished(done: Future[object]) -> None:  # a future that it referred to would be in a cycle with it
            outcome = self.outcome_of(name, done)
            size = json_bytes(outcome.value) + json_bytes(outcome.refusal)
            with self._changed:
                call = self._calls.get(ticket)
                if call is None:
                    return
                call.future = self._held_outcome(call, outcome, size)
                self._finished.add(ticket)
                self._finished_bytes += call.held_bytes
                if self._cell_has_ended and self._finished_bytes > _KEPT_BYTES + _MORE_BYTES:
                    self._drop_oldest()
                if ticket in self._awaited:
                    self._missing -= 1
                    self._missing_outside -= call.is_outside
                    # One wake-up per batch: each costs the guest's thread a turn of the GIL.
                    if self._missing <= 0 or (call.is_outside and self._missing_outside == 0):
                        self._changed.notify_all()

        future.add_done_callback(finished)
        return ticket

    def mark_outside(self, ticket: int) -> None:
        """From now on, somebody outside of this process works on the call."""
        with self._changed:
            call = self._calls.get(ticket)
            if call is None or call.is_outside or ticket in self._finished:
                return
            call.is_outside = True
            if ticket in self._awaited:
                self._missing_outside += 1
                self._changed.notify_all()

    def _held_outcome(self, call: _PendingCall, outcome: CallOutcome, size: int) -> CallOutcome:
        """Reserve memory for an outcome in the place of the arguments; -> it, or a refusal if there is none.

        Room to fetch it must be left, or the session would hold what it cannot read.
        """
        self._memory.release(call.held_bytes)
        fits = self._memory.reserve(size + _FETCHING * size)
        call.held_bytes = size if fits else 0
        if fits:
            self._memory.release(_FETCHING * size)
            return outcome
        text = f"the answer of {call.name} takes {size} bytes, which do not fit into the memory of this session"
        return CallOutcome(None, f"{text}: fetch other answers first, or free memory")

    def outcome_of(self, name: str, future: Future[object]) -> CallOutcome:
        """Return how a finished call of function `name` has ended.

        Only the text of `CallRefused` is shown to the guest: other errors may hold a secret.
        """
        if future.cancelled():
            return CANCELLED
        match future.exception():
            case None:
                return CallOutcome(future.result())
            case CallRefused() as refusal:
                return CallOutcome(None, str(refusal))
            case CancelledError():
                return CANCELLED
            case error:
                self._log_failure(name, error)
                return CallOutcome(None, f"the host function {name} failed")

    def _log_failure(self, name: str, error: BaseException) -> None:
        """Log the first failure of each kind, and drop its traceback: a guest may cause thousands in a second."""
        if (kind := (name, type(error))) not in self._logged_failures:
            self._logged_failures.add(kind)
            logger.warning("host function %s raised; later failures of this kind are not logged", name, exc_info=error)
        error.__traceback__ = error.__context__ = error.__cause__ = None

    def begin_cell(self) -> None:
        """From now on, answers are kept as far as the memory of the session allows."""
        with self._changed:
            self._cell_has_ended = False

    def end_cell(self) -> None:
        """Drop what is too much of the answers that nobody has fetched, now and when more come, the oldest first."""
        with self._changed:
            self._cell_has_ended = True
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        for ticket in sorted(self._finished) if self._finished_bytes > _KEPT_BYTES else ():
            if self._finished_bytes <= _KEPT_BYTES:
                break
            call = self._calls[ticket]
            self._finished_bytes -= call.held_bytes
            self._memory.release(call.held_bytes)
            call.held_bytes, call.future = 0, CallOutcome(None, f"{_DROPPED}: call again")

    def unknown(self, tickets: set[int]) -> set[int]:
        """Return those of `tickets` that are not in flight."""
        return tickets - self._calls.keys()

    def collect(self, ticket: int) -> tuple[str, CallOutcome]:
        """Remove a call that has finished; -> the name of its function, and its outcome."""
        with self._changed:
            call = self._remove(ticket)
        return ("", CANCELLED) if call is None or isinstance(call.future, Future) else (call.name, call.future)

    def _remove(self, ticket: int) -> _PendingCall | None:
        call = self._calls.pop(ticket, None)
        if call is not None:
            self._memory.release(call.held_bytes)
            if ticket in self._finished:
                self._finished.remove(ticket)
                self._finished_bytes -= call.held_bytes
        return call

    def cancel(self, tickets: Iterable[int]) -> None:
        """Remove and cancel calls in the given order.

        Callers pass the newest first: calls that are queued behind others must not start in the place of those. The
        lock is taken once: for each of thousands, it would have to be waited for behind all threads that make calls.
        """
        with self._changed:
            removed = [self._remove(ticket) for ticket in tickets]
        for call in removed:
            if call is not None and isinstance(call.future, Future):
                call.future.cancel()

    @property
    def newest(self) -> int:
        """The ticket of the newest call in flight; 0 without any."""
        return next(reversed(self._calls), 0)

    def unfinished(self, tickets: set[int]) -> set[int]:
        """Return those of these calls that have not finished."""
        with self._changed:
            return tickets - self._finished

    def futures(self, tickets: Iterable[int]) -> list[Future[object]]:
        """Return the futures of those of these calls that have not finished."""
        with self._changed:
            calls = [self._calls.get(ticket) for ticket in tickets]
        return [call.future for call in calls if call is not None and isinstance(call.future, Future)]

    def newer(self, ticket: int) -> list[int]:
        """Return the tickets above this one, the newest first."""
        return [other for other in reversed(self._calls) if other > ticket]

    def interrupt(self) -> None:
        """End the current wait, or the next one."""
        with self._changed:
            if not self.interrupted.done():
                self.interrupted.set_result(None)
            self._changed.notify_all()

    def clear_interrupt(self) -> None:
        """Forget an interrupt, so that waits work again."""
        if self.interrupted.done():
            self.interrupted = Future()

    def finished(self, wanted: set[int], *, everything: bool) -> bool:
        """Whether a wait for these would end at once."""
        with self._changed:
            return wanted <= self._finished if everything else not wanted.isdisjoint(self._finished)

    def wait(self, wanted: set[int], *, everything: bool, seconds: float | None) -> set[int] | None:
        """Wait for one or all of `wanted`, at most `seconds`; -> those that have finished, None after an interrupt.

        With nothing to wait for, this is a sleep.
        """
        ends = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            self._awaited = wanted - self._finished
            some_finished = len(self._awaited) < len(wanted)
            self._missing = len(self._awaited) if everything else not some_finished
            self._missing_outside = sum(self._calls[ticket].is_outside for ticket in self._awaited)
        # The pause is entered without the lock: the deadline's thread holds its own while it interrupts.
        while self._must_wait(ends):
            is_outside = self._missing_outside > 0
            with self._pause(outside=is_outside), self._changed:
                while self._must_wait(ends) and (self._missing_outside > 0) == is_outside:
                    self._changed.wait(None if ends is None else ends - time.monotonic())
        with self._changed:
            self._awaited = set()
            return None if self.interrupted.done() else wanted & self._finished

    def _must_wait(self, ends: float | None) -> bool:
        return self._missing > 0 and not self.interrupted.done() and (ends is None or time.monotonic() < ends)

    def wait_for_call(self, future: Future[object]) -> bool:
        """Wait for one call that has no ticket; False, and the call cancelled, after an interrupt."""
        if not future.done():
            either: list[Future[Any]] = [future, self.interrupted]
            with self._pause():
                wait_for_futures(either, return_when=FIRST_COMPLETED)
        if not future.done():
            future.cancel()
            return False
        return True


def start_call(function: HostFunction, args: Iterable[object], kwargs: Mapping[str, object]) -> Future[object]:
    """Call a host function now; -> a future of its value or exception, or the future that it returns."""
    try:
        value = function(*args, **kwargs)
    except CallRefused as refusal:  # the same without its traceback, whose frames would be in a cycle with the future
        return failed_future(CallRefused(str(refusal)))
    except Exception as error:  # noqa: BLE001 - it becomes the guest's answer
        return failed_future(error)
    return value if isinstance(value, Future) else finished_future(value)


def finished_future(value: object) -> Future[object]:
    """Return a future that has this value already."""
    future: Future[object] = Future()
    future.set_result(value)
    return future


def failed_future(error: BaseException) -> Future[object]:
    """Return a future that has failed with this error already."""
    future: Future[object] = Future()
    future.set_exception(error)
    return future


def copy_outcome(source: Future[object], result: Future[object]) -> None:
    """Finish `result` as `source` finishes, and cancel `source` when `result` is cancelled.

    Futures keep their callbacks. No callback refers to the future that it is added to, not even through itself: in a
    reference cycle, an answer that was fetched would wait for the garbage collector.
    """
    sources = [source]
    result.add_done_callback(partial(_cancel_sources, sources))
    source.add_done_callback(partial(_copy_outcome, result, sources))


def _cancel_sources(sources: list[Future[object]], result: Future[object]) -> None:
    for source in list(sources):
        if result.cancelled():
            source.cancel()


def _copy_outcome(result: Future[object], sources: list[Future[object]], source: Future[object]) -> None:
    sources.clear()
    if source.cancelled():
        result.cancel()
    elif (error := source.exception()) is not None:
        _finish_unless_done(result, error=error)
    else:
        _finish_unless_done(result, value=source.result())


def _finish_unless_done(future: Future[object], *, value: object = None, error: BaseException | None = None) -> None:
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)

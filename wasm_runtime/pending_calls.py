"""Host calls in flight, and waiting for them.

A ticket is the number of one submitted call. Calls are started on the guest's thread, finish on any thread, and are
collected once. A wait ends when enough calls have finished, when its time is over, or when the guest is interrupted.
"""

import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future
from concurrent.futures import wait as wait_for_futures
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from sys import getsizeof
from typing import Any, Protocol

from wasm_runtime.errors import CallRefused
from wasm_runtime.held_bytes import Reservable, Unlimited

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


# An outcome that is kept: the text that a call has returned, or the JSON of any other answer. Thousands may be kept at
# the same time, and every full garbage collection visits each container, but no text.
KeptOutcome = str | bytes

_encode = json.JSONEncoder(separators=(",", ":")).encode
_OK = b'{"ok":'
NOTHING = _OK + b"null}"
CANCELLED = _encode({"refused": "the call was cancelled"}).encode()
_DROPPED_OUTCOME = _encode({"refused": f"{_DROPPED}: call again"}).encode()


@dataclass(slots=True, eq=False)
class CallAnswer:
    """The answer to a call, for those who watch it: None until it has come."""

    kept: KeptOutcome | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the call has ended, and was not cancelled."""
        return self.kept is not None and self.kept is not CANCELLED


class PendingCalls:
    """The calls in flight of one session. Used on the guest's thread; `interrupt` may be called from any thread.

    A call in flight that has not begun, and one that has ended, is a few numbers and at most one text here.
    """

    def __init__(self, memory: Reservable | None = None, pause: Pause = no_pause) -> None:
        """Arguments and answers are reserved in `memory`. `pause` is entered while calls are waited for."""
        self._memory = memory or Unlimited()
        self._pause = pause
        self._held: dict[int, int] = {}
        """of each call in flight, what is reserved for its arguments, and from its end on for its answer"""
        self._outside: set[int] = set()
        """somebody outside of this process works on these: the wait for them is not the cell's time"""
        self._futures: dict[int, Future[object]] = {}
        """of those that have begun and not ended"""
        self._watched: dict[int, CallAnswer] = {}
        self._finished: dict[int, KeptOutcome] = {}
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
        return len(self._held)

    def add(self, *, held_bytes: int = 0, is_outside: bool = False) -> int:
        """Register a call, whose `held_bytes` are reserved already; -> its ticket."""
        ticket = next(self._numbers)
        with self._changed:
            self._held[ticket] = held_bytes
            if is_outside:
                self._outside.add(ticket)
        return ticket

    def watch(self, ticket: int, answer: CallAnswer | None) -> None:
        """Put the outcome of a call that has not begun into `answer`."""
        if answer is not None:
            self._watched[ticket] = answer

    def begin(self, ticket: int, name: str, future: Future[object]) -> None:
        """Take the outcome of the call, of function `name`, from a future."""
        if not future.done():
            with self._changed:
                is_wanted = ticket in self._held
                if is_wanted:
                    self._futures[ticket] = future
            if not is_wanted:
                future.cancel()
        # The callback must not refer to the future: in a cycle, its value would wait for the garbage collector.
        future.add_done_callback(partial(self._take_outcome, ticket, name))

    def _take_outcome(self, ticket: int, name: str, future: Future[object]) -> None:
        self.finish(ticket, name, self.outcome_of(name, future))

    def finish(self, ticket: int, name: str, outcome: KeptOutcome) -> None:
        """Keep the outcome of a call, unless it was cancelled meanwhile."""
        with self._changed:
            if ticket not in self._held:
                return
            self._futures.pop(ticket, None)
            self._settle(ticket, outcome)
            self._finished[ticket] = self._held_outcome(ticket, name, outcome)
            self._finished_bytes += self._held[ticket]
            if self._cell_has_ended and self._finished_bytes > _KEPT_BYTES + _MORE_BYTES:
                self._drop_oldest()
            if ticket in self._awaited:
                self._missing -= 1
                self._missing_outside -= ticket in self._outside
                # One wake-up per batch: each costs the guest's thread a turn of the GIL.
                if self._missing <= 0 or (ticket in self._outside and self._missing_outside == 0):
                    self._changed.notify_all()

    def _settle(self, ticket: int, outcome: KeptOutcome) -> None:
        if (answer := self._watched.pop(ticket, None)) is not None:
            answer.kept = outcome

    def mark_outside(self, ticket: int) -> None:
        """From now on, somebody outside of this process works on the call."""
        with self._changed:
            if ticket not in self._held or ticket in self._outside or ticket in self._finished:
                return
            self._outside.add(ticket)
            if ticket in self._awaited:
                self._missing_outside += 1
                self._changed.notify_all()

    def _held_outcome(self, ticket: int, name: str, outcome: KeptOutcome) -> KeptOutcome:
        """Reserve memory for an outcome in the place of the arguments; -> it, or a refusal if there is none.

        Room to fetch it must be left, or the session would hold what it cannot read.
        """
        size = getsizeof(outcome)
        self._memory.release(self._held[ticket])
        fits = self._memory.reserve(size + _FETCHING * size)
        self._held[ticket] = size if fits else 0
        if fits:
            self._memory.release(_FETCHING * size)
            return outcome
        text = f"the answer of {name} takes {size} bytes, which do not fit into the memory of this session"
        return _refused(f"{text}: fetch other answers first, or free memory")

    def outcome_of(self, name: str, future: Future[object]) -> KeptOutcome:
        """Return how a finished call of function `name` has ended.

        Only the text of `CallRefused` is shown to the guest: other errors may hold a secret.
        """
        if future.cancelled():
            return CANCELLED
        match future.exception():
            case None:
                return _kept_value(name, future.result())
            case CallRefused() as refusal:
                return _refused(str(refusal))
            case CancelledError():
                return CANCELLED
            case error:
                self._log_failure(name, error)
                return _refused(f"the host function {name} failed")

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
            self._finished_bytes -= self._held[ticket]
            self._memory.release(self._held[ticket])
            self._held[ticket], self._finished[ticket] = 0, _DROPPED_OUTCOME

    def unknown(self, tickets: set[int]) -> set[int]:
        """Return those of `tickets` that are not in flight."""
        return tickets - self._held.keys()

    def collect(self, ticket: int) -> KeptOutcome:
        """Remove a call that has finished; -> its outcome."""
        with self._changed:
            outcome = self._finished.get(ticket, CANCELLED)
            self._remove(ticket)
        return outcome

    def _remove(self, ticket: int) -> Future[object] | None:
        """Forget a call; -> the future that is to be cancelled."""
        held_bytes = self._held.pop(ticket, None)
        if held_bytes is None:
            return None
        self._memory.release(held_bytes)
        self._outside.discard(ticket)
        if self._finished.pop(ticket, None) is not None:
            self._finished_bytes -= held_bytes
        self._settle(ticket, CANCELLED)
        return self._futures.pop(ticket, None)

    def cancel(self, tickets: Iterable[int]) -> None:
        """Remove and cancel calls in the given order.

        Callers pass the newest first: calls that are queued behind others must not start in the place of those. The
        lock is taken once: for each of thousands, it would have to be waited for behind all threads that make calls.
        """
        with self._changed:
            futures = [self._remove(ticket) for ticket in tickets]
        for future in futures:
            if future is not None:
                future.cancel()

    @property
    def newest(self) -> int:
        """The ticket of the newest call in flight; 0 without any."""
        return next(reversed(self._held), 0)

    def unfinished(self, tickets: set[int]) -> set[int]:
        """Return those of these calls that have not finished."""
        with self._changed:
            return tickets - self._finished.keys()

    def newer(self, ticket: int) -> list[int]:
        """Return the tickets above this one, the newest first."""
        return [other for other in reversed(self._held) if other > ticket]

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
            return wanted <= self._finished.keys() if everything else not wanted.isdisjoint(self._finished)

    def wait(self, wanted: set[int], *, everything: bool, seconds: float | None) -> set[int] | None:
        """Wait for one or all of `wanted`, at most `seconds`; -> those that have finished, None after an interrupt.

        With nothing to wait for, this is a sleep.
        """
        ends = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            self._awaited = wanted - self._finished.keys()
            some_finished = len(self._awaited) < len(wanted)
            self._missing = len(self._awaited) if everything else not some_finished
            self._missing_outside = len(self._awaited & self._outside)
        # The pause is entered without the lock: the deadline's thread holds its own while it interrupts.
        while self._must_wait(ends):
            is_outside = self._missing_outside > 0
            with self._pause(outside=is_outside), self._changed:
                while self._must_wait(ends) and (self._missing_outside > 0) == is_outside:
                    self._changed.wait(None if ends is None else ends - time.monotonic())
        with self._changed:
            self._awaited = set()
            return None if self.interrupted.done() else wanted & self._finished.keys()

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


def outcome_text(outcome: KeptOutcome) -> str:
    """Return an outcome as the answer to the guest, in JSON."""
    return outcome.decode() if isinstance(outcome, bytes) else _encode({"ok": outcome})


def outcome_value(outcome: KeptOutcome) -> CallOutcome:
    """Return what an outcome tells."""
    if isinstance(outcome, str):
        return CallOutcome(outcome)
    answer = json.loads(outcome)
    return CallOutcome(answer.get("ok"), answer.get("refused"))


def kept_outcome(value: Any) -> KeptOutcome:
    """Return the outcome of a call that has returned this JSON value."""
    return value if type(value) is str else _encode({"ok": value}).encode()


def _kept_value(name: str, value: object) -> KeptOutcome:
    try:
        return kept_outcome(value)
    except Exception as error:  # whatever a value that is not JSON raises
        logger.warning("host function %s returned a value that is not JSON", name, exc_info=error)
        return _refused(f"the host function {name} failed")


def _refused(text: str) -> bytes:
    return _encode({"refused": text}).encode()

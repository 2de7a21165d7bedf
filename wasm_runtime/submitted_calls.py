"""Submitted calls of one session: which of them begin now, and who begins those that wait.

A host function that returns at once what it has started needs no thread: such calls begin on the guest's thread, and
where there are many, the end of one begins the next. Others are made on threads, a limited number at a time.
"""

import json
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from wasm_runtime.pending_calls import HostFunction, PendingCalls, failed_future, start_call
from wasm_runtime.queued_calls import QueuedCalls

# Functions of one session that run on threads at the same time.
_QUEUED_AT_ONCE = 64
# A call whose text is longer is not begun by the thread that brings the answer of the one before it.
_LONG_CALL = 1 << 18

_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Starts:
    """A host function that only starts something and returns its future: many submitted calls need no threads.

    At most `at_once` submitted calls of one session have begun and not ended; the others wait.
    """

    function: HostFunction
    at_once: int | None = None

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Start it; -> its future."""
        return self.function(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Timed:
    """A host function that is told, as `seconds_left`, how long the cell that calls it may still run."""

    function: HostFunction

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Call it, with the `seconds_left` among `kwargs`."""
        return self.function(*args, **kwargs)


def with_time(
    function: HostFunction, kwargs: dict[str, object], seconds_left: Callable[[], float]
) -> dict[str, object]:
    """Return the named arguments of a call, with the time that is left if the function is told it."""
    return {**kwargs, "seconds_left": seconds_left()} if isinstance(function, Timed) else kwargs


def call_text(name: str, args: list[object], kwargs: dict[str, object]) -> str:
    """Return a call as a text, for the time that it waits."""
    return f"{name} {_encode([args, kwargs])}"


class SubmittedCalls:
    """Begins calls that `pending` has registered. Used on the guest's thread, and on those that end calls."""

    def __init__(
        self,
        functions: Mapping[str, HostFunction],
        executor: Callable[[], Executor],
        pending: PendingCalls,
        seconds_left: Callable[[], float],
    ) -> None:
        """`executor` runs functions that may block. `seconds_left` tells how long the cell may still run."""
        self._functions, self._executor = functions, executor
        self._pending, self._seconds_left = pending, seconds_left
        self._queued = QueuedCalls(at_once=_QUEUED_AT_ONCE)
        self._starting = {
            name: QueuedCalls(at_once=function.at_once)
            for name, function in functions.items()
            if isinstance(function, Starts) and function.at_once is not None
        }

    def begins_now(
        self, ticket: int, name: str, function: HostFunction, args: list[object], kwargs: dict[str, object]
    ) -> bool:
        """Begin a submitted call, unless it has to wait for its turn or for a thread."""
        if not isinstance(function, Starts):
            return False
        queue = self._starting.get(name)
        if queue is None:
            self._pending.begin(ticket, name, start_call(function, args, kwargs))
        elif not queue.begins_now():
            return False
        elif self._is_done(queue, ticket, name, start_call(function, args, kwargs)):
            self._start_next(queue)
        return True

    def add(self, name: str, calls: Mapping[int, str]) -> None:
        """Have calls of function `name`, texts by ticket, begin after those that wait already."""
        if (queue := self._starting.get(name)) is None:
            for _ in range(self._queued.add(calls)):
                self._make_on_thread()
        else:  # a turn may be free again by now
            for _ in range(queue.add(calls)):
                self._start_next(queue)

    def forget(self, tickets: Collection[int]) -> None:
        """Let those of these calls that have not begun never begin."""
        for queue in (self._queued, *self._starting.values()):
            queue.forget(tickets)

    def _is_done(self, queue: QueuedCalls, ticket: int, name: str, future: Future[object]) -> bool:
        """Take the outcome of a call of a turn; -> whether it has ended already. Otherwise its end starts the next."""
        self._pending.begin(ticket, name, future)
        if future.done():
            return True
        future.add_done_callback(partial(self._start_next, queue))
        return False

    def _start_next(self, queue: QueuedCalls, _: object = None) -> None:
        while (call := queue.take()) is not None:
            ticket, text = call
            if len(text) > _LONG_CALL:
                with suppress(RuntimeError):  # of an executor that was shut down: the session has ended
                    self._executor().submit(self._start_long, queue, ticket, text)
                return
            if not self._is_done(queue, ticket, *self._begun(text)):
                return

    def _start_long(self, queue: QueuedCalls, ticket: int, text: str) -> None:
        if self._is_done(queue, ticket, *self._begun(text)):
            self._start_next(queue)

    def _begun(self, text: str) -> tuple[str, Future[object]]:
        """Begin a call that has waited; -> the name of its function, and its future."""
        name, _, given = text.partition(" ")
        function = self._functions[name]
        try:
            args, kwargs = json.loads(given)
            return name, start_call(function, args, with_time(function, kwargs, self._seconds_left))
        except BaseException as error:  # noqa: BLE001 - it would end the thread, and the guest would wait for ever
            return name, failed_future(error)

    def _make_on_thread(self) -> None:
        self._executor().submit(self._make_next)

    def _make_next(self) -> None:
        """Make one waiting call; the next queues behind those of other sessions with the same executor."""
        call = self._queued.take()
        if call is None:
            return
        ticket, text = call
        name, made = self._begun(text)
        if not made.done():  # the rest of the wait is not for this process
            self._pending.mark_outside(ticket)
        self._pending.begin(ticket, name, made)
        del made, call, text
        with suppress(RuntimeError):  # of an executor that was shut down: the session has ended
            self._make_on_thread()

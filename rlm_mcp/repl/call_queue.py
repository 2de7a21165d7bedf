"""Calls from sandbox threads, answered on the event loop in the order of their arrival, a limited number at once.

A batch of thousands of sub-calls waits here as futures. Worker tasks take call after call; the loop starts one more
worker in each of its turns until the limit is reached, so that a batch neither blocks the loop nor fills memory with
tasks.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from inspect import isawaitable
from itertools import count
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from rlm_mcp.concurrency import is_being_cancelled

ANSWERED_IN_A_TURN = 3
"""Calls that one worker may answer without waiting, from a cache or with a refusal, before other tasks run."""

CallSoon = Callable[[Callable[[], None]], object]
"""Schedules a function on the event loop, from any thread and without waiting for it."""

Call = tuple[Callable[[], Any], Future[Any]]
"""A function (async or not) and the future of its result. Cancelling the future cancels the call."""


class CallQueue:
    """Calls that start in the order in which they are added, at most `limit` at once. Belongs to the event loop."""

    def __init__(self, tasks: TaskGroup, call_soon: CallSoon, *, limit: float = math.inf) -> None:
        self._tasks = tasks
        self._call_soon = call_soon
        self._limit = limit
        self._workers = 0
        self._is_starting = False
        self._waiting: OrderedDict[Future[Any], Callable[[], Any]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def waiting_count(self) -> int:
        """How many calls have not begun."""
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<CallQueue {self._workers} workers, {len(self._waiting)} waiting>"

    def add(self, call: Call) -> None:
        """Starts the call when those before it have started; its future gets the result or the exception.

        A call that is cancelled, from any thread, leaves the queue at once: code in a sandbox may submit and cancel
        calls for as long as it runs.
        """
        function, future = call
        with self._lock:
            self._waiting[future] = function
        future.add_done_callback(self._forget)  # at once, if it is cancelled already
        self._add_worker()

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._waiting.pop(future, None)

    def _add_worker(self) -> None:
        """Starts one worker in each turn of the event loop, so that other tasks run in between."""
        if self._waiting and not self._is_starting and self._workers < self._limit:
            self._workers += 1
            self._is_starting = True
            self._tasks.start_soon(self._work)

    async def _work(self) -> None:
        self._is_starting = False
        try:
            for number in count(1):
                if number % ANSWERED_IN_A_TURN == 0:
                    await anyio.lowlevel.checkpoint()
                with self._lock:
                    if not self._waiting:
                        return
                    future, function = self._waiting.popitem(last=False)
                self._add_worker()
                await self._answer(function, future)
        finally:
            self._workers -= 1

    async def _answer(self, function: Callable[[], Any], future: Future[Any]) -> None:
        if future.cancelled():
            return
        with anyio.CancelScope() as scope:
            future.add_done_callback(lambda done: self._call_soon(scope.cancel) if done.cancelled() else None)
            try:
                value = function()
                _set_result(future, await value if isawaitable(value) else value)
            except anyio.get_cancelled_exc_class():
                is_cancelled = is_being_cancelled()  # before the end of the future cancels the scope
                future.cancel()
                if is_cancelled:
                    raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - belongs to the caller, who waits for it
                _set_exception(future, error)
            finally:
                del future  # it refers to the exception, which refers to this frame: cyclic garbage for every call


class CallHandoff:
    """Hands calls from sandbox threads to queues on the event loop, a whole batch in one step of the loop."""

    def __init__(self, tasks: TaskGroup, call_soon: CallSoon) -> None:
        self._tasks = tasks
        self._call_soon = call_soon
        self._unbounded = CallQueue(tasks, call_soon)
        self._handoff_lock = threading.Lock()
        self._pending: list[tuple[CallQueue, Call]] = []
        self._has_pending = anyio.Event()

    def __repr__(self) -> str:
        return f"<CallHandoff {len(self._pending)} pending>"

    def make_queue(self, limit: int) -> CallQueue:
        """A queue for `submit`."""
        return CallQueue(self._tasks, self._call_soon, limit=limit)

    def submit(self, function: Callable[[], Any], queue: CallQueue | None = None) -> "Future[Any]":
        """From a sandbox thread: calls `function` (async or not) on the event loop. Cancelling the future cancels it.

        A call that may itself wait for other calls must not be put into the bounded queue of those.
        """
        future: Future[Any] = Future()
        with self._handoff_lock:
            self._pending.append((self._unbounded if queue is None else queue, (function, future)))
            is_first = len(self._pending) == 1
        if is_first:  # otherwise the loop knows
            self._call_soon(self._has_pending.set)
        return future

    def start(self, function: Callable[[], Any]) -> None:
        """On the event loop: calls `function` beside the calls of the sandbox."""
        self._unbounded.add((function, Future()))

    async def serve(self) -> None:
        """Moves submitted calls into their queues until it is cancelled."""
        while True:
            await self._has_pending.wait()
            self._has_pending = anyio.Event()
            with self._handoff_lock:
                calls, self._pending = self._pending, []
            for queue, call in calls:
                queue.add(call)


def _set_result(future: Future[Any], value: Any) -> None:
    with suppress(InvalidStateError):  # cancelled meanwhile
        future.set_result(value)


def _set_exception(future: Future[Any], error: BaseException) -> None:
    with suppress(InvalidStateError):  # cancelled meanwhile
        future.set_exception(error)

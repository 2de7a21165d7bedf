"""Calls that come from other threads, answered on the event loop: in the order in which they come, not all at once.

A batch of thousands of sub-calls waits here as futures. Workers go from call to call; another one begins in each turn
of the loop until there are as many as there may be, so that a batch neither holds the loop nor fills memory with tasks.
"""

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from inspect import isawaitable
from itertools import count
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

ANSWERED_IN_A_TURN = 3
"""Calls that one task may answer without waiting, from a cache or with a refusal, before others have a turn."""

Soon = Callable[[Callable[[], None]], object]
"""Has the event loop call a function, from any thread and without waiting for it."""

Call = tuple[Callable[[], Any], Future[Any]]


class Lane:
    """Calls from guests, begun in the order in which they come, at most so many at once."""

    def __init__(self, tasks: TaskGroup, soon: Soon, *, most: float = math.inf) -> None:
        self._tasks = tasks
        self._soon = soon
        self._most = most
        self._at_work = 0
        self._is_starting = False
        self._waiting: deque[Call] = deque()

    def add(self, call: Call) -> None:
        """From the event loop: begins the call when those before it have begun; its future gets what comes of it."""
        self._waiting.append(call)
        self._one_more()

    def _one_more(self) -> None:
        """One in each turn of the event loop, so that others have theirs in between."""
        if self._waiting and not self._is_starting and self._at_work < self._most:
            self._at_work += 1
            self._is_starting = True
            self._tasks.start_soon(self._work)

    async def _work(self) -> None:
        self._is_starting = False
        try:
            for number in count(1):
                if number % ANSWERED_IN_A_TURN == 0:
                    await anyio.lowlevel.checkpoint()
                if not self._waiting:
                    return
                call = self._waiting.popleft()
                self._one_more()
                await self._run(*call)
        finally:
            self._at_work -= 1

    async def _run(self, function: Callable[[], Any], future: Future[Any]) -> None:
        if future.cancelled():
            return
        with anyio.CancelScope() as scope:
            future.add_done_callback(lambda done: self._soon(scope.cancel) if done.cancelled() else None)
            try:
                value = function()
                _settle(future, value=await value if isawaitable(value) else value)
            except Exception as error:  # noqa: BLE001 - belongs to whoever called
                _settle(future, error=error)
            except anyio.get_cancelled_exc_class():
                future.cancel()
                raise
            finally:
                del future  # it has the exception, which has this frame: thousands of circles after a batch


def _settle(future: Future[Any], *, value: Any = None, error: Exception | None = None) -> None:
    """Gives a future its outcome, unless it was cancelled meanwhile."""
    with suppress(InvalidStateError):
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

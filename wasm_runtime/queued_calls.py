"""Calls of one session that wait for a thread.

A guest may submit thousands at once. Each waits as one entry of a queue: an executor would keep a future of its own, a
lock and several containers for it, and every full garbage collection stops the process while it visits them.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from threading import Lock


class QueuedCalls:
    """Makes calls on the threads of an executor, in the order in which they are added. Used from any thread."""

    def __init__(self, executor: Callable[[], Executor], *, at_once: int) -> None:
        """At most `at_once` calls are made at the same time."""
        self._executor = executor
        self._at_once = at_once
        self._waiting: deque[list[Callable[[], None]]] = deque()
        self._begun = 0
        self._lock = Lock()

    def add(self, function: Callable[[], None], future: "Future[object]") -> None:
        """Have `function`, which sets the future and does not raise, called unless the future is cancelled first."""
        entry = [function]
        future.add_done_callback(lambda _: entry.clear())  # a cancelled call keeps its place, but not its arguments
        with self._lock:
            self._waiting.append(entry)
            if self._begun == self._at_once:
                return
            self._begun += 1
        self._executor().submit(self._make_next)

    def _make_next(self) -> None:
        """Make one call; the next queues behind those of other sessions with the same executor."""
        if (function := self._next()) is None:
            return
        function()
        del function
        with suppress(RuntimeError):  # of an executor that was shut down: the session has ended
            self._executor().submit(self._make_next)

    def _next(self) -> Callable[[], None] | None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._begun -= 1
                    return None
                entry = self._waiting.popleft()
            with suppress(IndexError):
                return entry.pop()

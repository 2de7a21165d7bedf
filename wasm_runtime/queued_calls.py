"""Calls of one session that wait for a thread.

A guest may submit thousands at once. Each waits as one entry of a queue: an executor would keep a future of its own, a
lock and several containers for it, and every full garbage collection stops the process while it visits them. A call
that is cancelled leaves the queue at once: a guest may submit and cancel for as long as it runs.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from contextlib import suppress
from threading import Lock


class QueuedCalls:
    """Makes calls on the threads of an executor, in the order in which they are added. Used from any thread."""

    def __init__(self, executor: Callable[[], Executor], *, at_once: int) -> None:
        """At most `at_once` calls are made at the same time."""
        self._executor = executor
        self._at_once = at_once
        self._waiting: OrderedDict[Future[object], Callable[[], None]] = OrderedDict()
        self._begun = 0
        self._lock = Lock()

    @property
    def waiting_count(self) -> int:
        """How many calls have not begun."""
        return len(self._waiting)

    def add(self, calls: "Mapping[Future[object], Callable[[], None]]") -> None:
        """Have functions, which set their futures and do not raise, called unless a future is cancelled first.

        Those that are added together begin together: threads at work would delay that the others are added.
        """
        with self._lock:
            self._waiting.update(calls)
            more = min(self._at_once - self._begun, len(calls))
            self._begun += more
        for future in calls:
            future.add_done_callback(self._forget)  # at once, if it is cancelled already
        for _ in range(more):
            self._executor().submit(self._make_next)

    def forget(self, futures: "Iterable[Future[object]]") -> None:
        """Remove the calls of these futures that have not begun, so that no thread is busy while they are cancelled."""
        with self._lock:
            for future in futures:
                self._waiting.pop(future, None)

    def _forget(self, future: "Future[object]") -> None:
        self.forget([future])

    def _make_next(self) -> None:
        """Make one call; the next queues behind those of other sessions with the same executor."""
        with self._lock:
            if not self._waiting:
                self._begun -= 1
                return
            _, function = self._waiting.popitem(last=False)
        function()
        del function
        with suppress(RuntimeError):  # of an executor that was shut down: the session has ended
            self._executor().submit(self._make_next)

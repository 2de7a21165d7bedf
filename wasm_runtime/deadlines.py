"""One thread that stops cells: kindly at their deadline, firmly when that is not heeded.

A stop has two steps. `interrupt` makes CPython raise KeyboardInterrupt at its next poll, which keeps every
variable; it is repeated, because a program may swallow it. `kill` traps the guest at its next loop head; the
session then undoes the cell. Neither costs the guest anything until it is used.
"""

import heapq
import itertools
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

# How long a cell may take to end after KeyboardInterrupt: enough for `finally` blocks, short for a user.
GRACE_SECONDS = 0.25


Cause = Literal["deadline", "interrupt"]


class Stoppable(Protocol):
    """A running cell, as the watch sees it. Both methods may be called from any thread, any number of times."""

    def soft_stop(self) -> None:
        """Ask kindly: KeyboardInterrupt in the guest, and an end to the wait it may be in."""

    def hard_stop(self) -> None:
        """Trap the guest at its next loop head."""


class Deadline:
    """The time a cell has left; it stands still while the guest waits for the host. Owned by one Watch."""

    def __init__(self, watch: "Watch", cell: Stoppable) -> None:
        self._watch = watch
        self._cell = weakref.ref(cell)  # it has its deadline; a circle would leave both to the garbage collector
        self._left = 0.0
        self._ends: float | None = None
        self._watched_at: float | None = None
        self._active = False
        self._lock = threading.Lock()
        self.expired: Cause | None = None

    @contextmanager
    def running(self, seconds: float) -> Iterator[None]:
        """Give the body `seconds`."""
        self._left, self.expired, self._active = seconds, None, True
        self._start()
        try:
            yield
        finally:
            self._stop(ended=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the time stand still while the body waits for the host."""
        self._stop()
        try:
            yield
        finally:
            self._start()

    @property
    def left(self) -> float:
        """Seconds of the cell's own time that are left."""
        with self._lock:
            return self._left if self._ends is None else max(0.0, self._ends - time.monotonic())

    def charge(self, seconds: float) -> None:
        """Take time that was spent elsewhere for the cell, while its own stands still."""
        with self._lock:
            self._left = max(0.0, self._left - seconds)

    def expire(self) -> None:
        """End the time of the cell that runs, if one does. The firm step follows after the grace."""
        with self._lock:
            if not self._active:
                return
            self.expired = self.expired or "interrupt"
            self._left = GRACE_SECONDS
            if self._ends is not None:
                self._ends = time.monotonic() + GRACE_SECONDS
                self._ask_to_be_watched()
            self._stop_cell(hard=False)

    def tick(self, now: float) -> None:
        """Act if the time is over; called by the watch at the time it was asked for."""
        with self._lock:
            self._watched_at = None
            if self._ends is None:
                return
            due = now >= self._ends
            hard = due and self.expired is not None
            if due:
                self.expired = self.expired or "deadline"
                self._ends = now + GRACE_SECONDS
            self._ask_to_be_watched()
            # Inside the lock: a cell that has ended must not be stopped, the next one would be hit.
            if due:
                self._stop_cell(hard=hard)

    def _stop_cell(self, *, hard: bool) -> None:
        if (cell := self._cell()) is not None:
            cell.soft_stop()
            if hard:
                cell.hard_stop()

    def _start(self) -> None:
        with self._lock:
            self._ends = time.monotonic() + self._left
            self._ask_to_be_watched()

    def _stop(self, *, ended: bool = False) -> None:
        with self._lock:
            if ended:
                self._active = False
            if self._ends is not None:
                self._left = max(0.0, self._ends - time.monotonic())
                self._ends = None

    def _ask_to_be_watched(self) -> None:
        # One entry at a time: a later end is found when the entry comes up, so cells by the thousand add nothing.
        if self._ends is not None and (self._watched_at is None or self._ends < self._watched_at):
            self._watched_at = self._ends
            self._watch.add(self._ends, self)


class Watch:
    """The thread. It starts with the first deadline and sleeps until the next one; `close` ends it."""

    def __init__(self) -> None:
        # Weakly: an entry stays until its time has come, and a closed session should not have to.
        self._heap: list[tuple[float, int, weakref.ref[Deadline]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def deadline(self, cell: Stoppable) -> Deadline:
        """Return a deadline for the cells of one session; nothing is watched until it runs."""
        return Deadline(self, cell)

    def add(self, when: float, deadline: Deadline) -> None:
        """Look at `deadline` at the monotonic time `when`."""
        with self._changed:
            soonest = not self._heap or when < self._heap[0][0]
            heapq.heappush(self._heap, (when, next(self._numbers), weakref.ref(deadline)))
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="wasm-watch", daemon=True)
                self._thread.start()
            elif soonest:
                self._changed.notify()

    def close(self) -> None:
        """End the thread; cells still running are no longer stopped by time."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                if not self._heap or self._heap[0][0] > now:
                    self._changed.wait(self._heap[0][0] - now if self._heap else None)
                    continue
                deadline = heapq.heappop(self._heap)[2]()
            if deadline is not None:
                deadline.tick(now)
            del deadline  # or the thread would hold it while it waits

"""Deadlines of cells, and the thread that enforces them.

A cell is stopped in two steps. `interrupt_guest` makes CPython raise KeyboardInterrupt at its next poll, which keeps
every variable; it is repeated, because a program may ignore it. `trap_guest` traps the guest at its next loop head; the
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

# A shorter wait is the cell's own time: it was for an answer that was there, or a refusal, and a cell that asks in a
# loop would otherwise run for ever. An answer of a model takes longer.
SHORT_WAIT_SECONDS = 0.02

# How often a cell that waits for a place to compute looks whether it was interrupted.
_POLL_SECONDS = 0.1

ExpiredBy = Literal["deadline", "interrupt"]


class Stoppable(Protocol):
    """A running cell. Both methods may be called from any thread, any number of times."""

    def interrupt_guest(self) -> None:
        """Raise KeyboardInterrupt in the guest, and end the wait it may be in."""

    def trap_guest(self) -> None:
        """Trap the guest at its next loop head."""


class Deadline:
    """The time a cell has left. It does not pass while the guest waits for an answer from outside of this process.

    A cell that computes has one of the `places`, for which it waits outside of its time.
    """

    def __init__(self, thread: "DeadlineThread", cell: Stoppable, places: threading.Semaphore | None = None) -> None:
        self._thread = thread
        self._places = places
        self._has_place = False
        self._cell = weakref.ref(cell)  # the cell holds its deadline; a reference cycle would need the collector
        self._left = 0.0
        self._ends: float | None = None
        self._scheduled_at: float | None = None
        self._active = False
        self._reason: ExpiredBy = "deadline"
        self._lock = threading.Lock()
        self.expired: ExpiredBy | None = None

    @contextmanager
    def running(self, seconds: float, *, reason: ExpiredBy = "deadline") -> Iterator[None]:
        """Give the body `seconds`; `reason` says why it ends when they are over."""
        self._left, self.expired, self._active, self._reason = seconds, None, True, reason
        self._take_place()
        self._start_clock()
        try:
            yield
        finally:
            self._stop_clock(ended=True)
            self._give_back_place()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock while the body waits for an answer from outside; a wait of a moment is counted afterwards."""
        began = time.monotonic()
        self._stop_clock()
        self._give_back_place()
        try:
            yield
        finally:
            waited = time.monotonic() - began
            if waited < SHORT_WAIT_SECONDS:
                self.charge(waited)
            self._take_place()
            self._start_clock()

    def seconds_left(self) -> float:
        """Return how many seconds of the cell's own time are left."""
        with self._lock:
            return self._left if self._ends is None else max(0.0, self._ends - time.monotonic())

    def charge(self, seconds: float) -> None:
        """Subtract time that was used while the clock was stopped, as by copies of the guest."""
        with self._lock:
            self._left = max(0.0, self._left - seconds)
            if self._ends is not None:
                self._ends -= seconds
                self._schedule()

    def expire(self, by: ExpiredBy = "interrupt") -> None:
        """Interrupt the running cell, if any. It is trapped if it has not ended after the grace period.

        Repeated interrupts do not make the grace period longer.
        """
        with self._lock:
            if not self._active:
                return
            if self.expired is None:
                self.expired, self._left = by, GRACE_SECONDS
                if self._ends is not None:
                    self._ends = time.monotonic() + GRACE_SECONDS
                    self._schedule()
            self._stop_cell(trap=False)

    def tick(self, now: float) -> None:
        """Stop the cell if its time is over; called by the thread at the scheduled time."""
        with self._lock:
            self._scheduled_at = None
            if self._ends is None:
                return
            due = now >= self._ends
            trap = due and self.expired is not None
            if due:
                self.expired = self.expired or self._reason
                self._ends = now + GRACE_SECONDS
            self._schedule()
            # Inside the lock: once a cell has ended, a stop would hit the next one.
            if due:
                self._stop_cell(trap=trap)

    def _stop_cell(self, *, trap: bool) -> None:
        if (cell := self._cell()) is not None:
            cell.interrupt_guest()
            if trap:
                cell.trap_guest()

    def _take_place(self) -> None:
        """Wait for a place; an interrupted cell goes on without one, to its end."""
        if self._places is None:
            return
        while not self._has_place and self.expired is None:
            self._has_place = self._places.acquire(timeout=_POLL_SECONDS)

    def _give_back_place(self) -> None:
        if self._places is not None and self._has_place:
            self._has_place = False
            self._places.release()

    def _start_clock(self) -> None:
        with self._lock:
            self._ends = time.monotonic() + self._left
            self._schedule()

    def _stop_clock(self, *, ended: bool = False) -> None:
        with self._lock:
            if ended:
                self._active = False
            if self._ends is not None:
                self._left = max(0.0, self._ends - time.monotonic())
                self._ends = None

    def _schedule(self) -> None:
        # One entry at a time: a later end is noticed when the entry is due, so thousands of cells add no entries.
        if self._ends is not None and (self._scheduled_at is None or self._ends < self._scheduled_at):
            self._scheduled_at = self._ends
            self._thread.schedule(self._ends, self)


class DeadlineThread:
    """The thread. It sleeps until the next deadline; `close` ends it.

    It does not start with the first deadline, because a thread inherits the low priority of those that run cells.
    """

    def __init__(self) -> None:
        # Weak references: an entry stays until its time has come, and must not keep a closed session.
        self._heap: list[tuple[float, int, weakref.ref[Deadline]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="wasm-deadlines", daemon=True)
        self._thread.start()

    def deadline(self, cell: Stoppable, places: threading.Semaphore | None = None) -> Deadline:
        """Return a deadline for the cells of one session; nothing is scheduled until a cell runs.

        With `places`, no more of the cells that share them compute at once.
        """
        return Deadline(self, cell, places)

    def schedule(self, when: float, deadline: Deadline) -> None:
        """Call `deadline.tick` at the monotonic time `when`."""
        with self._changed:
            soonest = not self._heap or when < self._heap[0][0]
            heapq.heappush(self._heap, (when, next(self._numbers), weakref.ref(deadline)))
            if soonest:
                self._changed.notify()

    def close(self) -> None:
        """End the thread; cells that still run are no longer stopped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
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
            del deadline  # otherwise the thread would hold it while it waits

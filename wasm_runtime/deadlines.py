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

from wasm_runtime.places import PlaceClaim, Places

# How long a cell may take to end after KeyboardInterrupt: enough for `finally` blocks, short for a user.
GRACE_SECONDS = 0.25

# A shorter wait is the cell's own time: it was for an answer that was there, or a refusal, and a cell that asks in a
# loop would otherwise run for ever. An answer of a model takes longer.
SHORT_WAIT_SECONDS = 0.02

ExpiredBy = Literal["deadline", "interrupt"]


class Stoppable(Protocol):
    """A running cell. Both methods may be called from any thread, any number of times."""

    def interrupt_guest(self) -> None:
        """Raise KeyboardInterrupt in the guest, and end the wait it may be in."""

    def trap_guest(self) -> None:
        """Trap the guest at its next loop head."""


class Ticking(Protocol):
    """What the thread of the deadlines calls."""

    def tick(self, now: float) -> None:
        """Do what is due at the monotonic time `now`."""


class Deadline:
    """The time a cell has left. It does not pass while the guest waits for an answer from outside of this process.

    A cell that computes has one of the `places`, for which it waits outside of its time.
    """

    def __init__(self, thread: "DeadlineThread", cell: Stoppable, places: Places | None = None) -> None:
        self._thread = thread
        self._places = places
        self._claim = PlaceClaim()
        self._is_asked = self._is_entered = False
        self._cell = weakref.ref(cell)  # the cell holds its deadline; a reference cycle would need the collector
        self._left = 0.0
        self._ends: float | None = None
        self._scheduled_at: float | None = None
        self._active = False
        self._reason: ExpiredBy = "deadline"
        self._lock = threading.Lock()
        self.expired: ExpiredBy | None = None

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Give the body a place. An interrupt before its first `running` is one of that."""
        with self._lock:
            self._is_entered, self._is_asked, self.expired = True, False, None
        self._take_place()
        try:
            yield
        finally:
            self._give_back_place()
            self._is_entered = False

    @contextmanager
    def running(self, seconds: float, *, reason: ExpiredBy = "deadline") -> Iterator[None]:
        """Give the body `seconds`; `reason` says why it ends when they are over."""
        with self._lock:
            self._left, self.expired, self._active, self._reason = seconds, None, True, reason
            is_asked, self._is_asked = self._is_asked, False
        self._start_clock()
        if is_asked:
            self.expire()
        try:
            yield
        finally:
            self._stop_clock(ended=True)

    @contextmanager
    def paused(self, *, outside: bool = True) -> Iterator[None]:
        """Give the place back while the body waits, and take one again.

        If it waits for an answer from `outside`, the clock stands still; a wait of a moment is counted afterwards.
        """
        began = time.monotonic()
        if outside:
            self._stop_clock()
        self._give_back_place()
        try:
            yield
        finally:
            waited = time.monotonic() - began
            if not outside:
                self._stop_clock()
            elif waited < SHORT_WAIT_SECONDS:
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
            if self._places is not None:
                self._places.give_up(self._claim)
            if not self._active:
                self._is_asked = self._is_entered
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
        with self._lock:
            if self._is_asked or self.expired is not None:
                return
            self._places.enter(self._claim)
        with self._claim.gate:
            pass

    def _give_back_place(self) -> None:
        if self._places is not None:
            self._places.leave(self._claim)

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
        self._heap: list[tuple[float, int, weakref.ref[Ticking]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="wasm-deadlines", daemon=True)
        self._thread.start()

    def deadline(self, cell: Stoppable, places: Places | None = None) -> Deadline:
        """Return a deadline for the cells of one session; nothing is scheduled until a cell runs.

        With `places`, no more of the cells that share them compute at once.
        """
        return Deadline(self, cell, places)

    def schedule(self, when: float, ticked: Ticking) -> None:
        """Call `ticked.tick` at the monotonic time `when`, if it still exists."""
        with self._changed:
            soonest = not self._heap or when < self._heap[0][0]
            heapq.heappush(self._heap, (when, next(self._numbers), weakref.ref(ticked)))
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
                ticked = heapq.heappop(self._heap)[2]()
            if ticked is not None:
                ticked.tick(now)
            del ticked  # otherwise the thread would hold it while it waits

"""The places of cells that compute.

Theory of operation. A thread that computes in WebAssembly does not need Python's interpreter lock, but every host call
does, and so do saving the guest before a cell and reading its report after it. Of a hundred threads that want the lock,
each wakes up in vain many times for each time that it gets it: a cell of 2 ms then takes 7 ms of processor time. So a
cell begins in one of few places, one more than there are processors, and those that wait for one sleep until it is
handed to them, in the order in which they came. A cell that computes for long would keep them waiting: after a moment
it makes room for the next and computes beside it, as long as no more than `most` compute.
"""

import threading
import time
from collections import OrderedDict
from typing import Protocol

# Most cells compute for a few milliseconds between two waits.
SHORT_SECONDS = 0.05


class Timer(Protocol):
    """Calls `Places.tick` later: the thread of the deadlines."""

    def schedule(self, when: float, ticked: "Places") -> None:
        """Call it at the monotonic time `when`."""


class PlaceClaim:
    """The claim of one cell to a place. Its `gate` is locked while it waits for one."""

    def __init__(self) -> None:
        self.began = 0.0
        self.gate = threading.Lock()


class Places:
    """Shared by the cells of one owner. No method waits."""

    def __init__(self, timer: Timer, few: int, most: int) -> None:
        """`few` cells begin at once, and `most` compute at once, which includes those."""
        self._timer, self._few, self._most_long = timer, few, most - few
        self._lock = threading.Lock()
        self._waiting: OrderedDict[PlaceClaim, None] = OrderedDict()
        self._short: OrderedDict[PlaceClaim, None] = OrderedDict()
        self._long: set[PlaceClaim] = set()
        self._is_scheduled = False

    def enter(self, claim: PlaceClaim) -> None:
        """Give it a place, or have it wait for one: the cell computes once its thread could acquire the `gate`."""
        with self._lock:
            claim.gate.acquire()
            self._waiting[claim] = None
            self._hand_over()

    def give_up(self, claim: PlaceClaim) -> None:
        """End its wait, if it waits, without a place. Safe from any thread."""
        with self._lock:
            if claim in self._waiting:
                del self._waiting[claim]
                claim.gate.release()

    def leave(self, claim: PlaceClaim) -> None:
        """Give its place back, if it has one."""
        with self._lock:
            self._short.pop(claim, None)
            self._long.discard(claim)
            self._hand_over()

    def tick(self, now: float) -> None:
        """Let those that compute for long make room for others."""
        with self._lock:
            self._is_scheduled = False
            while self._short and len(self._long) < self._most_long:
                claim = next(iter(self._short))
                if now < claim.began + SHORT_SECONDS:
                    break
                del self._short[claim]
                self._long.add(claim)
            self._hand_over()

    def _hand_over(self) -> None:
        while self._waiting and len(self._short) < self._few:
            claim, _ = self._waiting.popitem(last=False)
            claim.began = time.monotonic()
            self._short[claim] = None
            claim.gate.release()
        if self._waiting and not self._is_scheduled and len(self._long) < self._most_long:
            self._is_scheduled = True
            self._timer.schedule(next(iter(self._short)).began + SHORT_SECONDS, self)

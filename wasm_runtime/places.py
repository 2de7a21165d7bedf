"""The places of cells that compute: many threads that take turns with the interpreter wait for each other, not work.

Theory of operation. A thread that computes in WebAssembly needs no turn with Python's interpreter, but every host call
does, and so do saving the guest before a cell and reading its report after it. Of a hundred threads that want a turn,
each wakes up in vain many times for each that it gets: a cell of 2 ms then takes 7 ms of processor time. So a cell
begins in one of few places, as many as there are processors and one more, and those that wait for one sleep until it
is handed to them, in the order in which they came. A cell that computes for long would keep them waiting: it leaves its
place to the next after a moment, and computes beside it, as long as no more than `most` compute.
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


class Turn:
    """One cell among those that share places; one thread waits in it at a time."""

    def __init__(self) -> None:
        self.began = 0.0
        self.gate = threading.Lock()


class Places:
    """Shared by the cells of one owner. No method waits."""

    def __init__(self, timer: Timer, few: int, most: int) -> None:
        """`few` cells begin at once, and `most` compute at once, which includes those."""
        self._timer, self._few, self._most_long = timer, few, most - few
        self._lock = threading.Lock()
        self._waiting: OrderedDict[Turn, None] = OrderedDict()
        self._short: OrderedDict[Turn, None] = OrderedDict()
        self._long: set[Turn] = set()
        self._is_scheduled = False

    def enter(self, turn: Turn) -> None:
        """Give it a place, or have it wait for one; it computes once it has acquired the `gate`, which it releases."""
        with self._lock:
            turn.gate.acquire()
            self._waiting[turn] = None
            self._hand_over()

    def give_up(self, turn: Turn) -> None:
        """End its wait, if it waits, without a place. Safe from any thread."""
        with self._lock:
            if turn in self._waiting:
                del self._waiting[turn]
                turn.gate.release()

    def leave(self, turn: Turn) -> None:
        """Give its place back, if it has one."""
        with self._lock:
            self._short.pop(turn, None)
            self._long.discard(turn)
            self._hand_over()

    def tick(self, now: float) -> None:
        """Let those that compute for long make room for others."""
        with self._lock:
            self._is_scheduled = False
            while self._short and len(self._long) < self._most_long:
                turn = next(iter(self._short))
                if now < turn.began + SHORT_SECONDS:
                    break
                del self._short[turn]
                self._long.add(turn)
            self._hand_over()

    def _hand_over(self) -> None:
        while self._waiting and len(self._short) < self._few:
            turn, _ = self._waiting.popitem(last=False)
            turn.began = time.monotonic()
            self._short[turn] = None
            turn.gate.release()
        if self._waiting and not self._is_scheduled and len(self._long) < self._most_long:
            self._is_scheduled = True
            self._timer.schedule(next(iter(self._short)).began + SHORT_SECONDS, self)

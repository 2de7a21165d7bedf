"""Calls of one session that wait for their turn.

A guest may submit thousands at once. Each waits as a number and a text: arguments, a future and its lock are several
containers, and every full garbage collection stops the process while it visits them. A call that is cancelled leaves
the queue at once: a guest may submit and cancel for as long as it runs.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from threading import Lock


class QueuedCalls:
    """The order in which calls are made, a limited number at once. Used from any thread.

    Who has a turn takes calls, and makes one after the other, until there is none.
    """

    def __init__(self, *, at_once: int) -> None:
        """There are `at_once` turns."""
        self._at_once = at_once
        self._waiting: OrderedDict[int, str] = OrderedDict()
        self._turns = 0
        self._lock = Lock()

    @property
    def waiting_count(self) -> int:
        """How many calls have not begun."""
        return len(self._waiting)

    def add(self, calls: Mapping[int, str]) -> int:
        """Have these calls, texts by ticket, taken after those that wait already; -> the turns that begin for them.

        Those that are added together begin together: threads at work would delay that the others are added.
        """
        with self._lock:
            self._waiting.update(calls)
            more = min(self._at_once - self._turns, len(calls))
            self._turns += more
        return more

    def begins_now(self) -> bool:
        """Take a turn for a call that was not added, if it need not wait."""
        with self._lock:
            is_free = self._turns < self._at_once and not self._waiting
            self._turns += is_free
        return is_free

    def take(self) -> tuple[int, str] | None:
        """Return the next call of a turn; None if there is none, and the turn is over."""
        with self._lock:
            if self._waiting:
                return self._waiting.popitem(last=False)
            self._turns -= 1
            return None

    def forget(self, tickets: Iterable[int]) -> None:
        """Remove those of these calls that have not begun."""
        with self._lock:
            for ticket in tickets:
                self._waiting.pop(ticket, None)

"""How many requests may be in flight to one provider, learned from how it answers.

`Concurrency` decides and holds no clock, no task and no lock; `Limiter` waits. The rule is that of congestion control:
start at 8, double while a round of calls takes no longer than the rounds before, then go on one by one; halve on 429,
at most once for the calls that were in flight together; keep everybody back for as long as Retry-After says, plus
jitter, so that they do not all come back in the same instant. One Limiter serves the whole process and provider.
"""

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rlm_mcp.concurrency import FifoGate

START = 8
MOST = 256
# A round may take this much longer than the best one, and this much more on top: below that it is noise.
SLOWER_FACTOR = 1.5
SLOWER_SECONDS = 0.05


class Concurrency:
    """Decides how many requests may be in flight. Times are seconds of one monotonic clock."""

    def __init__(self, *, start: int = START, most: int = MOST, jitter: Callable[[], float] = random.random) -> None:
        self.limit = float(start)
        self.in_flight = 0
        self._most = float(most)
        self._jitter = jitter
        self._paused_until = 0.0
        self._halved_at = float("-inf")
        self._doubling = True
        self._best_seconds = float("inf")
        self._round_seconds = 0.0
        self._round_calls = 0
        self._was_full = False

    def __repr__(self) -> str:
        return f"<Concurrency {self.in_flight} of {int(self.limit)}>"

    def wait_seconds(self, now: float) -> float | None:
        """0 when a request may go now, the seconds to wait, or None: when another one has ended."""
        if now < self._paused_until:
            return self._paused_until - now
        if self.in_flight >= int(self.limit):
            return None
        return 0.0

    def began(self) -> None:
        """A request was sent."""
        self.in_flight += 1
        self._was_full = self._was_full or self.in_flight >= int(self.limit)

    def answered(self, seconds: float) -> None:
        """A request was answered well after `seconds`."""
        self.in_flight -= 1
        self._round_calls += 1
        self._round_seconds += seconds
        if self._round_calls >= int(self.limit):
            self._end_round()

    def failed(self) -> None:
        """A request ended without telling anything about the load."""
        self.in_flight -= 1

    def refused(self, now: float, began: float, retry_after: float | None) -> None:
        """A request that began at `began` was answered 429 (or 503) at `now`."""
        self.in_flight -= 1
        if began >= self._halved_at:
            self.limit = max(1.0, self.limit / 2)
            self._halved_at = now
            self._doubling = False
            self._new_round()
        if retry_after is not None:
            self._paused_until = max(self._paused_until, now + retry_after * (1 + 0.1 * self._jitter()))

    def _end_round(self) -> None:
        mean = self._round_seconds / self._round_calls
        held = mean <= self._best_seconds * SLOWER_FACTOR + SLOWER_SECONDS
        # The best fades, so that a provider that has become slower for good is not held to its past for ever.
        self._best_seconds = min(mean, self._best_seconds * 1.02)
        if held and self._was_full:
            self.limit = min(self._most, self.limit * 2 if self._doubling else self.limit + 1)
        elif not held:
            self._doubling = False
        self._new_round()

    def _new_round(self) -> None:
        self._round_seconds, self._round_calls, self._was_full = 0.0, 0, False


class Slot:
    """One request's permission to be in flight. Say how it ended; if nobody does, it counts as failed."""

    def __init__(self, concurrency: Concurrency, clock: Callable[[], float]) -> None:
        self._concurrency = concurrency
        self._clock = clock
        self._began = clock()
        self._open = True
        concurrency.began()

    def answered(self) -> None:
        """The reply is there."""
        if self._close():
            self._concurrency.answered(self._clock() - self._began)

    def refused(self, retry_after: float | None) -> None:
        """The provider asks for less."""
        if self._close():
            self._concurrency.refused(self._clock(), self._began, retry_after)

    def failed(self) -> None:
        """It ended otherwise."""
        if self._close():
            self._concurrency.failed()

    def _close(self) -> bool:
        was_open, self._open = self._open, False
        return was_open


class Limiter:
    """Holds requests back until `Concurrency` lets them go, in order of arrival."""

    def __init__(self, concurrency: Concurrency | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.concurrency = concurrency or Concurrency()
        self._clock = clock
        self._gate = FifoGate()

    def __repr__(self) -> str:
        return f"<Limiter {self.concurrency.in_flight} of {int(self.concurrency.limit)}, {len(self._gate)} waiting>"

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Permission for one request, given back at the end of the block."""
        if self._gate or self.concurrency.wait_seconds(self._clock()) != 0:
            async with self._gate.queued() as place:
                while (seconds := self.concurrency.wait_seconds(self._clock())) != 0:
                    await place.wait(seconds)
                slot = Slot(self.concurrency, self._clock)
        else:
            slot = Slot(self.concurrency, self._clock)
        try:
            yield slot
        finally:
            slot.failed()
            self._gate.wake_first()

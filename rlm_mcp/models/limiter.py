"""Limits the requests in flight to one provider, and adapts the limit to how the provider responds.

`Concurrency` decides, without a clock, tasks or locks; `Limiter` waits. The rule is that of congestion control: the
limit starts at 8, doubles while a round of calls takes no longer than the rounds before, and then grows by one per
round. A 429 halves it, at most once for the calls that were in flight together. Retry-After holds all requests back,
with jitter so that they do not all resume at the same instant. A process has one Limiter per provider.
"""

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rlm_mcp.concurrency import FifoGate

START = 8
MOST = 256
# A round counts as slower if it takes longer than the best one by this factor plus these seconds; less is noise.
SLOWER_FACTOR = 1.5
SLOWER_SECONDS = 0.05


class Concurrency:
    """Decides how many requests may be in flight. All times are seconds on one monotonic clock."""

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
        """Returns the seconds until a request may be sent, 0 for now, or None for when another request has ended."""
        if now < self._paused_until:
            return self._paused_until - now
        if self.in_flight >= int(self.limit):
            return None
        return 0.0

    def began(self) -> None:
        """Records that a request was sent."""
        self.in_flight += 1
        self._was_full = self._was_full or self.in_flight >= int(self.limit)

    def answered(self, seconds: float) -> None:
        """Records a successful response after `seconds`."""
        self.in_flight -= 1
        self._round_calls += 1
        self._round_seconds += seconds
        if self._round_calls >= int(self.limit):
            self._end_round()

    def failed(self) -> None:
        """Records the end of a request that tells nothing about the load."""
        self.in_flight -= 1

    def refused(self, now: float, began: float, retry_after: float | None) -> None:
        """Records that a request sent at `began` got a 429 or 503 at `now`."""
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
        # The best time decays, so that a provider that has become slower for good is not held to its past for ever.
        self._best_seconds = min(mean, self._best_seconds * 1.02)
        if held and self._was_full:
            self.limit = min(self._most, self.limit * 2 if self._doubling else self.limit + 1)
        elif not held:
            self._doubling = False
        self._new_round()

    def _new_round(self) -> None:
        self._round_seconds, self._round_calls, self._was_full = 0.0, 0, False


class Slot:
    """The permission for one request to be in flight. Its holder reports how it ended; by default it failed."""

    def __init__(self, concurrency: Concurrency, clock: Callable[[], float]) -> None:
        self._concurrency = concurrency
        self._clock = clock
        self._began = clock()
        self._open = True
        concurrency.began()

    def answered(self) -> None:
        """Reports a successful response."""
        if self._close():
            self._concurrency.answered(self._clock() - self._began)

    def refused(self, retry_after: float | None) -> None:
        """Reports that the provider asked for fewer requests."""
        if self._close():
            self._concurrency.refused(self._clock(), self._began, retry_after)

    def failed(self) -> None:
        """Reports any other end."""
        if self._close():
            self._concurrency.failed()

    def _close(self) -> bool:
        was_open, self._open = self._open, False
        return was_open


class Limiter:
    """Holds requests back until `Concurrency` permits them, first come, first served."""

    def __init__(self, concurrency: Concurrency | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.concurrency = concurrency or Concurrency()
        self._clock = clock
        self._gate = FifoGate()

    def __repr__(self) -> str:
        return f"<Limiter {self.concurrency.in_flight} of {int(self.concurrency.limit)}, {len(self._gate)} waiting>"

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Waits for the permission for one request and gives it back at the end of the block."""
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

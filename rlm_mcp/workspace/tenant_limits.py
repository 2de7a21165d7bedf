"""How much of a server one tenant may take: requests a second, and requests, streams and runs at once.

The tests in tests/rlm_mcp/workspace/test_tenant_limits.py are what every implementation has to pass. Bytes are limited
where they are stored (contexts/store), and memory where sessions are opened (repl/sandbox.py).
"""

import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from rlm_mcp.errors import RlmError

REQUESTS_PER_SECOND, BURST = 20.0, 200.0
"""Limits of one tenant. A client that lists, reads and polls stays far below; a runaway loop does not."""

MOST_BODIES = 64
"""Requests of one tenant that are being sent at once: each may become 4 MiB."""

MOST_REQUESTS = 64
"""Requests of one tenant at once; a call that waits for a run counts, a stream of notifications does not."""

MOST_STREAMS = 64
"""Streams of notifications of one tenant. A client has one."""

MOST_RUNS = 8
"""Runs of one tenant at once."""

Holding = Literal["open", "sent", "answered", "stream"]
"""A resource that a process holds for a request: connection, body, answer, or a stream of notifications."""

_TOLD: Mapping[Holding, str] = {
    "open": "{} requests and streams are open: end one of them",
    "sent": "{} requests are still being sent: finish one of them",
    "answered": "{} requests are being answered: wait for one of them",
    "stream": "{} streams of notifications are open: end one of them",
}


class LimitReached(RlmError):
    """A tenant has as much as it may have; a request may succeed after `seconds`."""

    def __init__(self, text: str, *, seconds: float = 1.0) -> None:
        super().__init__(text)
        self.seconds = seconds


def runs_are_going_on(most: int) -> LimitReached:
    """The error of a run that would be one too many."""
    return LimitReached(f"{most} runs are going on: wait for one with rlm_result, or cancel one.")


class TenantLimits(Protocol):
    """The limits of all tenants. Requests are counted in each process, runs wherever they are."""

    def charge(self, tenant: str) -> None:
        """Takes one request from the tenant's rate. Raises LimitReached; a refused request takes nothing."""

    def hold(self, tenant: str, what: Holding) -> AbstractContextManager[None]:
        """Counts one more during a block. Raises LimitReached when the tenant has as many as it may."""

    def admit_run(self, tenant: str) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        """Counts one more run during a block. Raises LimitReached when the tenant has as many as it may.

        The function that it gives is called once the run is on record, where it may be counted from then on.
        """

    async def runs_left(self, tenant: str) -> int | None:
        """How many more runs the tenant may begin now; None where there is no limit."""


@dataclass(slots=True, kw_only=True)
class _Bucket:
    """The requests that a tenant may send now; it fills with time."""

    allowance: float = BURST
    seen: float


class LocalLimits:
    """The limits of one process. What is not named in `most` is not limited."""

    def __init__(
        self,
        most: Mapping[Holding, int] | None = None,
        *,
        most_runs: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most or {}
        self.most_runs = most_runs
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        """the least recently used first; those that are full again are forgotten"""
        self._held: Counter[tuple[str, str]] = Counter()

    def __repr__(self) -> str:
        return f"<LocalLimits, {len(self._buckets)} rates, {self._held.total()} held>"

    def charge(self, tenant: str) -> None:
        """Takes one request from the tenant's bucket."""
        now = self._clock()
        bucket = self._buckets.setdefault(tenant, _Bucket(seen=now))
        self._buckets.move_to_end(tenant)
        bucket.allowance = min(BURST, bucket.allowance + (now - bucket.seen) * REQUESTS_PER_SECOND)
        bucket.seen = now
        while now - next(iter(self._buckets.values())).seen > BURST / REQUESTS_PER_SECOND:
            self._buckets.popitem(last=False)
        if bucket.allowance < 1:
            raise LimitReached(f"more than {REQUESTS_PER_SECOND:.0f} requests a second: wait a second")
        bucket.allowance -= 1

    @contextmanager
    def hold(self, tenant: str, what: Holding) -> Iterator[None]:
        """Counts one more during a block."""
        most = self._most.get(what)
        if most is not None and self._held[tenant, what] >= most:
            raise LimitReached(_TOLD[what].format(most))
        with self._counted(tenant, what):
            yield

    @asynccontextmanager
    async def admit_run(self, tenant: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Counts one more run during a block, whatever is on record."""
        if self.most_runs is not None and await self.runs_left(tenant) == 0:
            raise runs_are_going_on(self.most_runs)

        async def go_on_counting() -> None:
            pass

        with self._counted(tenant, "run"):
            yield go_on_counting

    async def runs_left(self, tenant: str) -> int | None:
        """How many more runs the tenant may begin now."""
        return None if self.most_runs is None else max(0, self.most_runs - self._held[tenant, "run"])

    @contextmanager
    def _counted(self, tenant: str, what: str) -> Iterator[None]:
        """Counts one more during a block; what is at zero is dropped."""
        self._held[tenant, what] += 1
        try:
            yield
        finally:
            self._held[tenant, what] -= 1
            if not self._held[tenant, what]:
                del self._held[tenant, what]

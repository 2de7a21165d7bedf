"""Whether a failed request is sent again, and when. Decides only; the jitter is a parameter."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

FailureKind = Literal["rate", "loading", "server", "broken", "unreachable", "timeout"]

# How often each kind is tried again. A refused connection is tried twice within a second, for a server that is being
# restarted; more would only delay the sentence that it is down. One that says it is loading its model is waited for
# two to four minutes, which large models take.
AGAIN: dict[FailureKind, int] = {
    "rate": 8,
    "loading": 11,
    "server": 4,
    "broken": 3,
    "unreachable": 2,
    "timeout": 1,
}
FIRST_SECONDS: dict[FailureKind, float] = {
    "rate": 1.0,
    "loading": 1.0,
    "server": 0.5,
    "broken": 0.2,
    "unreachable": 0.2,
    "timeout": 0.0,
}
LONGEST_SECONDS = 30.0
# A provider that asks for a longer wait than this has a quota to tell about, not a rush.
LONGEST_RETRY_AFTER = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed request."""

    kind: FailureKind
    retry_after: float | None = None


def next_wait(failure: Failure, failures_so_far: int, jitter: Callable[[], float]) -> float | None:
    """Seconds to wait before the request is sent again, or None to give up. `failures_so_far` counts this one.

    Doubling from FIRST_SECONDS, each wait between half and the whole of its length, at least what Retry-After asks.
    """
    if failures_so_far > AGAIN[failure.kind]:
        return None
    if failure.retry_after is not None and failure.retry_after > LONGEST_RETRY_AFTER:
        return None
    longest = min(LONGEST_SECONDS, FIRST_SECONDS[failure.kind] * 2.0 ** (failures_so_far - 1))
    if failure.retry_after is not None:
        return failure.retry_after + jitter() * min(longest, 0.1 * failure.retry_after)
    return longest * (0.5 + 0.5 * jitter())

"""Decides whether a failed request is sent again, and when. Does no I/O; the jitter is a parameter."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

FailureKind = Literal["rate", "loading", "server", "broken", "unreachable", "timeout"]

# The number of retries by kind of failure. A refused connection is retried twice within a second, since the server may
# be restarting; more retries would only delay the error. A server that is loading its model is retried for two to four
# minutes, which large models take.
MOST_RETRIES: dict[FailureKind, int] = {
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
# A longer Retry-After than this means a used-up quota, not a busy moment.
LONGEST_RETRY_AFTER = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed request."""

    kind: FailureKind
    retry_after: float | None = None


def next_wait(failure: Failure, failures_so_far: int, jitter: Callable[[], float]) -> float | None:
    """Returns the seconds to wait before the next try, or None to give up. `failures_so_far` includes this failure.

    Waits double from FIRST_SECONDS; jitter takes up to half off. A wait is never shorter than Retry-After.
    """
    if failures_so_far > MOST_RETRIES[failure.kind]:
        return None
    if failure.retry_after is not None and failure.retry_after > LONGEST_RETRY_AFTER:
        return None
    longest = min(LONGEST_SECONDS, FIRST_SECONDS[failure.kind] * 2.0 ** (failures_so_far - 1))
    if failure.retry_after is not None:
        return failure.retry_after + jitter() * min(longest, 0.1 * failure.retry_after)
    return longest * (0.5 + 0.5 * jitter())

"""Decides whether a failed request is sent again, and when. Does no I/O; the jitter is a parameter."""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

FailureKind = Literal["rate", "loading", "server", "broken", "page", "unreachable", "timeout"]

# The number of retries by kind of failure. A refused connection is retried twice within a second, since the server may
# be restarting; more retries would only delay the error. A page of HTML is what a gateway shows for a moment, a wrong
# address always. A server that is loading its model is retried for two to four minutes, which large models take.
MOST_RETRIES: dict[FailureKind, int] = {
    "rate": 8,
    "loading": 11,
    "server": 4,
    "broken": 3,
    "page": 2,
    "unreachable": 2,
    "timeout": 1,
}
FIRST_SECONDS: dict[FailureKind, float] = {
    "rate": 1.0,
    "loading": 1.0,
    "server": 0.5,
    "broken": 0.2,
    "page": 0.5,
    "unreachable": 0.2,
    "timeout": 0.0,
}
LONGEST_SECONDS = 30.0
# A longer Retry-After than this means a used-up quota, not a busy moment.
LONGEST_RETRY_AFTER = 60.0
# How much of an error is searched for a wait; the rest may be a page of HTML.
_READ_CHARS = 4_000


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


# --- the wait that a provider asks for ----------------------------------------------------------------------------

_PART = re.compile(
    r"\s?(?P<number>\d{1,9}(?:\.\d{1,9})?)\s?"
    r"(?:(?P<ms>ms|milliseconds?)|(?P<h>h(?:ours?|rs?)?)|(?P<m>m(?:in(?:ute)?s?)?)|(?P<s>s(?:ec(?:ond)?s?)?))(?![a-z])",
    re.IGNORECASE,
)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_ASKS = re.compile(
    r"(?:try again|retry|wait|come back)\W+(?:[a-z]+\W+){0,3}?(?=\d)|retry_?delay[\"']?\s*[:=]\s*[\"']?(?=\d)",
    re.IGNORECASE,
)
_FIELD = re.compile(r"retry_?after\w*[\"']?\s*[:=]\s*[\"']?(\d{1,9}(?:\.\d{1,9})?)\b", re.IGNORECASE)
_RESET = re.compile(r"x-ratelimit-reset[\"']?\s*:\s*[\"']?(\d{13})\b", re.IGNORECASE)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Returns the wait that a provider asks for.

    Headers are Retry-After-Ms, Retry-After in seconds or as a date, and the reset of a limit of which nothing remains.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):
            seconds = float(headers[name]) / unit
            return seconds if 0 <= seconds < float("inf") else None
    with suppress(KeyError, ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    if "retry-after" in headers:
        return None
    waits = [
        _duration(headers.get(f"x-ratelimit-reset-{kind}", ""))
        for kind in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{kind}") == "0"
    ]
    return max((wait for wait in waits if wait is not None), default=None)


def seconds_told(text: str) -> float | None:
    """Returns the wait that the words of an error ask for: "try again in 6m0s", "retryDelay": "43.4s"."""
    text = text[:_READ_CHARS]
    for found in _ASKS.finditer(text):
        if (wait := _duration(text[found.end() : found.end() + 40])) is not None:
            return wait
    if (field := _FIELD.search(text)) is not None:
        return float(field[1])
    if (reset := _RESET.search(text)) is not None:  # OpenRouter's, in milliseconds since 1970
        return max(0.0, int(reset[1]) / 1000 - time.time())
    return None


def _duration(text: str) -> float | None:
    """Reads 1h2m, 6m0s, 800ms or 20 seconds at the start of a text."""
    seconds, at = 0.0, 0
    while (part := _PART.match(text, at)) is not None:
        seconds, at = seconds + float(part["number"]) * _SECONDS[part.lastgroup or "s"], part.end()
    return seconds if at else None

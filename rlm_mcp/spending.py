"""The limits of a run, what it has spent, and the price of tokens.

Field names are those of the settings and of a run's result. The ledger counts `Spent`, records store it, and a resumed
run continues from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Totals of a run and its children. `cost_usd` is None if any price is unknown.

    Token counts are those that providers reported, or estimates where a reply came without them.
    `unanswered_prompt_tokens` is separate: an estimate of the prompts that were sent but got no reply, because the
    call was cancelled or the connection broke. A provider may bill these without reporting them. `calls_in_vain` are
    those of the sub-calls that were asked ahead of code which then did not come to them, or has not yet.
    """

    root_calls: int = 0
    sub_calls: int = 0
    cached_calls: int = 0
    calls_in_vain: int = 0
    failed_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unanswered_prompt_tokens: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The totals as a JSON object, for records."""
        return {name: getattr(self, name) for name in self.__slots__} | {"seconds": round(self.seconds, 3)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; unknown names are ignored."""
        return cls(**{name: data[name] for name in cls.__slots__ if name in data})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """Limits of one run and its children. None means no limit, or in a request the limit of the settings.

    `concurrency` limits the model calls in flight; only the settings set it.
    """

    max_usd: float | None = None
    max_tokens: int | None = None
    max_sub_calls: int | None = None
    max_seconds: float | None = None
    max_iterations: int | None = None
    max_depth: int | None = None
    concurrency: int = 64


REQUESTED_LIMITS = tuple(name for name in RunLimits.__slots__ if name != "concurrency")
"""The limits that a request can set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars per million tokens."""

    usd_per_mtok_in: float
    usd_per_mtok_out: float

"""The limits of a run, what it has spent, and the price of tokens. Declared here once; everything else uses these.

Field names are those of the settings and of a run's result. The ledger counts `Spent`, records hold it, and resume
continues from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Sums over a run and its children. `cost_usd` is None where any price is unknown.

    Tokens are those that providers reported, or an estimate where one answers without figures.
    `unanswered_prompt_tokens` are beside them: an estimate of the prompts that were sent and brought no reply, because
    the call was cancelled or the connection broke. Providers may bill them, and nobody tells.
    """

    root_calls: int = 0
    sub_calls: int = 0
    cached_calls: int = 0
    failed_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unanswered_prompt_tokens: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The same as a JSON object, for records."""
        return {name: getattr(self, name) for name in self.__slots__} | {"seconds": round(self.seconds, 3)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse; names it does not know are ignored."""
        return cls(**{name: data[name] for name in cls.__slots__ if name in data})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """Limits of one run, its children included. None is no limit; in a request, it is the limit of the settings.

    `concurrency` bounds the model calls in flight. The settings decide it, a request cannot.
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

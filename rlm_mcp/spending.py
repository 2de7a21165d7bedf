"""What a run has cost, in the names of its result. The ledger counts it, records hold it, resume goes on from it."""

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

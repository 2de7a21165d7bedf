"""What a language model is to the rest of rlm_mcp: messages in, one completion with its usage out.

Values only; nothing here opens a connection or counts money. The kinds of model are files beside this one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal, Protocol

Role = Literal["system", "user", "assistant"]

# Wrapping of one message in the chat templates we know costs three to seven tokens.
TOKENS_PER_MESSAGE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a chat."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one call, retries included, cost.

    `cost_usd` is None where neither the provider nor a price table says it. `estimated` marks token counts that the
    provider did not report. `failed_requests` counts requests that were answered with an error or not at all,
    `unanswered_requests` those of them that may have been billed all the same: the connection broke after sending.
    `unanswered_prompt_tokens` estimates the prompts of these. `request_seconds` is how long requests were under way;
    the rest of a call's time it waited for its turn.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0
    cost_usd: float | None = None
    estimated: bool = False
    failed_requests: int = 0
    unanswered_requests: int = 0
    unanswered_prompt_tokens: int = 0
    request_seconds: float = field(default=0.0, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The same as a JSON object, for records."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "request_seconds": round(self.request_seconds, 3)
        }

    def plus(self, other: "Usage") -> "Usage":
        """Both calls together; the cost is None where one of them asked for tokens at an unknown price."""
        known = [usage.cost_usd for usage in (self, other) if usage.prompt_tokens or usage.completion_tokens]
        costs = [cost for cost in known if cost is not None]
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens + other.cached_prompt_tokens,
            cost_usd=sum(costs) if costs and len(costs) == len(known) else None,
            estimated=self.estimated or other.estimated,
            failed_requests=self.failed_requests + other.failed_requests,
            unanswered_requests=self.unanswered_requests + other.unanswered_requests,
            unanswered_prompt_tokens=self.unanswered_prompt_tokens + other.unanswered_prompt_tokens,
            request_seconds=self.request_seconds + other.request_seconds,
        )


@dataclass(slots=True)
class Attempts:
    """The requests of one call, counted while it goes on: of a call that is cancelled nobody else can tell.

    `failed` and `unanswered` as in Usage; `is_under_way` says that one was sent and is waited for.
    """

    failed: int = 0
    unanswered: int = 0
    seconds: float = 0.0
    is_under_way: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One reply, which may be an empty `text`.

    `finish_reason` is "stop", "length", "content_filter" or what the provider said; `reasoning` is thinking that the
    provider reported apart from the text.
    """

    text: str
    usage: Usage
    finish_reason: str = "stop"
    model: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What is known of a model before it is asked.

    `window_tokens` holds prompt and completion together. Prices are dollars per million tokens, None where unknown.
    `strength` decides the prompt and how much the loop helps ("weak": small and local models).
    """

    window_tokens: int = 128_000
    max_output_tokens: int = 8_192
    strength: Literal["strong", "weak"] = "strong"
    usd_per_mtok_in: float | None = None
    usd_per_mtok_out: float | None = None
    usd_per_mtok_cached_in: float | None = None
    structured_output: bool = True

    @property
    def priced(self) -> bool:
        """Whether a cost can be computed from token counts."""
        return self.usd_per_mtok_in is not None and self.usd_per_mtok_out is not None

    def cost_usd(self, prompt_tokens: int, completion_tokens: int, cached_prompt_tokens: int = 0) -> float | None:
        """Dollars for these tokens, or None where no price is known."""
        if self.usd_per_mtok_in is None or self.usd_per_mtok_out is None:
            return None
        cached_price = self.usd_per_mtok_in if self.usd_per_mtok_cached_in is None else self.usd_per_mtok_cached_in
        fresh = max(0, prompt_tokens - cached_prompt_tokens)
        dollars = (
            fresh * self.usd_per_mtok_in
            + cached_prompt_tokens * cached_price
            + completion_tokens * self.usd_per_mtok_out
        )
        return dollars / 1_000_000


class Model(Protocol):
    """A language model. Implementations are safe to call many times at once from one event loop."""

    @property
    def name(self) -> str:
        """The name the provider knows it by."""

    @property
    def provider(self) -> str:
        """Where it runs: a base URL, or a word such as "scripted". With `name` it identifies replies in the cache."""

    @property
    def profile(self) -> Profile:
        """What is known of it."""

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        schema: Mapping[str, object] | None = None,
        attempts: Attempts | None = None,
    ) -> Completion:
        """One reply to `messages`. `schema` is the JSON Schema of an object; it binds the reply where the provider can.

        `attempts` is kept up to date. Raises errors.ModelError. Other exceptions are bugs.
        """


def estimate_tokens(text: str) -> int:
    """A middling guess of the tokens in `text`: four ASCII characters to a token, any other character is one."""
    wide = len(text) - len(text.encode("ascii", "ignore"))
    return ceil((len(text) - wide) / 4) + wide


def bound_tokens(text: str) -> int:
    """An upper estimate of the tokens in `text`: two bytes of UTF-8 to a token.

    Holds for digits, logs and code; only noise such as base64 needs more (1.7 bytes to a token).
    """
    return len(text.encode("utf-8", "replace")) // 2 + 1


def estimate_prompt(messages: Sequence[Message]) -> int:
    """A middling guess of the prompt tokens of a chat."""
    return sum(estimate_tokens(message.content) + TOKENS_PER_MESSAGE for message in messages)


def bound_prompt(messages: Sequence[Message]) -> int:
    """An upper estimate of the prompt tokens of a chat."""
    return sum(bound_tokens(message.content) + TOKENS_PER_MESSAGE for message in messages)

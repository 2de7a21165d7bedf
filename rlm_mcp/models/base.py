"""The language model protocol: messages in, one completion with its usage out.

Only values and the protocol are here; nothing opens a connection or counts money. The implementations are `openai.py`,
`sampling.py` and `scripted.py`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal, Protocol

# A quarter of a million tokens; the longest outputs of today's models are half of that. The rest of a reply is dropped.
REPLY_MAX_CHARS = 1_000_000

Role = Literal["system", "user", "assistant"]

# The chat templates we know wrap each message in three to seven tokens.
TOKENS_PER_MESSAGE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a chat. `tokens` is an estimate of its tokens and `most_tokens` an upper estimate.

    They are counted once here: a prompt of n messages is estimated several times in each turn.
    """

    role: Role
    content: str
    tokens: int = field(init=False, repr=False, compare=False)
    most_tokens: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", estimate_tokens(self.content) + TOKENS_PER_MESSAGE)
        object.__setattr__(self, "most_tokens", bound_tokens(self.content) + TOKENS_PER_MESSAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens and cost of one call, including its retries.

    `cost_usd` is None if neither the provider nor a price table gives it. `estimated` marks token counts that the
    provider did not report. `failed_requests` counts requests that got an error or no response; `unanswered_requests`
    counts those of them that may have been billed nevertheless, because the connection broke after sending, and
    `unanswered_prompt_tokens` estimates their prompts. `request_seconds` is how long requests were in flight; the rest
    of a call's time was spent waiting for the limiter or for a retry. `doubt` says what the provider reported, if that
    cannot be true and our own count stands here instead.
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
    doubt: str = ""

    def to_json(self) -> dict[str, Any]:
        """The JSON object that run records hold."""
        data = {name: getattr(self, name) for name in self.__slots__}
        data["request_seconds"] = round(self.request_seconds, 3)
        if not self.doubt:
            del data["doubt"]
        return data

    def plus(self, other: "Usage") -> "Usage":
        """The sum of two calls; the cost is None if one of them used tokens at an unknown price."""
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
            doubt=self.doubt or other.doubt,
        )


@dataclass(slots=True)
class Attempts:
    """Counts of the requests of one call, updated while it runs, so that they survive its cancellation.

    `failed` and `unanswered` are as in Usage; `is_under_way` tells that a request was sent and has no response yet.
    `before_request` is awaited before each request, and what it raises prevents it.
    """

    failed: int = 0
    unanswered: int = 0
    seconds: float = 0.0
    is_under_way: bool = False
    before_request: Callable[[], Awaitable[None]] | None = None

    async def begin(self) -> None:
        """Models call this immediately before they send a request."""
        if self.before_request is not None:
            await self.before_request()
        self.is_under_way = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One reply of a model. `text` may be empty.

    `finish_reason` is "stop", "length", "content_filter" or another word of the provider; `reasoning` is the reasoning
    that the provider reported separately from the text.
    `logprobs` are the tokens of the text with their log-probabilities, if these were asked for and given.
    """

    text: str
    usage: Usage
    finish_reason: str = "stop"
    model: str = ""
    reasoning: str = ""
    logprobs: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The facts about a model that are known before it is called.

    `window_tokens` bounds prompt and completion together. Prices are dollars per million tokens, None if unknown.
    `strength` selects the prompt and how much the loop helps the model; small local models are "weak".
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
        """Dollars for these tokens, or None if no price is known."""
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
    """A language model. Implementations can be called concurrently from one event loop."""

    @property
    def name(self) -> str:
        """The provider's name for the model."""

    @property
    def provider(self) -> str:
        """Where the model runs: a base URL or a word such as "scripted". Cached replies are keyed by it and `name`."""

    @property
    def profile(self) -> Profile:
        """The facts about the model."""

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        schema: Mapping[str, object] | None = None,
        logprobs: bool = False,
        stop: Sequence[str] = (),
        attempts: Attempts | None = None,
    ) -> Completion:
        """Returns a reply to `messages`. `schema` is the JSON Schema of an object; the provider enforces it if it can.

        With `logprobs` the completion has the log-probabilities of its tokens, if the provider gives them. A reply ends
        before the first of the texts in `stop`, if the provider can do that.
        `attempts` is updated while the call runs. Raises errors.ModelError; any other exception is a bug.
        """


def estimate_tokens(text: str) -> int:
    """Estimates the tokens in `text`: four ASCII characters per token, and one token for any other character."""
    wide = len(text) - len(text.encode("ascii", "ignore"))
    return ceil((len(text) - wide) / 4) + wide


def bound_tokens(text: str) -> int:
    """Returns an upper estimate of the tokens in `text`: two bytes of UTF-8 per token.

    It holds for digits, logs and code; only noise such as base64 needs more (1.7 bytes per token).
    """
    return len(text.encode("utf-8", "replace")) // 2 + 1


def estimate_prompt(messages: Sequence[Message]) -> int:
    """Estimates the prompt tokens of a chat."""
    return sum(message.tokens for message in messages)


def bound_prompt(messages: Sequence[Message]) -> int:
    """Returns an upper estimate of the prompt tokens of a chat."""
    return sum(message.most_tokens for message in messages)

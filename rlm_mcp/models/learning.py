"""Decides what to change in a request that was refused. No I/O.

A refusal that names a parameter or a limit is followed (`judge`). One in words that are not understood makes the search
leave out one feature of the request after the other, once in the life of a model, because most such refusals are about
a feature that the server lacks. The sender remembers the dialect that worked.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, Literal

from rlm_mcp.models import wordings
from rlm_mcp.models.base import Message, estimate_prompt
from rlm_mcp.models.dialect import Dialect, Refusal, codes_of, window_in

# The shortest reply that is worth a request.
LEAST_REPLY_TOKENS = 64
# How far our estimate of a prompt may be below the server's count, where the server does not tell it.
ESTIMATE_MARGIN = 1.25
# Servers add a few tokens of their own to a prompt that they have counted.
COUNT_MARGIN_TOKENS = 16
# The longest reply that most servers with a short limit allow.
USUAL_LONGEST_REPLY = 4_096
MOST_SHORTENINGS = 4
# Shorter prompts fit into the window of every model of today.
ALWAYS_FITTING_TOKENS = 1_000
# Our estimate of a longer prompt is compared with the server's count; in a short one, what a gateway adds prevails.
LEAST_COMPARED_TOKENS = 500
# Digits and logs have 1.7 characters to a token, and our estimate assumes four.
MOST_RATIO = 2.4

_FEATURE_REFUSED = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|extra|not permitted|not allowed|invalid|deprecated"
    r"|cannot be used|does not|instead|not available|no field|cannot find",
    re.IGNORECASE,
)
_LENGTH_REFUSED = re.compile(
    r"too (?:large|long|big|high|many)|exceed|greater|more than|max|at most|range|limit|less|larger|<=?|>|must|should",
    re.IGNORECASE,
)
_SCHEMA = re.compile(
    r"response.?format|json.?schema|schema|text\.format|structured|grammar|json.?(?:mode|object)|additionalproperties"
    r"|response.?mime|guided|\bstrict\b",
    re.IGNORECASE,
)
_STREAM = re.compile(r"(?<!up)(?<!down)stream", re.IGNORECASE)
_ROLES = re.compile(
    r"\bsystem\b(?! (?:is |error|busy|fail|overload|exception))"
    r"|developer|\broles?\b|alternat|template|jinja|instruction|'user' or 'assistant'",
    re.IGNORECASE,
)
_LAST_MESSAGE = re.compile(r"prefill|\b(?:last|final) (?:role|message)|end with|at the end", re.IGNORECASE)
_AFFORDED = re.compile(r"can only afford (\d{1,9})", re.IGNORECASE)
# Refusals that no other dialect avoids.
_ABOUT_OTHER_THINGS = re.compile(
    r"content.?(?:policy|filter|management|moderation)|safety|moderation|flagged|inappropriate|sensitive|harmful"
    r"|billing|credit|balance|quota|api.?key|unauthori|permission|region\b|country|not found|not exist|no such model"
    r"|(?:invalid|unknown) model|model_not_found|decommissioned|data policy",
    re.IGNORECASE,
)

_LOGPROBS = re.compile(r"log.?prob", re.IGNORECASE)
_STOP = re.compile(r"\bstop\b", re.IGNORECASE)

Feature = Literal[
    "structured", "system_role", "length_name", "longest_reply", "temperature", "logprobs", "stop", "stream", "all"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The possible subjects of a refusal: the features and sizes of the request. `prompt_tokens` is our estimate."""

    prompt_tokens: int = 0
    max_tokens: int | None = None
    schema: bool = False
    system: bool = False
    temperature: bool = False
    logprobs: bool = False
    stop: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLong:
    """The prompt alone exceeds the window, which is 0 if the server did not tell it."""

    window: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShorterReply:
    """The prompt fits beside a reply of `max_tokens`. `window` is 0 if the server did not tell it."""

    max_tokens: int
    window: int = 0


Remedy = Dialect | TooLong | ShorterReply | None


def sent_in(body: Mapping[str, Any], messages: Sequence[Message]) -> Sent:
    """Returns what is known about a request from its body."""
    roles = [message.get("role") for message in body.get("messages") or body.get("input") or ()]
    return Sent(
        prompt_tokens=estimate_prompt(messages),
        max_tokens=body.get("max_tokens") or body.get("max_completion_tokens") or body.get("max_output_tokens"),
        schema="response_format" in body or "text" in body,
        system="system" in roles,
        temperature="temperature" in body,
        logprobs="logprobs" in body,
        stop="stop" in body,
    )


# --- refusals that name their reason ------------------------------------------------------------------------------


def judge(dialect: Dialect, refusal: Refusal, sent: Sent) -> Remedy:
    """Returns what may avoid this refusal, or None. Callers stop at a dialect that they have tried."""
    if refusal.status in {413, 429} and (limit := wordings.rate_limit_below_request(refusal.words)) is not None:
        return _within_rate(limit, sent)
    if refusal.status == 402:
        return _within_credit(refusal, sent)
    if refusal.status in {401, 403, 408, 409, 425, 429, 503}:
        return None
    if refusal.status in {404, 405} or refusal.says("v1/responses"):
        absent = refusal.says("v1/responses") or not (refusal.says("model") or refusal.says("endpoints"))
        return replace(dialect, api="responses") if dialect.api == "chat" and absent else None
    followed = _follow_length(dialect, refusal, sent) or _follow_schema(dialect, refusal, sent)
    if followed is not None:
        return followed
    if (window := window_in(refusal)) is not None:
        return _within_window(window, refusal, sent)
    others = (
        _follow_temperature(dialect, refusal, sent),
        _follow_logprobs(dialect, refusal, sent),
        _follow_stop(dialect, refusal, sent),
        _follow_stream(dialect, refusal),
        _follow_roles(dialect, refusal, sent),
    )
    followed = next((other for other in others if other not in {None, dialect}), None)
    if followed is None and refusal.status in {400, 413, 422}:
        below = wordings.limit_below(refusal.text, sent.prompt_tokens)
        return None if below is None else TooLong(window=below)
    return followed


def _follow_length(dialect: Dialect, refusal: Refusal, sent: Sent) -> Dialect | None:
    if not wordings.bounds_reply(refusal.words):
        return None
    asked = sent.max_tokens or dialect.longest_reply
    limits = wordings.limits_in(refusal.words, least=16, codes=codes_of(refusal))
    below = [limit for limit in limits if asked is None or limit < asked]
    if below:
        return replace(dialect, longest_reply=max(below))
    if dialect.length_name == "max_tokens" and refusal.says("max_completion_tokens"):
        return replace(dialect, length_name="max_completion_tokens")
    if dialect.length_name == "max_completion_tokens" and _FEATURE_REFUSED.search(refusal.words):
        return replace(dialect, length_name="max_tokens")
    if asked is not None and asked >= 2 * LEAST_REPLY_TOKENS and _LENGTH_REFUSED.search(refusal.words):
        return replace(dialect, longest_reply=asked // 2)
    return None


def _follow_schema(dialect: Dialect, refusal: Refusal, sent: Sent) -> Dialect | None:
    if not sent.schema or dialect.structured == "none" or not _SCHEMA.search(refusal.words):
        return None
    return replace(dialect, structured="json_object" if dialect.structured == "json_schema" else "none")


def _follow_temperature(dialect: Dialect, refusal: Refusal, sent: Sent) -> Dialect | None:
    return replace(dialect, temperature=False) if sent.temperature and refusal.says("temperature") else None


def _follow_logprobs(dialect: Dialect, refusal: Refusal, sent: Sent) -> Dialect | None:
    return replace(dialect, logprobs=False) if sent.logprobs and _LOGPROBS.search(refusal.words) else None


def _follow_stop(dialect: Dialect, refusal: Refusal, sent: Sent) -> Dialect | None:
    return replace(dialect, stop=False) if sent.stop and _STOP.search(refusal.words) else None


def _follow_stream(dialect: Dialect, refusal: Refusal) -> Dialect | None:
    if refusal.says("stream_options"):
        return replace(dialect, stream_usage=False)
    return replace(dialect, stream=True) if _STREAM.search(refusal.words) and not dialect.stream else None


def _follow_roles(dialect: Dialect, refusal: Refusal, sent: Sent) -> Dialect | None:
    if _LAST_MESSAGE.search(refusal.words) and not dialect.ends_with_user:
        return replace(dialect, ends_with_user=True)
    if sent.system and dialect.system_role and _ROLES.search(refusal.words):
        return replace(dialect, system_role=False)
    return replace(dialect, ends_with_user=True) if refusal.says("assistant") else None


# --- refusals about sizes -----------------------------------------------------------------------------------------


def _within_window(window: int, refusal: Refusal, sent: Sent) -> TooLong | ShorterReply:
    """Shortens the reply where the prompt fits into the window, by the server's figures if it tells them."""
    asked, text = sent.max_tokens, refusal.words
    if not window:
        of_both = wordings.names_length(text) or refusal.says("completion")
        if asked is not None and asked > 1_024 and of_both:
            return ShorterReply(max_tokens=asked // 4)
        return TooLong(window=0)
    prompt = wordings.prompt_tokens_in(text, asked)
    if prompt is None and asked is not None and (total := wordings.total_tokens_in(text, window)) is not None:
        beside = total - asked
        prompt = beside if sent.prompt_tokens / 4 < beside < sent.prompt_tokens * 4 else None
    room = window - (with_margin(sent.prompt_tokens) if prompt is None else prompt + COUNT_MARGIN_TOKENS)
    if room >= LEAST_REPLY_TOKENS and (asked is None or room < asked):
        return ShorterReply(max_tokens=room, window=window)
    return TooLong(window=window)


def _within_rate(limit: tuple[int, int], sent: Sent) -> ShorterReply | None:
    """Shortens a reply that counts against tokens per minute; None if the prompt alone is over the rate."""
    most, requested = limit
    if sent.max_tokens is None or requested <= sent.max_tokens:
        return None
    room = most - (requested - sent.max_tokens) - COUNT_MARGIN_TOKENS
    return ShorterReply(max_tokens=room) if LEAST_REPLY_TOKENS <= room < sent.max_tokens else None


def longest_beside(messages: Sequence[Message], ratio: float | None, max_tokens: int, window: int) -> int:
    """Returns `max_tokens`, or less if the window has no room for as much beside the prompt.

    `ratio` is how many times our estimate the server counts; where it is None, a margin is left that shortens no reply
    to less than an eighth of the window.
    """
    estimate = estimate_prompt(messages)
    room = window - ceil(estimate * (ratio or ESTIMATE_MARGIN)) - COUNT_MARGIN_TOKENS
    if ratio is None:
        room = max(room, min(window // 8, window - estimate - COUNT_MARGIN_TOKENS))
    return min(max_tokens, max(room, LEAST_REPLY_TOKENS))


def tokens_ratio(known: float | None, prompt_tokens: int, messages: Sequence[Message]) -> float | None:
    """Returns how many times our estimate the server counts at most, as `known` and by a prompt that it counted."""
    estimate = estimate_prompt(messages)
    if estimate < LEAST_COMPARED_TOKENS:
        return known
    return max(known or 0.0, min(MOST_RATIO, prompt_tokens / estimate))


def _within_credit(refusal: Refusal, sent: Sent) -> ShorterReply | None:
    """Shortens a reply to what is left on the account, as OpenRouter tells it."""
    afforded = _AFFORDED.search(refusal.text)
    if afforded is None or sent.max_tokens is None or not LEAST_REPLY_TOKENS <= int(afforded[1]) < sent.max_tokens:
        return None
    return ShorterReply(max_tokens=int(afforded[1]))


def with_margin(prompt_tokens: int) -> int:
    """Returns the most tokens that a prompt with this estimate is expected to have."""
    return ceil(prompt_tokens * ESTIMATE_MARGIN) + COUNT_MARGIN_TOKENS


# --- refusals in words that are not understood --------------------------------------------------------------------


def steps_down(dialect: Dialect, sent: Sent) -> Iterator[tuple[Feature, Dialect]]:
    """Yields dialects that leave out one feature of the request each, and at last all of them."""
    if sent.logprobs and dialect.logprobs:
        yield "logprobs", replace(dialect, logprobs=False)
    if sent.stop and dialect.stop:
        yield "stop", replace(dialect, stop=False)
    if sent.schema and dialect.structured == "json_schema":
        yield "structured", replace(dialect, structured="json_object")
    if sent.schema and dialect.structured != "none":
        yield "structured", replace(dialect, structured="none")
    if sent.system and dialect.system_role:
        yield "system_role", replace(dialect, system_role=False)
    if sent.max_tokens is not None:
        yield "longest_reply", replace(dialect, longest_reply=_shorter(sent.max_tokens))
        other: Literal["max_tokens", "max_completion_tokens"] = (
            "max_completion_tokens" if dialect.length_name == "max_tokens" else "max_tokens"
        )
        yield "length_name", replace(dialect, length_name=other)
    if sent.temperature and dialect.temperature:
        yield "temperature", replace(dialect, temperature=False)
    if not dialect.stream:
        yield "stream", replace(dialect, stream=True)
    yield "all", replace(dialect, structured="none", system_role=False, temperature=False, logprobs=False, stop=False)


def _shorter(max_tokens: int) -> int:
    return USUAL_LONGEST_REPLY if max_tokens > USUAL_LONGEST_REPLY else max(LEAST_REPLY_TOKENS, max_tokens // 4)


def may_be_about_a_feature(refusal: Refusal) -> bool:
    """Tells whether a refusal that names nothing may be about a feature of the request."""
    if refusal.status == 404:  # OpenRouter, if no provider takes all parameters
        return refusal.says("requested parameters")
    return refusal.status in {400, 415, 422, 501} and not _ABOUT_OTHER_THINGS.search(refusal.words)


@dataclass(slots=True)
class DialectSearch:
    """The search of one call for a dialect that is accepted.

    `ruled_out` are the features that an earlier refusal in unknown words was not about; the calls of a model share it,
    so that a refusal of another kind is looked into once. `refusal` is the one to report if the search fails.
    """

    dialect: Dialect
    ruled_out: set[Feature]
    refusal: Refusal | None = None
    shortenings: int = 0
    _tried: set[Dialect] = field(default_factory=set)
    _steps: list[tuple[Feature, Dialect]] | None = None
    _stepped: set[Feature] = field(default_factory=set)

    def next(self, refusal: Refusal, sent: Sent, known: Dialect) -> Remedy:
        """Returns what to send instead of the refused request. `known` is the dialect that worked for another call."""
        self._tried.add(self.dialect)
        if known not in self._tried:
            return self._switch(known)
        match judge(self.dialect, refusal, sent):
            case Dialect() as other if other not in self._tried:
                self.refusal = (
                    refusal if other.api != self.dialect.api else None
                )  # its words tell more than the next 404
                return self._switch(other)
            case ShorterReply(window=window) as shorter:
                self.shortenings += 1
                return shorter if self.shortenings <= MOST_SHORTENINGS else TooLong(window=window)
            case TooLong(window=0) as too_long if sent.prompt_tokens < ALWAYS_FITTING_TOKENS:
                return self._step_down(refusal, sent) or too_long  # the reason must be another one
            case TooLong() as too_long:
                return too_long
        if not refusal.text and sent.prompt_tokens > ALWAYS_FITTING_TOKENS:
            return TooLong(window=0)  # Mistral and Cerebras may refuse a long prompt without a word
        return self._step_down(refusal, sent)

    def _step_down(self, refusal: Refusal, sent: Sent) -> Dialect | None:
        if self._steps is None:
            self.refusal = refusal if refusal.status not in {404, 405} else self.refusal or refusal
            if not may_be_about_a_feature(refusal):
                return None
            self._steps = [step for step in steps_down(self.dialect, sent) if step[0] not in self.ruled_out]
        while self._steps:
            feature, dialect = self._steps.pop(0)
            self._stepped.add(feature)
            if dialect not in self._tried:
                return self._switch(dialect)
        self.ruled_out |= self._stepped
        return None

    def _switch(self, dialect: Dialect) -> Dialect:
        self.dialect = dialect
        return dialect

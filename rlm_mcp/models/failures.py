"""The errors of model calls: one sentence each, with the wrong value, the provider's words and the remedy.

Does no I/O. The provider's words that are passed in are already scrubbed of keys.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from rlm_mcp.errors import (
    EndpointUnreachable,
    KeyRefused,
    ModelError,
    PromptOverWindow,
    ProviderFailed,
    RateLimited,
    RequestRefused,
    UnknownModel,
)
from rlm_mcp.models.base import Attempts, Message, Model, estimate_prompt
from rlm_mcp.models.dialect import Refusal
from rlm_mcp.models.exchange import NoResponse, same_origin
from rlm_mcp.models.retries import LONGEST_RETRY_AFTER, FailureKind
from rlm_mcp.models.wordings import rate_limit_below_request
from rlm_mcp.redact import ellipsize

# How much of a provider's error is quoted.
QUOTED_CHARS = 300

# Client error statuses that are worth a retry: request timeout, conflict, too early.
TRANSIENT = frozenset({408, 409, 425})


@dataclass(slots=True)
class Tally:
    """The failed requests of one call so far, by kind."""

    attempts: Attempts
    by_kind: Counter[FailureKind] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """The number of failed requests."""
        return self.attempts.failed

    def error(self, kind: type[ModelError], text: str) -> ModelError:
        """Makes an error that carries these numbers."""
        return kind(text, failed_requests=self.failed, unanswered_requests=self.attempts.unanswered)


def retried_as(refusal: Refusal) -> FailureKind | None:
    """Returns the kind of failure that a refusal is retried as; None if a retry cannot help."""
    if refusal.status == 429:
        hopeless = out_of_credit(refusal) or rate_limit_below_request(refusal.words) is not None
        return None if hopeless else "rate"
    if refusal.status == 503 and refusal.says("loading model"):  # llama.cpp, until the model is loaded
        return "loading"
    return "server" if refusal.status >= 500 or refusal.status in TRANSIENT else None


def out_of_credit(refusal: Refusal) -> bool:
    """Tells whether the account has no money left. Free quotas, which say when to come back, are rate limits."""
    comes_back = refusal.retry_after is not None and refusal.retry_after <= LONGEST_RETRY_AFTER
    spent = refusal.says("insufficient_quota") or refusal.says("billing") or refusal.says("insufficient balance")
    return refusal.status == 402 or (spent and not comes_back)


def unreachable(url: str, answer: NoResponse, tally: Tally) -> ModelError:
    """Makes the error for an endpoint that gave no response, or a web page, after all retries."""
    times = f" ({tally.failed} times)" if tally.failed > 1 else ""
    match answer.kind:
        case "page":
            return no_reply(url, f"{answer.why}{times}", tally)
        case "unreachable":
            text = f"nothing answers at {url}{times}: {answer.why}; start the server there or set RLM_MCP_BASE_URL"
        case "timeout":
            text = f"{url} did not answer in time{times}: {answer.why}; send less at once or try later"
        case _:
            text = f"{url} broke off the connection{times}: {answer.why}; try later"
    return tally.error(EndpointUnreachable, text)


def over_window(model: Model, messages: Sequence[Message]) -> PromptOverWindow:
    """Makes the error for a prompt that does not fit into the model's window."""
    chars, window = sum(len(message.content) for message in messages), model.profile.window_tokens
    return PromptOverWindow(
        f"the prompt of {chars:,} characters, about {estimate_prompt(messages):,} tokens, is over the window of model"
        f" {model.name!r}, {window:,} tokens: send at most about {min(window * 3, chars * 2 // 3):,} characters at once"
    )


def refused_as_too_long(
    model: Model, messages: Sequence[Message], refusal: Refusal, tally: Tally, *, told: bool
) -> ModelError:
    """Makes the error for a prompt that the provider refused as too long. `told`: it also told the window."""
    if told:
        return tally.error(PromptOverWindow, str(over_window(model, messages)))
    chars = sum(len(message.content) for message in messages)
    text = (
        f"model {model.name!r} refused the prompt of {chars:,} characters as too long ({refusal.status}:"
        f" {_said(refusal)}): send at most about {chars * 2 // 3:,} characters at once"
    )
    return tally.error(PromptOverWindow, text)


def no_reply(url: str, what: str, tally: Tally) -> ModelError:
    """Makes the error for a response that does not belong to this API."""
    remedy = "check RLM_MCP_BASE_URL, the base of an OpenAI-compatible API usually ends in /v1"
    return tally.error(ProviderFailed, f"{url} answered with {what}: {remedy}")


def refused(url: str, model: str, refusal: Refusal, served: Sequence[str], tally: Tally) -> ModelError:
    """Makes the error for a refusal that is not retried. `served` are the models that the provider lists, for a 404."""
    said, status = _said(refusal), refusal.status
    if status in {401, 403}:
        text = f"{url} refused the API key ({status}: {said}): set RLM_MCP_API_KEY to a key of this provider"
        return tally.error(KeyRefused, text)
    if 300 <= status < 400 and same_origin(refusal.text, url):
        text = f"{url} redirects in a circle ({status}: {said}): correct the gateway"
        return tally.error(EndpointUnreachable, text)
    if 300 <= status < 400:
        text = f"{url} redirects to another address ({status}: {said}): set RLM_MCP_BASE_URL to it, up to /v1"
        return tally.error(EndpointUnreachable, text)
    if status in {404, 405}:
        return _not_found(url, model, refusal, served, tally)
    if status in {402, 429} or rate_limit_below_request(refusal.words) is not None:
        return tally.error(RateLimited, _limited(url, refusal, tally))
    if status >= 500 or status in TRANSIENT:
        return tally.error(ProviderFailed, f"{url} failed {tally.failed} times, last with {status}: {said}; try later")
    text = f"{url} refused a request to model {model!r} ({status}: {said}): change the model or what is asked of it"
    return tally.error(RequestRefused, text)


def _said(refusal: Refusal) -> str:
    return ellipsize(refusal.text, QUOTED_CHARS) or "no reason given"


def _not_found(url: str, model: str, refusal: Refusal, served: Sequence[str], tally: Tally) -> ModelError:
    said, status = _said(refusal), refusal.status
    if (not served or model in served) and not refusal.says("model"):
        text = f"{url} has no chat completions ({status}: {said}): check RLM_MCP_BASE_URL; it usually ends in /v1"
        return tally.error(EndpointUnreachable, text)
    if model in served:
        text = f"{url} lists model {model!r} but refused a request to it ({status}: {said}): choose another model"
        return tally.error(RequestRefused, f"{text}, or change what the account permits")
    near = get_close_matches(model, served, n=3, cutoff=0.3) or list(served[:5])
    serves = f"; it serves {', '.join(near)}{' and others' if len(served) > len(near) else ''}" if near else ""
    remedy = "set RLM_MCP_MODEL or RLM_MCP_SUB_MODEL to one that it serves"
    return tally.error(UnknownModel, f"{url} has no model {model!r} ({status}: {said}){serves}; {remedy}")


def _limited(url: str, refusal: Refusal, tally: Tally) -> str:
    said, status = _said(refusal), refusal.status
    if rate_limit_below_request(refusal.words) is not None:
        return f"{url} takes no request of this size at any time ({status}: {said}): send less at once"
    if out_of_credit(refusal):
        return f"the account at {url} is out of credit ({status}: {said}): top it up"
    if refusal.retry_after is not None and tally.failed == 1:
        return f"{url} asks to wait {refusal.retry_after:g} s (429: {said}): come back then"
    return f"{url} answered 429 {tally.failed} times ({said}): try later or lower RLM_MCP_CONCURRENCY"

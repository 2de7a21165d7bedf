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
from rlm_mcp.models.exchange import NoResponse
from rlm_mcp.models.retries import FailureKind

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
        return None if out_of_credit(refusal) else "rate"
    if refusal.status == 503 and refusal.says("loading model"):  # llama.cpp, until the model is loaded
        return "loading"
    return "server" if refusal.status >= 500 or refusal.status in TRANSIENT else None


def out_of_credit(refusal: Refusal) -> bool:
    """Tells whether the account has no money left."""
    return refusal.status == 402 or refusal.says("insufficient_quota") or refusal.says("billing")


def unreachable(url: str, answer: NoResponse, tally: Tally) -> ModelError:
    """Makes the error for an endpoint that gave no response after all retries."""
    times = f" ({tally.failed} times)" if tally.failed > 1 else ""
    match answer.kind:
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


def no_reply(url: str, what: str, tally: Tally) -> ModelError:
    """Makes the error for a response that does not belong to this API."""
    remedy = "check RLM_MCP_BASE_URL, the base of an OpenAI-compatible API usually ends in /v1"
    return tally.error(ProviderFailed, f"{url} answered with {what}: {remedy}")


def refused(url: str, model: str, refusal: Refusal, served: Sequence[str], tally: Tally) -> ModelError:
    """Makes the error for a refusal that is not retried. `served` are the models that the provider lists, for a 404."""
    said, status = refusal.text or "no reason given", refusal.status
    if status in {401, 403}:
        text = f"{url} refused the API key ({status}: {said}): set RLM_MCP_API_KEY to a key of this provider"
        return tally.error(KeyRefused, text)
    if 300 <= status < 400:
        text = f"{url} redirects to another address ({status}: {said}): set RLM_MCP_BASE_URL to it"
        return tally.error(EndpointUnreachable, text)
    if status in {404, 405}:
        return _not_found(url, model, refusal, served, tally)
    if status in {402, 429}:
        return tally.error(RateLimited, _limited(url, refusal, tally))
    if status >= 500 or status in TRANSIENT:
        return tally.error(ProviderFailed, f"{url} failed {tally.failed} times, last with {status}: {said}; try later")
    text = f"{url} refused a request to model {model!r} ({status}: {said}): change the model or what is asked of it"
    return tally.error(RequestRefused, text)


def _not_found(url: str, model: str, refusal: Refusal, served: Sequence[str], tally: Tally) -> ModelError:
    said, status = refusal.text or "no reason given", refusal.status
    if (not served or model in served) and not refusal.says("model"):
        text = f"{url} has no chat completions ({status}: {said}): check RLM_MCP_BASE_URL; it usually ends in /v1"
        return tally.error(EndpointUnreachable, text)
    near = get_close_matches(model, served, n=3, cutoff=0.3) or list(served[:5])
    serves = f"it serves {', '.join(near)}{' and others' if len(served) > len(near) else ''}" if near else said
    remedy = "set RLM_MCP_MODEL or RLM_MCP_SUB_MODEL to one that it serves"
    return tally.error(UnknownModel, f"{url} has no model {model!r} ({status}): {serves}; {remedy}")


def _limited(url: str, refusal: Refusal, tally: Tally) -> str:
    if out_of_credit(refusal):
        return f"the account at {url} is out of credit ({refusal.status}: {refusal.text}): top it up"
    if refusal.retry_after is not None and tally.failed == 1:
        return f"{url} asks to wait {refusal.retry_after:g} s (429: {refusal.text}): come back then"
    return f"{url} answered 429 {tally.failed} times ({refusal.text}): try later or lower RLM_MCP_CONCURRENCY"

"""Dialects of the OpenAI API, and refusals as servers word them. No I/O.

Compatible servers differ in the name of the length limit and in whether they accept a system role, a temperature, a
JSON Schema or requests without streaming; some serve only the Responses API. None of them announces this. The first
request therefore uses the commonest dialect, and learning.py finds the one that a refusal asks for.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlm_mcp.models import wordings
from rlm_mcp.models.retries import seconds_told

# No model has a smaller or a larger window than these; a server that reports one is wrong or lies.
LEAST_WINDOW_TOKENS, MOST_WINDOW_TOKENS = 128, 100_000_000

# Refusals with these statuses are about the account, the address or the moment, not about what was asked.
_OTHER_STATUSES = frozenset({401, 402, 403, 404, 405, 408, 409, 425, 429})
# The fields in which servers put the reason of a refusal, and how deep gateways wrap it.
_REASONS = (
    "error",
    "message",
    "msg",
    "detail",
    "errors",
    "status_msg",
    "error_message",
    "error_msg",
    "reason",
    "title",
)
_MOST_DEEP = 5
_WINDOW_FIELDS = ("n_ctx", "context_length", "max_context_length", "max_model_len")

# Words in errors that come with status 200 and without a status of their own.
_STATUS_WORDS = (
    (429, re.compile(r"rate.?limit|too many requests|限流|请求过于频繁", re.IGNORECASE)),
    (402, re.compile(r"insufficient|balance|credit|余额", re.IGNORECASE)),
    (503, re.compile(r"overload|busy|unavailable|capacity|繁忙", re.IGNORECASE)),
    (401, re.compile(r"api.?key|authenticat|unauthori[sz]ed", re.IGNORECASE)),
    (400, re.compile(r"invalid|bad.?request|unsupported|not support|too long|exceed|参数", re.IGNORECASE)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A dialect of the API. `longest_reply` is the largest length limit that the server accepts, if it named one."""

    api: Literal["chat", "responses"] = "chat"
    length_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    longest_reply: int | None = None
    system_role: bool = True
    ends_with_user: bool = False
    temperature: bool = True
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    logprobs: bool = True
    stop: bool = True
    stream: bool = False
    stream_usage: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An error in the server's words. `status` is that of HTTP or, in a response with status 200, that of its body."""

    status: int
    text: str
    code: str = ""
    param: str = ""
    body: Mapping[str, Any] | None = None
    retry_after: float | None = None

    def says(self, *words: str) -> bool:
        """Tells whether the text, code and parameter contain all `words`."""
        whole = self.words.lower()
        return all(word in whole for word in words)

    @property
    def words(self) -> str:
        """The text with the code and the parameter."""
        return f"{self.text} {self.code} {self.param}"


def first_dialect(model: str, host: str) -> Dialect:
    """Returns the dialect of the first request."""
    if host == "api.openai.com":
        reasons = re.match(r"(o\d|gpt-5)", model) is not None
        return Dialect(length_name="max_completion_tokens", temperature=not reasons, logprobs=not reasons)
    return Dialect()


# --- reading a refusal --------------------------------------------------------------------------------------------


def refusal_in(status: int, text: str) -> Refusal:
    """Reads the error in a body of any shape: {"error": {…}}, {"error": "…"}, [{…}], {"message": …} or plain text."""
    try:
        return refusal_of(status, json.loads(text), text)
    except (ValueError, RecursionError):  # no JSON, a number of 5,000 digits, or nested 100,000 deep
        return Refusal(status=status, text=text.strip(), retry_after=seconds_told(text))


def refusal_of(status: int, body: object, text: str) -> Refusal:
    """Reads the error in a parsed body. `text` is the body as it came."""
    if isinstance(body, list) and body and isinstance(body[0], Mapping):
        body = body[0]  # Gemini's errors are the only entry of a list
    error: object = (body.get("error") or body.get("base_resp") or body) if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return Refusal(status=_status(status, None, text), text=_reason(error) or text.strip())
    words = _reason(error) or text.strip()
    code = error.get("code") or error.get("status_code") or error.get("type") or error.get("status")
    return Refusal(
        status=_status(status, error.get("code"), f"{words} {code}"),
        text=words,
        code=str(code or "")[:200],
        param=str(error.get("param") or _place(error.get("detail")) or "")[:200],
        body=error,
        retry_after=seconds_told(text),
    )


def _status(status: int, code: object, words: str) -> int:
    """The status of an error. With status 200, gateways put the provider's status into the body, or only words."""
    if status != 200:
        return status
    if isinstance(code, int | str) and re.fullmatch(r"[45]\d\d", str(code)):
        return int(code)
    return next((told for told, pattern in _STATUS_WORDS if pattern.search(words[:1_000])), 502)


def _reason(value: object, deep: int = 0) -> str:
    """The words of an error, out of the JSON that gateways wrap around the provider's."""
    if deep > _MOST_DEEP:
        return ""
    match value:
        case str():
            return _unwrapped(value, deep)
        case list():
            return "; ".join(words for part in value[:5] if (words := _reason(part, deep + 1)))
        case Mapping():
            reasons = (_reason(value[name], deep + 1) for name in _REASONS if value.get(name))
            words = next(filter(None, reasons), "")
            place, raw = _place([value]), _reason(_raw(value), deep + 1)
            told = ": ".join(part for part in (place, words, raw) if part)
            return told or str(value) if deep == 0 else told
    return ""


def _unwrapped(text: str, deep: int) -> str:
    if text.lstrip()[:1] in {"{", "["}:
        try:
            return _reason(json.loads(text), deep + 1) or text.strip()
        except (ValueError, RecursionError):
            pass
    return text.strip()


def _raw(error: Mapping[str, Any]) -> object:
    """The words of the provider behind OpenRouter."""
    metadata = error.get("metadata")
    return metadata.get("raw") if isinstance(metadata, Mapping) else None


def _place(detail: object) -> str:
    """The parameter that a server built on pydantic complains about."""
    first = detail[0] if isinstance(detail, list) and detail else None
    place = first.get("loc") if isinstance(first, Mapping) else None
    return ".".join(str(part)[:50] for part in place[-4:]) if isinstance(place, list) else ""


# --- what a refusal says of the window ----------------------------------------------------------------------------


def window_in(refusal: Refusal) -> int | None:
    """Returns the window if the refusal says that the prompt exceeds it, 0 if without a size; else None."""
    if refusal.status in _OTHER_STATUSES or refusal.status < 400 or wordings.per_time(refusal.words):
        return None
    if wordings.bounds_reply(refusal.words):
        return None
    if refusal.status != 413 and not wordings.says_too_long(refusal.words):
        return None
    for name in _WINDOW_FIELDS:  # llama.cpp puts n_ctx beside the message
        if refusal.body is not None and (window := believed_window(refusal.body.get(name))) is not None:
            return window
    found = wordings.limits_in(refusal.words, least=LEAST_WINDOW_TOKENS, codes=codes_of(refusal))
    return min(filter(None, map(believed_window, found)), default=0)


def codes_of(refusal: Refusal) -> list[int]:
    """The numbers of a refusal that are its code, and never a limit."""
    return [refusal.status, *([int(refusal.code)] if re.fullmatch(r"\d{1,9}", refusal.code) else [])]


def believed_window(value: object) -> int | None:
    """Returns a window that a server reports, or None if no model has such a window."""
    return value if type(value) is int and LEAST_WINDOW_TOKENS <= value <= MOST_WINDOW_TOKENS else None

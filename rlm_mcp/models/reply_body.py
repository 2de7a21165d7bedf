"""Reads the bodies of responses with status 200: JSON or a stream of events, of either API. No I/O.

A server may tell trouble in such a body: an error, an error inside a choice, an error event, or no choice at all. It is
a Refusal then, with the status that the body tells or else 502, so that it is retried like trouble told by HTTP.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import exp, isfinite, log
from typing import Any

from rlm_mcp.models.dialect import Refusal, refusal_of

# A reply of a million tokens costs a few hundred dollars from the dearest models. A larger report is no price.
MOST_DOLLARS = 10_000.0

# The lines of a stream of events end in these and in nothing else; a reply may hold U+2028 or U+0085.
_LINE_END = re.compile(r"\r\n|\n|\r")
_STREAM_STARTS = ("data:", "event:", "id:", "retry:", ":")
_TROUBLE = frozenset({"error", "network_error", "engine_overloaded", "server_error"})
_ERROR_FIELDS = ("error", "errors", "message", "msg", "detail", "base_resp", "error_msg", "error_message")
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")


_LEAST_LOGPROB = 1e6  # by its size; servers write -9999 for nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderReply:
    """The content of a response body. Token counts are None if the server did not report them."""

    text: str
    reasoning: str = ""
    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_prompt_tokens: int = 0
    cost_usd: float | None = None
    model: str = ""
    logprobs: tuple[tuple[str, float], ...] = ()


class NotAReply(ValueError):
    """A body that is not a reply of this API; str() says what it is instead."""


class WebPage(NotAReply):
    """A page of HTML, as gateways show for a moment, and addresses that are none of this API always."""


class BrokenOff(NotAReply):
    """A body that ends before the reply is complete, which is treated like a broken connection."""


def read(text: str) -> ProviderReply | Refusal:
    """Reads a body with status 200. Raises NotAReply."""
    text = text.lstrip("\ufeff \t\r\n")
    if not text:
        raise BrokenOff("an empty body")
    try:
        return _read_body(_body(text), text)
    except NotAReply:
        raise
    except (json.JSONDecodeError, RecursionError) as error:
        start = " ".join(text.split())[:80]
        kind = WebPage if text.startswith("<") else NotAReply
        raise kind(f"no JSON, but {start!r}") from error
    except (AttributeError, TypeError, LookupError, ValueError, OverflowError) as error:
        # A field has another type than in the API.
        raise NotAReply(f"an object of another shape: {text[:80]!r}") from error


def model_names(text: str) -> list[str]:
    """Returns the ids in the body of /models; none if it is another body."""
    with suppress(ValueError, RecursionError):
        body = json.loads(text)
        rows = body.get("data") if isinstance(body, dict) else None
        if isinstance(rows, list):
            return [str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row]
    return []


def _body(text: str) -> object:
    if not text.startswith(_STREAM_STARTS):
        return json.loads(text)
    lines = _LINE_END.split(text)
    plain = [line for line in lines if not line.startswith(":")]  # gateways send comments while they wait
    if not any(line.startswith("data:") for line in plain):
        return json.loads("\n".join(plain))
    return _gathered(list(_events(lines)), ended="[DONE]" in text[-200:])


def _read_body(body: object, text: str) -> ProviderReply | Refusal:
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, dict):
        raise NotAReply(f"JSON that is no object: {text[:80]!r}")
    if body.get("error"):
        return refusal_of(200, body, text)
    if isinstance(body.get("output"), list):
        return _read_responses(body)
    if isinstance(body.get("choices"), list) and body["choices"]:
        return _read_chat(body, text)
    if any(body.get(name) for name in _ERROR_FIELDS):
        return refusal_of(200, body, text)
    if "choices" in body:
        return Refusal(status=502, text="a reply without choices")
    raise NotAReply(f"an object without choices: {text[:80]!r}")


# --- chat completions ---------------------------------------------------------------------------------------------


def _read_chat(body: Mapping[str, Any], text: str) -> ProviderReply | Refusal:
    choice = body["choices"][0]
    message = choice.get("message") or {}
    reply, reasoning = _said(message, choice)
    finish = str(choice.get("finish_reason") or "stop")
    if choice.get("error") or (finish in _TROUBLE and not reply.strip()):
        error = choice.get("error") or f"a reply that ended with {finish!r}"
        return refusal_of(200, {"error": error}, text)
    if not reply.strip() and finish != "length":
        # Servers with a parser for reasoning put the whole reply there if the model did not think.
        reply, reasoning = reasoning, ""
    usage = _usage(body, choice)
    return ProviderReply(
        text=reply,
        reasoning=reasoning,
        finish_reason=finish,
        prompt_tokens=_count(_first(usage, "prompt_tokens", "input_tokens")),
        completion_tokens=_count(_first(usage, "completion_tokens", "output_tokens")),
        cached_prompt_tokens=_cached(usage),
        cost_usd=_dollars(usage),
        model=str(body.get("model") or ""),
        logprobs=_logprobs(choice.get("logprobs")),
    )


def _logprobs(value: object) -> tuple[tuple[str, float], ...]:
    """The tokens of a reply with their log-probabilities; none if one of them has none."""
    tokens = value.get("content") if isinstance(value, Mapping) else None
    pairs = [(one.get("token"), _logprob(one)) for one in tokens or () if isinstance(one, Mapping)]
    good = [(token, p) for token, p in pairs if isinstance(token, str) and p is not None]
    return tuple(good) if len(good) == len(pairs) else ()


def _logprob(one: Mapping[str, Any]) -> float | None:
    """The log-probability of a word among the alternatives that are reported: `Yes` and `yes` are one word."""
    own = _finite(one.get("logprob"))
    others = one.get("top_logprobs")
    if own is None or not isinstance(others, list):
        return own
    word = str(one.get("token")).strip().casefold()
    same, different = 0.0, 0.0
    for other in others:
        if isinstance(other, Mapping) and (p := _finite(other.get("logprob"))) is not None:
            alike = str(other.get("token")).strip().casefold() == word
            same, different = (same + exp(p), different) if alike else (same, different + exp(p))
    same = max(same, exp(own))
    return log(same / (same + different)) if same else own


def _finite(value: object) -> float | None:
    """A log-probability, which is at most 0; servers write -9999 for nothing."""
    return min(0.0, float(value)) if isinstance(value, int | float) and abs(value) < _LEAST_LOGPROB else None


def _said(message: Mapping[str, Any], choice: Mapping[str, Any]) -> tuple[str, str]:
    """The text of a message, and the reasoning that the server put apart."""
    content = message.get("content")
    text = _text(content) or str(message.get("refusal") or "") or str(choice.get("text") or "")
    calls = list(message.get("tool_calls") or ())
    if message.get("function_call"):
        calls.append({"function": message["function_call"]})
    for call in calls:
        # No tool was offered; the call is kept as text for the reply parser.
        text += f"\n<tool_call>{json.dumps(call.get('function', call), ensure_ascii=False)}</tool_call>"
    reasoning = next((found for name in _REASONING_FIELDS if (found := _text(message.get(name)))), "")
    return text.strip("\n") if calls else text, reasoning or _thoughts(content)


def _usage(body: Mapping[str, Any], choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """The usage where the API has it, or where Groq and Moonshot put it."""
    usage = body.get("usage") or (body.get("x_groq") or {}).get("usage") or choice.get("usage") or {}
    return usage if isinstance(usage, Mapping) else {}


def _cached(usage: Mapping[str, Any]) -> int:
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    return (
        _count(details.get("cached_tokens")) or _count(_first(usage, "prompt_cache_hit_tokens", "cached_tokens")) or 0
    )


# --- the Responses API --------------------------------------------------------------------------------------------


def _read_responses(body: Mapping[str, Any]) -> ProviderReply | Refusal:
    if body.get("status") == "failed":
        return Refusal(status=502, text="a response that failed")
    text, reasoning = "", ""
    for item in body["output"]:
        parts = item.get("content") or item.get("summary") or []
        if item.get("type") == "message":
            text += _text(parts)
        elif item.get("type") == "reasoning":
            reasoning += _text(parts)
    usage = body.get("usage") or {}
    cut = (body.get("incomplete_details") or {}).get("reason") == "max_output_tokens"
    return ProviderReply(
        text=text,
        reasoning=reasoning,
        finish_reason="length" if cut else "stop",
        prompt_tokens=_count(usage.get("input_tokens")),
        completion_tokens=_count(usage.get("output_tokens")),
        cached_prompt_tokens=_cached(usage),
        cost_usd=_dollars(usage),
        model=str(body.get("model") or ""),
    )


# --- fields -------------------------------------------------------------------------------------------------------


def _text(content: object) -> str:
    """Returns the text of a content field, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (
            part.get("text") or part.get("refusal") or "" if isinstance(part, Mapping) else part for part in content
        )
        return "".join(str(part) for part in parts)
    return ""


def _thoughts(content: object) -> str:
    """Returns the reasoning among the parts of a content field: a text, or parts of its own."""
    if not isinstance(content, list):
        return ""
    return "".join(_text(part.get("thinking")) for part in content if isinstance(part, Mapping))


def _first(usage: Mapping[str, Any], *names: str) -> object:
    return next((usage[name] for name in names if usage.get(name) is not None), None)


def _count(value: object) -> int | None:
    """Returns a reported number of tokens. usage_check.py judges whether it is believed."""
    if type(value) is int or (type(value) is float and isfinite(value)):
        return int(value)
    return None


def _dollars(usage: Mapping[str, Any]) -> float | None:
    """Returns the cost of a call, which gateways such as OpenRouter report."""
    cost = usage.get("cost")
    if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost <= MOST_DOLLARS:
        return float(cost)
    return None


# --- streams ------------------------------------------------------------------------------------------------------


def _events(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The events of a stream. An event is one line of data, or several up to a blank line."""
    parts: list[str] = []
    for line in (*lines, ""):
        if line.startswith("data:"):
            parts.append(line[5:].strip())
        elif line:
            continue
        if not parts or (line and len(parts) > 1):
            continue
        try:
            event = json.loads("\n".join(parts)) if parts != ["[DONE]"] else None
        except json.JSONDecodeError as error:
            if line:
                continue  # it may go on in the next line
            raise BrokenOff("a stream that breaks off in the middle of an event") from error
        parts = []
        if isinstance(event, dict):
            yield event


def _gathered(events: Sequence[dict[str, Any]], *, ended: bool) -> dict[str, Any]:
    """Returns the body that the server would have sent without streaming. Raises BrokenOff if the stream breaks off."""
    for event in events:
        if event.get("error") or event.get("type") == "error":
            return event if event.get("error") else {"error": event}
        response = event.get("response")
        if event.get("type") in {"response.completed", "response.incomplete"}:
            return dict(response or {})
        if event.get("type") == "response.failed":
            return {"error": (response or {}).get("error") or "a response that failed"}
    return _chat_of(events, ended=ended)


def _chat_of(events: Sequence[dict[str, Any]], *, ended: bool) -> dict[str, Any]:
    text: list[str] = []
    reasoning: list[str] = []
    calls: dict[object, list[str]] = {}
    finish, usage, model, error = None, None, "", None
    for event in events:
        usage = event.get("usage") or (event.get("x_groq") or {}).get("usage") or usage
        model = event.get("model") or model
        for choice in (event.get("choices") or ())[:1]:
            delta = choice.get("delta") or choice.get("message") or {}
            text.append(_text(delta.get("content")) or str(delta.get("refusal") or choice.get("text") or ""))
            reasoning.append(next((_text(delta[name]) for name in _REASONING_FIELDS if delta.get(name)), ""))
            reasoning.append(_thoughts(delta.get("content")))
            _gather_calls(calls, delta)
            finish, error = choice.get("finish_reason") or finish, choice.get("error") or error
            usage = choice.get("usage") or usage
    if finish is None and error is None and not ended:
        raise BrokenOff(f"a stream that breaks off after {sum(map(len, text))} characters")
    made = [{"function": {"name": name, "arguments": "".join(pieces)}} for name, *pieces in calls.values()]
    message = {"content": "".join(text), "reasoning_content": "".join(reasoning), "tool_calls": made}
    choices = [{"message": message, "finish_reason": finish, "error": error}] if any(map(_has_choice, events)) else []
    return {"choices": choices, "usage": usage, "model": model}


def _has_choice(event: Mapping[str, Any]) -> bool:
    return bool(event.get("choices"))


def _gather_calls(calls: dict[object, list[str]], delta: Mapping[str, Any]) -> None:
    """Adds the tool calls in a delta to `calls`: by number, the name and the pieces of the arguments."""
    called = list(delta.get("tool_calls") or ())
    if delta.get("function_call"):
        called.append({"index": "function_call", "function": delta["function_call"]})
    for call in called:
        function = call.get("function") or {}
        pieces = calls.setdefault(call.get("index", len(calls)), [""])
        pieces[0] = str(function.get("name") or pieces[0])
        pieces.append(str(function.get("arguments") or ""))

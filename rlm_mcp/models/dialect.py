"""Dialects of the OpenAI API: writes request bodies, reads response bodies and learns from errors. No I/O.

Compatible servers differ in the name of the length limit and in whether they accept a system role, a temperature, a
JSON Schema or requests without streaming; some serve only the Responses API. None of them announces this. The first
request therefore uses the commonest dialect, an error that names a difference leads to another dialect (`learn`), and
the sender remembers the one that worked.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any, Literal

from rlm_mcp.models.base import Message

# The API requires a name for a schema and does not show it to anyone.
SCHEMA_NAME = "reply"

# A reply of a million tokens costs a few hundred dollars from the dearest models. A larger report is no price.
MOST_DOLLARS = 10_000.0

# No model has a smaller or a larger window than these; a server that reports one is wrong or lies.
LEAST_WINDOW_TOKENS, MOST_WINDOW_TOKENS = 128, 100_000_000

_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|context (?:length|size|window)|"
    r"prompt is too long|input is too long|too many tokens|reduce the length|token limit",
    re.IGNORECASE,
)
_WINDOW = re.compile(
    r"(?:context (?:length|size|window)\D{0,40}?|limit\D{0,20}?|maximum\D{0,20}?|> )\(?(\d{3,9})\)?", re.IGNORECASE
)
_LENGTH_LIMIT = re.compile(
    r"(?:at most|less than or equal to|maximum(?: value)?(?: of)?|<=)\s*`?(\d{2,7})", re.IGNORECASE
)
_REFUSED = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|extra|not permitted|not allowed|invalid|deprecated"
    r"|cannot be used|must be|does not|only",
    re.IGNORECASE,
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
    stream: bool = False
    stream_usage: bool = True


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
        whole = f"{self.text} {self.code} {self.param}".lower()
        return all(word in whole for word in words)


class NotAReply(ValueError):
    """A body that is not a reply of this API; str() says what it is instead."""


class BrokenOff(NotAReply):
    """A body that ends before the reply is complete, which is treated like a broken connection."""


def first_dialect(model: str, host: str) -> Dialect:
    """Returns the dialect of the first request."""
    if host == "api.openai.com":
        reasons = re.match(r"(o\d|gpt-5)", model) is not None
        return Dialect(length_name="max_completion_tokens", temperature=not reasons)
    return Dialect()


# --- writing requests ---------------------------------------------------------------------------------------------


def request(
    dialect: Dialect,
    model: str,
    messages: Sequence[Message],
    *,
    max_tokens: int | None,
    temperature: float | None,
    schema: Mapping[str, object] | None,
) -> tuple[str, dict[str, Any]]:
    """Returns the path and the JSON body of a request."""
    body: dict[str, Any] = {"model": model}
    if max_tokens is not None and dialect.longest_reply is not None:
        max_tokens = min(max_tokens, dialect.longest_reply)
    if temperature is not None and dialect.temperature:
        body["temperature"] = temperature
    if dialect.stream:
        body["stream"] = True
    if dialect.api == "responses":
        return "/responses", body | _responses_body(dialect, messages, max_tokens, schema)
    body["messages"] = [{"role": m.role, "content": m.content} for m in arrange(messages, dialect)]
    if max_tokens is not None:
        body[dialect.length_name] = max_tokens
    if dialect.stream and dialect.stream_usage:
        body["stream_options"] = {"include_usage": True}
    if schema is not None and dialect.structured == "json_schema":
        described = {"name": SCHEMA_NAME, "schema": schema, "strict": is_strict(schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": described}
    elif schema is not None and dialect.structured == "json_object":
        body["response_format"] = {"type": "json_object"}
    return "/chat/completions", body


def arrange(messages: Sequence[Message], dialect: Dialect) -> list[Message]:
    """Joins consecutive messages of one role, because chat templates require alternating roles.

    llama.cpp answers 400 to two assistant messages at the end; Gemma's template has no system role.
    """
    arranged: list[Message] = []
    for message in messages:
        role = message.role
        if role == "system" and (not dialect.system_role or (arranged and arranged[-1].role != "system")):
            role = "user"  # a later system message is an instruction in the middle of the chat
        if arranged and arranged[-1].role == role:
            joined = f"{arranged[-1].content}\n\n{message.content}"
            arranged[-1] = Message(role=role, content=joined)
        else:
            arranged.append(Message(role=role, content=message.content))
    if dialect.ends_with_user and arranged and arranged[-1].role == "assistant":
        arranged.append(Message(role="user", content="Go on."))
    return arranged


def is_strict(schema: object) -> bool:
    """Tells whether a schema meets the rules of strict mode: every object closed, and all its properties required."""
    if isinstance(schema, list):
        return all(is_strict(part) for part in schema)
    if not isinstance(schema, Mapping):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, Mapping):
        names = set(properties) if isinstance(properties, Mapping) else set()
        required = schema.get("required")
        if schema.get("additionalProperties") is not False or names != set(
            required if isinstance(required, list) else ()
        ):
            return False
    return all(is_strict(part) for key, part in schema.items() if key not in {"enum", "const", "default", "examples"})


def _responses_body(
    dialect: Dialect, messages: Sequence[Message], max_tokens: int | None, schema: Mapping[str, object] | None
) -> dict[str, Any]:
    body: dict[str, Any] = {"store": False}
    body["input"] = [{"role": m.role, "content": m.content} for m in arrange(messages, dialect)]
    if max_tokens is not None:
        body["max_output_tokens"] = max(16, max_tokens)  # the API refuses less
    if schema is not None and dialect.structured == "json_schema":
        shape = {"type": "json_schema", "name": SCHEMA_NAME, "schema": schema, "strict": is_strict(schema)}
        body["text"] = {"format": shape}
    return body


# --- reading responses --------------------------------------------------------------------------------------------


def read(text: str) -> ProviderReply | Refusal:
    """Reads a body with status 200, in JSON or as a stream of events, of either API. Raises NotAReply."""
    if not text.strip():
        raise BrokenOff("an empty body")
    try:
        return _read_body(_body(text), text)
    except NotAReply:
        raise
    except (json.JSONDecodeError, RecursionError) as error:
        start = " ".join(text.split())[:80]
        raise NotAReply(f"no JSON, but {start!r}") from error
    except (AttributeError, TypeError, LookupError, ValueError, OverflowError) as error:
        # A field has another type than in the API.
        raise NotAReply(f"an object of another shape: {text[:80]!r}") from error


def _body(text: str) -> object:
    if not text.lstrip().startswith(("data:", "event:", ":")):
        return json.loads(text)
    return _gathered(list(_events(text)), ended="[DONE]" in text[-200:])


def _read_body(body: object, text: str) -> ProviderReply | Refusal:
    if not isinstance(body, dict):
        raise NotAReply(f"JSON that is no object: {text[:80]!r}")
    if body.get("error"):
        return _refusal(200, text, body)
    if isinstance(body.get("output"), list):
        return _read_responses(body)
    if isinstance(body.get("choices"), list) and body["choices"]:
        return _read_chat(body)
    raise NotAReply(f"an object without choices: {text[:80]!r}")


def refusal_in(status: int, text: str) -> Refusal:
    """Reads the error in a body of any shape: {"error": {…}}, {"error": "…"}, {"message": …} or plain text."""
    try:
        body = json.loads(text)
        return _refusal(status, text, body)
    except (ValueError, RecursionError):  # no JSON, a number of 5,000 digits, or nested 100,000 deep
        return _refusal(status, text, None)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Returns the wait that a provider asks for: Retry-After-Ms, or Retry-After in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):
            seconds = float(headers[name]) / unit
            return seconds if 0 <= seconds < float("inf") else None
    try:
        at = parsedate_to_datetime(headers["retry-after"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None
    return max(0.0, at - time.time())


def model_names(text: str) -> list[str]:
    """Returns the ids in the body of /models; none if it is another body."""
    with suppress(ValueError, RecursionError):
        body = json.loads(text)
        rows = body.get("data") if isinstance(body, dict) else None
        if isinstance(rows, list):
            return [str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row]
    return []


def _refusal(status: int, text: str, body: object) -> Refusal:
    error: object = body.get("error", body) if isinstance(body, Mapping) else None
    if isinstance(error, Mapping):
        code = error.get("code")
        if isinstance(code, int) and 400 <= code < 600 and status == 200:  # gateways put the provider's status there
            status = code
        message = str(error.get("message") or error.get("detail") or error)
        word = str(code or error.get("type") or "")
        return Refusal(status=status, text=message, code=word, param=str(error.get("param") or ""), body=error)
    return Refusal(status=status, text=str(error or text).strip())


def _read_chat(body: Mapping[str, Any]) -> ProviderReply:
    choice = body["choices"][0]
    message = choice.get("message") or {}
    text = _text(message.get("content")) or str(message.get("refusal") or "") or str(choice.get("text") or "")
    for call in message.get("tool_calls") or ():
        # No tool was offered; the call is kept as text for the reply parser.
        text += f"\n<tool_call>{json.dumps(call.get('function', call), ensure_ascii=False)}</tool_call>"
    reasoning = message.get("reasoning_content") or message.get("reasoning") or message.get("thinking") or ""
    usage = body.get("usage") or {}
    return ProviderReply(
        text=text.strip("\n") if message.get("tool_calls") else text,
        reasoning=_text(reasoning),
        finish_reason=str(choice.get("finish_reason") or "stop"),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        cached_prompt_tokens=_count((usage.get("prompt_tokens_details") or {}).get("cached_tokens")) or 0,
        cost_usd=_dollars(usage),
        model=str(body.get("model") or ""),
    )


def _read_responses(body: Mapping[str, Any]) -> ProviderReply:
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
        cached_prompt_tokens=_count((usage.get("input_tokens_details") or {}).get("cached_tokens")) or 0,
        cost_usd=_dollars(usage),
        model=str(body.get("model") or ""),
    )


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


def _events(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data and data != "[DONE]":
            try:
                event = json.loads(data)
            except json.JSONDecodeError as error:
                raise BrokenOff("a stream that breaks off in the middle of an event") from error
            if isinstance(event, dict):
                yield event


def _gathered(events: Sequence[dict[str, Any]], *, ended: bool) -> dict[str, Any]:
    """Returns the body that the server would have sent without streaming. Raises BrokenOff if the stream breaks off."""
    for event in events:
        if event.get("error"):
            return event
        if event.get("type") in {"response.completed", "response.incomplete"}:
            response: dict[str, Any] = event["response"]
            return response
    text, reasoning, finish, usage, model = "", "", None, None, ""
    for event in events:
        usage = event.get("usage") or usage
        model = event.get("model") or model
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or choice.get("message") or {}
            text += _text(delta.get("content")) or str(choice.get("text") or "")
            reasoning += _text(delta.get("reasoning_content") or delta.get("reasoning") or "")
            finish = choice.get("finish_reason") or finish
    if finish is None and not ended:
        raise BrokenOff(f"a stream that breaks off after {len(text)} characters")
    message = {"content": text, "reasoning_content": reasoning}
    choices = [{"message": message, "finish_reason": finish}] if events else []
    return {"choices": choices, "usage": usage, "model": model}


# --- learning from errors -----------------------------------------------------------------------------------------


def learn(dialect: Dialect, refusal: Refusal) -> Dialect | None:
    """Returns another dialect that may avoid this refusal, or None. Callers stop at a dialect that they have tried."""
    if refusal.status in {401, 402, 403, 408, 429}:
        return None
    if refusal.status in {404, 405} or refusal.says("v1/responses"):
        absent = refusal.says("v1/responses") or not refusal.says("model")
        return replace(dialect, api="responses") if dialect.api == "chat" and absent else None
    for rule in (_learn_length, _learn_schema, _learn_temperature, _learn_stream, _learn_roles):
        if (learned := rule(dialect, refusal)) is not None and learned != dialect:
            return learned
    return None


def _learn_length(dialect: Dialect, refusal: Refusal) -> Dialect | None:
    if not (refusal.says("max_tokens") or refusal.says("max_completion_tokens")):
        return None
    if refusal.says("too large") or refusal.says("at most") or refusal.says("maximum value"):
        limits = [int(found) for found in _LENGTH_LIMIT.findall(refusal.text)]
        if limits and (dialect.longest_reply is None or min(limits) < dialect.longest_reply):
            return replace(dialect, longest_reply=min(limits))
    if dialect.length_name == "max_tokens" and refusal.says("max_completion_tokens"):
        return replace(dialect, length_name="max_completion_tokens")
    if dialect.length_name == "max_completion_tokens" and _REFUSED.search(refusal.text):
        return replace(dialect, length_name="max_tokens")
    return None


def _learn_schema(dialect: Dialect, refusal: Refusal) -> Dialect | None:
    named = any(
        refusal.says(word) for word in ("response_format", "json_schema", "text.format", "structured", "grammar")
    )
    if not named or dialect.structured == "none":
        return None
    objects = dialect.structured == "json_schema" and not refusal.says("json_object")
    return replace(dialect, structured="json_object" if objects else "none")


def _learn_temperature(dialect: Dialect, refusal: Refusal) -> Dialect | None:
    return replace(dialect, temperature=False) if refusal.says("temperature") else None


def _learn_stream(dialect: Dialect, refusal: Refusal) -> Dialect | None:
    if refusal.says("stream_options"):
        return replace(dialect, stream_usage=False)
    return replace(dialect, stream=True) if refusal.says("stream") and not dialect.stream else None


def _learn_roles(dialect: Dialect, refusal: Refusal) -> Dialect | None:
    if dialect.system_role and (refusal.says("system") or refusal.says("alternat")) and refusal.status != 503:
        return replace(dialect, system_role=False)
    if refusal.says("assistant") or refusal.says("prefill") or refusal.says("last message"):
        return replace(dialect, ends_with_user=True)
    return None


def window_in(refusal: Refusal) -> int | None:
    """Returns the window if the refusal says that the prompt exceeds it, 0 if without a size; else None."""
    if refusal.status not in {400, 413, 422, 500} or not (refusal.status == 413 or _says_too_long(refusal)):
        return None
    for name in ("n_ctx", "context_length", "max_context_length"):  # llama.cpp puts n_ctx beside the message
        if refusal.body is not None and (window := believed_window(refusal.body.get(name))) is not None:
            return window
    found = _WINDOW.search(refusal.text)
    return believed_window(int(found.group(1))) or 0 if found else 0


def believed_window(value: object) -> int | None:
    """Returns a window that a server reports, or None if no model has such a window."""
    return value if type(value) is int and LEAST_WINDOW_TOKENS <= value <= MOST_WINDOW_TOKENS else None


def _says_too_long(refusal: Refusal) -> bool:
    return _TOO_LONG.search(f"{refusal.code} {refusal.text}") is not None

"""Writes the bodies of requests in a dialect of the OpenAI API. No I/O."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlm_mcp.models.base import Message
from rlm_mcp.models.dialect import Dialect

# The API requires a name for a schema and does not show it to anyone.
SCHEMA_NAME = "reply"

# Alternatives to each token that are reported with their log-probabilities; OpenAI gives up to 20, others up to 5.
ALTERNATIVES = 5


def request(
    dialect: Dialect,
    model: str,
    messages: Sequence[Message],
    *,
    max_tokens: int | None,
    temperature: float | None,
    schema: Mapping[str, object] | None,
    logprobs: bool = False,
    stop: Sequence[str] = (),
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
    if logprobs and dialect.logprobs and not dialect.stream:
        body |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
    if stop and dialect.stop:
        body["stop"] = list(stop)
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
            arranged.append(message if role == message.role else Message(role=role, content=message.content))
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

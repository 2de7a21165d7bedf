"""How results are sent: their fields as structured content, and the same facts as compact text; what is long is cut.

Clients show their model either `structuredContent` or `content`, so both carry every fact. A result stays under
RESULT_CHARS in either form; what is cut says so and how to get the rest.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mcp_types import CallToolResult, TextContent

from rlm_mcp.server.results import WireResult

RESULT_CHARS = 32_000
"""Claude Code warns at 10,000 tokens; 32,000 characters are about 8,000."""

PAGE_CHARS = 22_000
"""The longest single text in a result, counted as JSON; the rest of RESULT_CHARS is for the other fields."""


def send(result: WireResult) -> CallToolResult:
    """A tool result with the fields of `result` as structured content and as compact text."""
    structured = fields_of(result)
    return CallToolResult(content=[TextContent(text=compact(structured))], structured_content=structured)


def fields_of(result: WireResult) -> dict[str, Any]:
    """The fields of a result that were set, as JSON values that can be sent."""
    fields: dict[str, Any] = _sendable(result.model_dump(exclude_unset=True))
    return fields


def _sendable(value: Any) -> Any:
    """The value without lone surrogates, which stand for undecodable bytes and cannot be encoded as UTF-8."""
    match value:
        case str() if not value.isascii():
            return value.encode("utf-8", "replace").decode("utf-8")
        case dict():
            return {_sendable(name): _sendable(content) for name, content in value.items()}
        case list():
            return [_sendable(content) for content in value]
        case _:
            return value


def compact(fields: Mapping[str, Any]) -> str:
    """All fields as text: scalars as `name: value`, texts of several lines as a block, records one to a line."""
    return "\n".join(line for name, value in fields.items() for line in _lines(name, value))


def _lines(name: str, value: Any) -> Iterable[str]:
    match value:
        case str() if "\n" in value:
            yield f"{name}:"
            yield value
        case list() if value and all(isinstance(row, dict) for row in value):
            yield f"{name}:"
            yield from (f"- {_row(row)}" for row in value)
        case dict() if "tree" in value:
            yield f"{name}: {_row({key: part for key, part in value.items() if key != 'tree'})}"
            yield "tree:"
            yield from (f"  {entry}" for entry in value["tree"])
        case dict() if value:
            yield f"{name}: {_row(value)}"
        case _:
            yield f"{name}: {_scalar(value)}"


def _row(row: Mapping[str, Any]) -> str:
    """One record on one line. Matches look as grep prints them: `-` before the number of a line of context."""
    match row:
        case {"path": path, "line": line, "text": text, **rest}:
            return f"{path}{'-' if rest else ':'}{line}: {text}"
    return ", ".join(f"{name}={_scalar(value)}" for name, value in row.items())


def _scalar(value: Any) -> str:
    match value:
        case None:
            return "null"
        case str():
            return value
        case _:
            return json.dumps(value, ensure_ascii=False)


def cut(text: str, json_chars: int = PAGE_CHARS) -> str:
    """The longest beginning of `text` that takes at most `json_chars` characters as a JSON string.

    Control characters take six characters in JSON, so cutting by len() alone could exceed a result's size sixfold.
    """
    if len(text) * 6 <= json_chars or json_length(text) <= json_chars:
        return text
    low, high = 0, min(len(text), json_chars)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if json_length(text[:middle]) <= json_chars else (low, middle - 1)
    return text[:low]


def head_and_tail(text: str, json_chars: int, *, true_chars: int | None = None) -> str:
    """`text` whole, or its beginning and end around a note that tells how many characters are left out."""
    head = cut(text, json_chars)
    if len(head) == len(text):
        return text
    head = cut(text, json_chars * 2 // 3)
    tail = cut(text[::-1], json_chars // 4)[::-1]
    omitted = (len(text) if true_chars is None else true_chars) - len(head) - len(tail)
    return f"{head}\n… [{omitted} characters not shown] …\n{tail}"


def json_length(text: str) -> int:
    """The length of `text` as a JSON string, quotes included."""
    return len(json.dumps(text, ensure_ascii=False))

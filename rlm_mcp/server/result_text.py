"""The form of results: their fields as structured content, and the same facts as compact text; what is long is cut.

Clients show their model either `structuredContent` or `content`, so both carry every fact. A client that passes on both
gets the facts as text alone, and as structured content only the ids, which keep to the output schema. A result stays
under the size that the client passes on whole (client_limits.py) in either form; what is cut says so and how to get the
rest.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mcp_types import CallToolResult, TextContent

from rlm_mcp.server.results import WireResult

RESULT_CHARS = 32_000
"""The longest result of all: Claude Code warns at 10,000 tokens; 32,000 characters are about 8,000."""

PAGE_FIELDS = "rlm-mcp/fields"
"""Metadata of a result that pages read in place of its structured content."""

NOTE_CHARS = 30
"""Room for a note in a list or object that tells how much was left out."""

IDENTIFYING = ("context_id", "run_id", "view", "status", "mode")
"""The fields of the structured content that remain where the text is read as well."""


def send(result: WireResult) -> CallToolResult:
    """A tool result with the fields of `result` as structured content and as compact text."""
    fields = fields_of(result)
    return CallToolResult(content=[TextContent(text=compact(fields))], structured_content=fields)


def without_copy(result: CallToolResult, *, has_page: bool) -> CallToolResult:
    """The same result for a client that passes on both forms: its structured content names what the text is about.

    If the client shows a page of the result, the page gets all fields as metadata, which no model reads.
    """
    fields = result.structured_content
    if fields is None:
        return result
    meta = {**(result.meta or {}), PAGE_FIELDS: fields} if has_page else result.meta
    return result.model_copy(update={"structured_content": _identity(fields), "meta": meta})


def _identity(fields: Mapping[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {name: fields[name] for name in IDENTIFYING if name in fields}
    if "contexts" in fields:
        named["contexts"] = [_identity(context) for context in fields["contexts"]]
    return named


def fields_of(result: WireResult) -> dict[str, Any]:
    """The fields of a result that were set, as JSON values that can be sent."""
    fields: dict[str, Any] = sendable(result.model_dump(exclude_unset=True))
    return fields


def sendable(value: Any) -> Any:
    """The value without lone surrogates, which stand for undecodable bytes and cannot be encoded as UTF-8."""
    match value:
        case str() if not value.isascii():
            return value.encode("utf-8", "replace").decode("utf-8")
        case dict():
            return {sendable(name): sendable(content) for name, content in value.items()}
        case list():
            return [sendable(content) for content in value]
        case _:
            return value


# --- as text ------------------------------------------------------------------------------------------------------


def compact(fields: Mapping[str, Any]) -> str:
    """All fields as text: scalars as `name: value`, texts of several lines as a block, records one to a line.

    An answer comes first, because people and models read the first lines; without one, how the run stands.
    """
    first = ["answer"] if fields.get("answer") is not None else ["status"] if "run_id" in fields else []
    first += ["message"] if first and fields.get("message") else []
    ordered = {name: fields[name] for name in first if name in fields} | dict(fields)
    return "\n".join(line for name, value in ordered.items() for line in _lines(name, value))


def _lines(name: str, value: Any) -> Iterable[str]:
    match value:
        case str() if "\n" in value and name == "answer":
            yield f"{name}: {value}"
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


# --- cut to size --------------------------------------------------------------------------------------------------


def cut(text: str, json_chars: int) -> str:
    """The longest beginning of `text` that takes at most `json_chars` characters as a JSON string.

    Control characters take six characters in JSON, so cutting by len() alone could exceed a result's size sixfold.
    """
    if len(text) * 6 + 2 <= json_chars or json_length(text) <= json_chars:
        return text
    low, high = 0, max(0, min(len(text), json_chars))
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


def shorten(value: Any, json_chars: int) -> Any:
    """A JSON value in at most about `json_chars` characters: long texts, lists and objects in it are cut and say so.

    The short parts of an object stay whole; the long ones share what they leave, and the longest of too many go.
    """
    if json_length(value) <= json_chars:
        return value
    match value:
        case str():
            head = cut(value, json_chars - 30)
            return f"{head}… [{len(value) - len(head)} more]"
        case dict():
            return _shortened_object(value, json_chars)
        case list():
            kept = fitting(value, json_chars - NOTE_CHARS)
            return [*kept, f"… {len(value) - len(kept)} more"] if len(kept) < len(value) else kept
    return value


def _shortened_object(value: Mapping[str, Any], json_chars: int) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    names = _names_that_fit(value, json_chars - 2)
    if len(names) < len(value):
        names = _names_that_fit(value, json_chars - 2 - NOTE_CHARS)
    left_out = len(value) - len(names)
    room = json_chars - 2 - (NOTE_CHARS if left_out else 0)
    spare = room - sum(_least_length(name, value[name]) for name in names)
    for number, name in enumerate(names):
        least = min(json_length(value[name]), NOTE_CHARS)
        parts[name] = shorten(value[name], least + spare // (len(names) - number))
        spare += least - json_length(parts[name])
    kept = {name: parts[name] for name in value if name in parts}
    return {**kept, "…": f"{left_out} more"} if left_out else kept


def _names_that_fit(value: Mapping[str, Any], room: int) -> list[str]:
    """The parts that fit at least as a note of what they were, those with short values first."""
    lengths = {name: json_length(part) for name, part in value.items()}
    kept, used = [], 0
    for name in sorted(value, key=lengths.__getitem__):
        least = _least_length(name, value[name])
        if used + least <= room:
            kept.append(name)
            used += least
    return kept


def _least_length(name: str, part: object) -> int:
    """The length of a part of an object that stays short, or of a note of what it was."""
    return json_length(name) + 4 + min(json_length(part), NOTE_CHARS)


def fitting(rows: Iterable[Any], json_chars: int) -> list[Any]:
    """The first rows that together take at most `json_chars` characters as JSON."""
    kept, used = [], 2
    for row in rows:
        used += json_length(row) + 2
        if used > json_chars:
            break
        kept.append(row)
    return kept


def json_length(value: object) -> int:
    """The length of a value as JSON: of a text as a JSON string, quotes included."""
    return len(json.dumps(value, ensure_ascii=False))

"""What the tools send: one pydantic model a kind of result, and the same facts as compact text.

Clients show their model either `structuredContent` or `content`, so both carry every fact. Field names are the public
contract. A result stays under RESULT_CHARS in either form; what is cut says so and how to get the rest.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from mcp_types import CallToolResult, TextContent
from pydantic import BaseModel, ConfigDict

RESULT_CHARS = 32_000
"""Claude Code warns at 10,000 tokens; 32,000 characters are about 8,000."""

PAGE_CHARS = 22_000
"""The longest single text in a result, counted as JSON; the rest of RESULT_CHARS is for the other fields."""


class WireResult(BaseModel):
    """Base of all results."""

    model_config = ConfigDict(extra="forbid")


class ContextResult(WireResult):
    """A registered context."""

    context_id: str
    name: str
    uri: str
    kind: Literal["text", "files"]
    bytes: int
    chars: int
    lines: int
    files: int
    estimated_tokens: int
    created_at: str
    source: str


class ContextPage(WireResult):
    """One page of `list_contexts`."""

    contexts: list[ContextResult]
    total: int
    next_cursor: str | None = None


class InspectResult(WireResult):
    """What `inspect_context` saw. Only the fields of the asked view are present."""

    context_id: str
    name: str
    view: Literal["overview", "read", "search", "code"]
    # overview
    uri: str | None = None
    kind: str | None = None
    bytes: int | None = None
    chars: int | None = None
    lines: int | None = None
    files: int | None = None
    estimated_tokens: int | None = None
    created_at: str | None = None
    source: str | None = None
    structure: dict[str, Any] | None = None
    head: str | None = None
    tail: str | None = None
    largest_files: list[dict[str, Any]] | None = None
    # read
    path: str | None = None
    start_line: int | None = None
    end_line: int | None = None
    text: str | None = None
    truncated: bool | None = None
    next_start_line: int | None = None
    # search
    matches: list[dict[str, Any]] | None = None
    total: int | None = None
    # code
    stdout: str | None = None
    value: str | None = None
    error: dict[str, Any] | None = None
    stdout_chars: int | None = None
    seconds: float | None = None
    variables: list[dict[str, Any]] | None = None
    notes: list[str] | None = None
    message: str | None = None


class Citation(WireResult):
    """A span the answer rests on. `verified` means: the quote stands there in the stored text."""

    context_id: str
    path: str
    start_line: int
    end_line: int
    quote: str | None = None
    verified: bool


class Coverage(WireResult):
    """How much of the contexts was looked at, in characters."""

    total_chars: int
    read_by_code: int
    read_by_model: int


class Usage(WireResult):
    """What the run has spent. `cost_usd` is null where no price is known."""

    root_calls: int
    sub_calls: int
    cached_calls: int
    failed_calls: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None = None
    seconds: float


class RunResult(WireResult):
    """A run as it stands."""

    run_id: str
    status: Literal["running", "completed", "failed", "cancelled"]
    answer: str | dict[str, Any] | list[Any] | float | bool | None = None
    answer_chars: int
    truncated: bool
    offset: int = 0
    stopped_by: str | None = None
    citations: list[Citation]
    coverage: Coverage
    usage: Usage
    iterations: int
    mode: str
    depth: int
    trace_uri: str
    message: str


def send(result: WireResult, *, only: Iterable[str] | None = None) -> CallToolResult:
    """The tool result for `result`: its fields as structured content (of these `only`, if given) and as compact text."""
    structured = result.model_dump(mode="json", include=None if only is None else set(only))
    return CallToolResult(content=[TextContent(text=compact(structured))], structured_content=structured)


def compact(fields: Mapping[str, Any]) -> str:
    """Every field as text: scalars as `name: value`, long texts as a block under their name, rows one to a line."""
    return "\n".join(line for name, value in fields.items() for line in _lines(name, value))


def _lines(name: str, value: Any) -> Iterable[str]:
    match value:
        case str() if "\n" in value:
            yield f"{name}:"
            yield value
        case list() if value and all(isinstance(row, dict) for row in value):
            yield f"{name}:"
            yield from (f"- {_row(row)}" for row in value)
        case dict() if value:
            yield f"{name}: {_row(value)}"
        case _:
            yield f"{name}: {_scalar(value)}"


def _row(row: Mapping[str, Any]) -> str:
    """One record on one line; `path` and `line` lead as grep prints them."""
    if row.keys() == {"path", "line", "text"}:
        return f"{row['path']}:{row['line']}: {row['text']}"
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
    if len(text) * 6 <= json_chars or _json_chars(text) <= json_chars:
        return text
    low, high = 0, min(len(text), json_chars)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _json_chars(text[:middle]) <= json_chars else (low, middle - 1)
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


def _json_chars(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False))

"""What the tools send: one pydantic model a kind of result, and the same facts as compact text.

Clients show their model either `structuredContent` or `content`, so both carry every fact. Field names are the public
contract. A result stays under RESULT_CHARS in either form; what is cut says so and how to get the rest.
"""

import json
from collections.abc import Collection, Iterable, Mapping
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
    version: int = 1
    skipped: int = 0
    notes: list[str] = []


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
    uri: str = ""
    kind: str = ""
    bytes: int = 0
    chars: int = 0
    lines: int = 0
    files: int = 0
    estimated_tokens: int = 0
    created_at: str = ""
    source: str = ""
    version: int = 0
    skipped: int = 0
    structure: dict[str, Any] = {}
    head: str = ""
    tail: str = ""
    largest_files: list[dict[str, Any]] = []
    # read
    path: str = ""
    start_line: int = 0
    end_line: int = 0
    text: str = ""
    truncated: bool = False
    next_start_line: int | None = None
    # search
    matches: list[dict[str, Any]] = []
    total: int = 0
    # code
    stdout: str = ""
    value: str | None = None
    error: dict[str, Any] | None = None
    stdout_chars: int = 0
    seconds: float = 0
    variables: list[dict[str, Any]] = []
    notes: list[str] = []
    message: str = ""


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
    """What the run has spent. `cost_usd` is null where no price is known.

    `unanswered_prompt_tokens` is an estimate, not part of `prompt_tokens`: prompts that were sent and brought no reply,
    because they were cancelled or broken off; a provider may bill them.
    """

    root_calls: int
    sub_calls: int
    cached_calls: int
    failed_calls: int
    prompt_tokens: int
    completion_tokens: int
    unanswered_prompt_tokens: int = 0
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


class EstimateFacts(WireResult):
    """What a run would take, as ranges (low, high). `cost_usd` is null where a price is not known."""

    calls: tuple[int, int]
    tokens: tuple[int, int]
    cost_usd: tuple[float, float] | None
    reason: str


class SolveResult(RunResult):
    """What `rlm_solve` returns: a run, or with `estimate_only` the fields that tell what it would take."""

    run_id: str = ""
    status: Literal["running", "completed", "failed", "cancelled", "estimated"] = "estimated"  # type: ignore[assignment] # one status more
    answer_chars: int = 0
    truncated: bool = False
    citations: list[Citation] = []
    coverage: Coverage = Coverage(total_chars=0, read_by_code=0, read_by_model=0)
    usage: Usage = Usage(
        root_calls=0, sub_calls=0, cached_calls=0, failed_calls=0, prompt_tokens=0, completion_tokens=0, seconds=0
    )
    iterations: int = 0
    mode: str
    depth: int
    estimate: EstimateFacts | None = None
    trace_uri: str = ""


def send(result: WireResult, *, only: Iterable[str] | None = None) -> CallToolResult:
    """The tool result for `result`: its fields (`only` these, if given) as structured content and as compact text."""
    structured = _sendable(result.model_dump(include=None if only is None else set(only)))
    return CallToolResult(content=[TextContent(text=compact(structured))], structured_content=structured)


def _sendable(value: Any) -> Any:
    """The value without lone surrogates, which stand for undecodable bytes inside and have no form on the wire."""
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
    """One record on one line; matches as grep prints them, `-` before the line number of a line of context."""
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


def input_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's argument schema in fewer tokens: no titles, no null branches, no empty defaults.

    Leaving an argument out says the same as null, which the server accepts whatever the schema says.
    """
    return {
        "type": "object",
        "properties": {name: _argument(content) for name, content in schema["properties"].items()},
        **({"required": schema["required"]} if "required" in schema else {}),
    }


def _argument(schema: Mapping[str, Any]) -> dict[str, Any]:
    branches = [branch for branch in schema.get("anyOf", ()) if branch != {"type": "null"}]
    plain = dict(schema) | (branches[0] if len(branches) == 1 else {})
    silent = {"title", "anyOf", "additionalProperties"} | (
        {"default"} if plain.get("default") in (None, "", 0) else set()
    )
    return {name: content for name, content in plain.items() if name not in silent}


def output_schema(schema: Mapping[str, Any], *, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """A result's fields and their types, one level deep: tools/list is paid for in every conversation."""
    properties = {name: _shape(content) for name, content in schema["properties"].items() if name not in leave_out}
    return {"type": "object", "properties": properties, "required": schema["required"][:1]}


def _shape(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Branches where a field has several types: some clients refuse a list of them."""
    if "anyOf" in schema:
        return {"anyOf": [_shape(branch) for branch in schema["anyOf"]]}
    return {"type": schema.get("type", "object")}

"""The results of the tools: one pydantic model for each kind. Field names and their order are the public contract.

`inspect_context` and `rlm_solve` return one of several kinds. The SDK validates against the union. MCP wants an object
at the root of an output schema, so tool_schemas.py publishes the fields of all kinds as one object.
"""

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, RootModel

from rlm_mcp.records.types import Citation, Confidence, Coverage, Status
from rlm_mcp.spending import Spent


class WireResult(BaseModel):
    """Base of all results. Fields that were not set are not sent."""

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


class OverviewResult(ContextResult):
    """Result of `inspect_context` without further arguments: the context, and what it is made of."""

    view: Literal["overview"]
    structure: dict[str, Any]
    head: str
    tail: str
    largest_files: list[dict[str, Any]]


class LinesResult(WireResult):
    """Result of `inspect_context` for start_line and end_line. `message` is sent where a line had to be cut."""

    context_id: str
    name: str
    view: Literal["read"]
    path: str
    start_line: int
    end_line: int
    text: str
    truncated: bool
    next_start_line: int | None
    message: str = ""


class MatchesResult(WireResult):
    """Result of `inspect_context` for a search. `message` is sent where matches were left out for their size."""

    context_id: str
    name: str
    view: Literal["search"]
    truncated: bool
    matches: list[dict[str, Any]]
    total: int
    message: str = ""


class CodeResult(WireResult):
    """Result of `inspect_context` for code. `notes` and `message` are sent where there are any."""

    context_id: str
    name: str
    view: Literal["code"]
    truncated: bool
    stdout: str
    value: str | None
    error: dict[str, Any] | None
    stdout_chars: int
    seconds: float
    variables: list[dict[str, Any]]
    notes: list[str] = []
    message: str = ""


class InspectResult(
    RootModel[Annotated[OverviewResult | LinesResult | MatchesResult | CodeResult, Field(discriminator="view")],]
):
    """Any result of `inspect_context`."""


def _without(unsent: str) -> PlainSerializer:
    """Sends a recorded type without one of its fields."""

    def serialize(value: Citation | Coverage) -> dict[str, Any]:
        return {field.name: getattr(value, field.name) for field in fields(value) if field.name != unsent}

    return PlainSerializer(serialize)


WireCitation = Annotated[Citation, _without("corrected")]


class RunResult(WireResult):
    """A run as it stands. `cost_usd` in its usage is null where no price is known.

    `coverage` and `confidence` are sent once they are on record, which they are when a run has come to its end.
    """

    run_id: str
    status: Status
    answer: str | dict[str, Any] | list[Any] | int | float | bool | None
    answer_chars: int
    truncated: bool
    offset: int
    stopped_by: str | None
    citations: list[WireCitation]
    coverage: Annotated[Coverage, _without("ranges")] = Coverage()
    confidence: Confidence = ""
    usage: Spent
    iterations: int
    mode: str
    depth: int
    trace_uri: str
    message: str


class EstimateFacts(WireResult):
    """The probable needs of a run, as ranges (low, high). `cost_usd` is null where a price is not known."""

    calls: tuple[int, int]
    tokens: tuple[int, int]
    cost_usd: tuple[float, float] | None
    reason: str


class EstimateResult(WireResult):
    """Result of `rlm_solve` with `estimate_only`."""

    run_id: str = ""
    status: Literal["estimated"] = "estimated"
    mode: str
    depth: int
    message: str
    estimate: EstimateFacts


class SolveResult(RootModel[Annotated[RunResult | EstimateResult, Field(discriminator="status")]]):
    """Any result of `rlm_solve`."""

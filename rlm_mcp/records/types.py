"""The state and the outcome of runs: types that records, tools and programs share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rlm_mcp.spending import Spent

Status = Literal["running", "completed", "failed", "cancelled"]


StoppedBy = Literal["final", "iterations", "usd", "tokens", "sub_calls", "seconds", "cancelled", "error"]

USED_UP: tuple[StoppedBy, ...] = ("iterations", "usd", "tokens", "sub_calls")
"""Ends of runs that have spent what they may, so that none can be continued. The time of a resumed run begins anew."""


Confidence = Literal["", "high", "medium", "low"]
"""In an answer: `high` if code alone computed it and nothing speaks against it, `medium` if models read or judged parts
of it, `low` if a doubt stays, which the message tells. Empty without an answer, and in early records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A quotation and its place. `verified` means that the stored text at exactly these lines holds the quote."""

    context_id: str
    path: str
    start_line: int
    end_line: int
    quote: str
    verified: bool
    corrected: bool = False
    """the quote was found elsewhere than cited; the lines here are where it was found"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How many characters of the contexts were read, and which ranges."""

    total_chars: int = 0
    read_by_code: int = 0
    read_by_model: int = 0
    ranges: Mapping[str, Mapping[str, Sequence[tuple[int, int]]]] = field(default_factory=dict)
    """keys "code" and "model", each a map from "context_id/path" to sorted disjoint ranges"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run stands or has ended. The fields are those of the results that clients get.

    When a limit stopped the run, `answer` is the best one so far.
    """

    status: Status
    answer: Any = None
    stopped_by: StoppedBy | None = None
    answered_by: str = ""
    """where the answer comes from: FINAL, FINAL_VAR, SUBMIT, answer, text, value, direct"""
    citations: tuple[Citation, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)
    usage: Spent = field(default_factory=Spent)
    iterations: int = 0
    mode: str = ""
    mode_reason: str = ""
    depth: int = 0
    message: str = ""
    confidence: Confidence = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState(Outcome):
    """The state of a run that is on record."""

    run_id: str
    query: str
    contexts: tuple[Mapping[str, Any], ...]
    created_at: str
    answer_chars: int = 0
    output_schema: Mapping[str, Any] | None = None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """Some runs, newest first, and the cursor of the next page."""

    runs: tuple[RunState, ...]
    next_cursor: str | None = None

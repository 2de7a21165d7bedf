"""The end of a run: what ended it, the evidence of its answer, and the outcome that says so. Pure."""

from dataclasses import dataclass, field

from rlm_mcp.engine.grounding import as_text
from rlm_mcp.engine.router import Route
from rlm_mcp.engine.steps import Finish
from rlm_mcp.engine.turn import Turn
from rlm_mcp.engine.types import RunSpec
from rlm_mcp.models.base import Completion
from rlm_mcp.records.types import Citation, Confidence, Coverage, Outcome, Status, StoppedBy
from rlm_mcp.spending import Spent

FINAL_FORMS = frozenset({"FINAL", "FINAL_VAR", "SUBMIT", "answer"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The answer that a run ends with, what ended the run, and a sentence about that."""

    finish: Finish
    stopped_by: StoppedBy
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The evidence of an answer, and how much was read. `unchecked` says why it could not be checked, if so."""

    citations: tuple[Citation, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)
    unchecked: str = ""


def stopped_by(finish: Finish, turn: Turn) -> StoppedBy:
    """The reason for the end of a run whose last turn was completed."""
    if finish.answered_by in FINAL_FORMS:
        return "final"
    if turn.limit:
        return limit_of(turn.limit)
    return "iterations" if turn.number >= turn.left.turns else "final"


def limit_of(which: str) -> StoppedBy:
    """The limit that a BudgetExceeded names, in the words of the result."""
    match which:
        case "usd" | "tokens" | "sub_calls" | "seconds" | "iterations":
            return which
    return "error"


def outcome_of(
    ending: Ending,
    evidence: Evidence,
    *,
    spec: RunSpec,
    way: Route,
    spent: Spent,
    iterations: int,
    silence: str,
) -> Outcome:
    """The outcome as it goes on record. `silence` says why the root model's last reply was empty, if it was."""
    finish = ending.finish
    # A client gets text unless it asked for a type; code that called rlm_query gets the value as it was set.
    as_set = spec.path or spec.output_schema is not None or finish.answer is None
    return Outcome(
        status=_status(ending),
        answer=finish.answer if as_set else as_text(finish.answer),
        stopped_by=ending.stopped_by,
        answered_by=finish.answered_by,
        citations=evidence.citations,
        coverage=evidence.coverage,
        usage=spent,
        iterations=iterations,
        mode=way.mode,
        mode_reason=way.reason,
        depth=way.depth,
        message=_sentences(ending.message, evidence.unchecked, silence, _caveat(finish)),
        confidence=confidence_in(finish, way, spent, is_complete=ending.stopped_by == "final"),
    )


def silence_of(model: str, completion: Completion) -> str:
    """The sentence about a reply of the root model that is empty; nothing about any other."""
    if completion.text.strip():
        return ""
    spent, why = completion.usage.completion_tokens, completion.finish_reason
    if why == "length":
        return f"Model {model!r} spent its {spent} tokens on thinking and said nothing: choose one that thinks less."
    return f"Model {model!r} replied with nothing ({why}, {spent} tokens): choose another model."


def _status(ending: Ending) -> Status:
    if ending.stopped_by == "cancelled":
        return "cancelled"
    return "failed" if ending.stopped_by == "error" or ending.finish.answer is None else "completed"


def _caveat(finish: Finish) -> str:
    """The warning about an answer that is missing or not confirmed."""
    if finish.answer is None:
        return "There is no answer."
    if finish.doubt:
        return f"This is the best answer so far, not a confirmed one: {finish.doubts}."
    return f"Doubtful: {finish.doubts}." if finish.reasons else ""


def confidence_in(finish: Finish, way: Route, spent: Spent, *, is_complete: bool) -> Confidence:
    """How much speaks for an answer: no doubt, computed by code alone; no doubt, read by a model; or a doubt.

    `is_complete` says that no limit, error or cancellation ended the run.
    """
    if finish.answer is None:
        return ""
    if finish.doubts or not is_complete:
        return "low"
    by_root = way.mode == "direct" or finish.answered_by == "text" or finish.is_typed
    by_models = by_root or spent.sub_calls + spent.cached_calls > 0
    return "medium" if by_models else "high"


def _sentences(*parts: str) -> str:
    """The parts that are not empty, one after the other; errors come without the full stop that the next part needs."""
    *before, last = [part for part in parts if part] or [""]
    return " ".join([*(part if part.endswith(".") else f"{part}." for part in before), last])

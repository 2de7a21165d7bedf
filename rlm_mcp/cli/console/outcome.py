"""The end of a run as a terminal shows it below the answer: how it ended, its citations, and what it used."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from rlm_mcp.cli.console.excerpt import one_line
from rlm_mcp.cli.console.renderer import Hanging
from rlm_mcp.records.types import USED_UP, Citation, Outcome, RunState

MOST_CITATIONS = 8
MOST_ROWS = 8
RESUMABLE = {"running", "failed", "cancelled"}
"""Status of runs that `runs resume` can continue, unless they have spent what they may."""


def show_ended(state: RunState) -> RenderableType:
    """A few lines about a run, without its answer, and the commands that can be used on it."""
    return Group(Text(""), *_lines(state), *_hints(state))


def show_outcome(outcome: Outcome) -> RenderableType:
    """The same for a run that has no record here."""
    return Group(*_lines(outcome))


def _lines(outcome: Outcome) -> Iterator[RenderableType]:
    yield Hanging(_mark(outcome), one_line(_how(outcome)), rows=MOST_ROWS)
    for citation in outcome.citations[:MOST_CITATIONS]:
        yield _citation(citation)
    if (more := len(outcome.citations) - MOST_CITATIONS) > 0:
        yield Text(f"  … {more} more citations", "dim")
    yield Hanging("  ", Text(_took(outcome), "dim"), rows=MOST_ROWS)


def _hints(state: RunState) -> Iterator[RenderableType]:
    if state.status in RESUMABLE and state.stopped_by not in USED_UP:
        yield Hanging("  ", f"rlm-mcp runs resume {state.run_id}    continues it", rows=2)
    yield Hanging("  ", f"rlm-mcp runs view {state.run_id}      writes its page, with every step", rows=2)


def _mark(outcome: Outcome) -> tuple[str, str]:
    if outcome.status != "completed":
        return "✗ ", "red"
    is_sure = outcome.stopped_by == "final" and outcome.confidence != "low"
    return ("✓ ", "green") if is_sure else ("! ", "yellow")


def _how(outcome: Outcome) -> str:
    with_what = "" if outcome.answer is None else ", with the best answer so far"
    match outcome.status, outcome.stopped_by:
        case "completed", "final":
            said = "answered"
        case "cancelled", _:
            said = f"stopped{with_what}"
        case "running", _:
            said = "running in another process"
        case _, "error":
            said = "failed"
        case _, limit:
            said = f"stopped by the limit on {limit}{with_what}"
    message = outcome.message.removeprefix("Cancelled.").strip()
    return f"{said}. {message}" if message else said


def _citation(citation: Citation) -> RenderableType:
    lines = f"{citation.start_line}" + (f"-{citation.end_line}" if citation.end_line != citation.start_line else "")
    mark = ("  ✓ ", "green") if citation.verified else ("  ? ", "yellow")
    place = one_line(f"{citation.path}:{lines}") + ("" if citation.verified else " (not found there)")
    return Hanging(mark, Text.assemble((place, "cyan"), " ", one_line(citation.quote or "")), rows=2)


def _took(outcome: Outcome) -> str:
    usage, coverage = outcome.usage, outcome.coverage
    parts = [
        f"{outcome.iterations} turn{'' if outcome.iterations == 1 else 's'}",
        f"{usage.sub_calls:,} sub-calls" + (f", {usage.failed_calls} failed" if usage.failed_calls else ""),
        f"{usage.prompt_tokens:,} tokens in, {usage.completion_tokens:,} out",
        "price unknown" if usage.cost_usd is None else f"${usage.cost_usd:.4f}",
        f"{usage.seconds:.1f} s",
    ]
    if coverage.total_chars:
        code, model = (100 * part / coverage.total_chars for part in (coverage.read_by_code, coverage.read_by_model))
        parts.append(f"code read {code:.0f} % of the context, models {model:.1f} %")
    return " · ".join(parts)

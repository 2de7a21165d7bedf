"""The lines below an answer."""

import io

import pytest
from rich.console import Console

from rlm_mcp.cli.console.outcome import show_ended
from rlm_mcp.records.types import Citation, Coverage, RunState, Status, StoppedBy
from rlm_mcp.spending import Spent

FOUND = Citation(context_id="c", path="app.log", start_line=7, end_line=7, quote="ERROR disk full", verified=True)
NOT_FOUND = Citation(context_id="c", path="\x1b[2J.log", start_line=1, end_line=3, quote="x", verified=False)


def state(status: Status, stopped_by: StoppedBy | None, *citations: Citation, message: str = "") -> RunState:
    return RunState(
        run_id="run-1",
        query="?",
        contexts=(),
        created_at="",
        status=status,
        stopped_by=stopped_by,
        answer=None if message == "There is no answer." else "the disk",
        message=message,
        citations=citations,
        coverage=Coverage(total_chars=1000, read_by_code=1000, read_by_model=48),
        usage=Spent(
            root_calls=3, sub_calls=1234, prompt_tokens=9876, completion_tokens=54, cost_usd=0.0123, seconds=9.0
        ),
        iterations=3,
    )


def shown(ended: RunState, width: int = 100) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, markup=False, highlight=False).print(show_ended(ended))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_an_answered_run_shows_its_evidence_what_it_took_and_its_page() -> None:
    assert shown(state("completed", "final", FOUND, NOT_FOUND)) == [
        "",
        "✓ answered",
        "  ✓ app.log:7 ERROR disk full",
        "  ? \\x1b[2J.log:1-3 (not found there) x",
        "  3 turns · 1,234 sub-calls · 9,876 tokens in, 54 out · $0.0123 · 9.0 s · code read 100 % of the",
        "  context, models 4.8 %",
        "  rlm-mcp runs view run-1      writes its page, with every step",
    ]


@pytest.mark.parametrize(
    ("status", "stopped_by", "message", "says", "goes_on"),
    [
        ("completed", "usd", "", "! stopped by the limit on usd, with the best answer so far", False),
        (
            "failed",
            "iterations",
            "There is no answer.",
            "✗ stopped by the limit on iterations. There is no answer.",
            False,
        ),
        ("cancelled", "cancelled", "Cancelled.", "✗ stopped, with the best answer so far", True),
        ("failed", "error", "The key was refused.", "✗ failed. The key was refused.", True),
        ("running", None, "", "✗ running in another process", True),
    ],
)
def test_other_ends_say_what_happened_and_how_to_resume(
    status: Status, stopped_by: StoppedBy | None, message: str, says: str, *, goes_on: bool
) -> None:
    lines = shown(state(status, stopped_by, message=message))
    assert lines[1] == says
    assert any("runs resume run-1" in line for line in lines) is goes_on


def test_many_citations_are_counted() -> None:
    assert "  … 3 more citations" in shown(state("completed", "final", *[FOUND] * 11))

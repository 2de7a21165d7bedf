"""Stored things have the fields of the public contract when they are sent, and no others."""

from rlm_mcp.contexts.types import Context
from rlm_mcp.records.types import Citation, Coverage, RunState
from rlm_mcp.repl.types import CellResult
from rlm_mcp.server.presenters import code_result, run_result
from rlm_mcp.server.result_text import fields_of
from rlm_mcp.spending import Spent

CONTEXT = Context(
    context_id="ctx_1",
    name="app.log",
    kind="text",
    bytes=12,
    chars=12,
    lines=2,
    files=1,
    created_at="2026-11-22T10:00:00Z",
    source="text",
)


def test_a_run_is_sent_without_what_only_its_record_needs() -> None:
    state = RunState(
        run_id="run-1",
        status="completed",
        query="q",
        contexts=(),
        created_at="",
        answer="42",
        stopped_by="final",
        citations=(
            Citation(context_id="ctx_1", path="a", start_line=1, end_line=2, quote="x", verified=True, corrected=True),
        ),
        coverage=Coverage(total_chars=9, read_by_code=4, read_by_model=3, ranges={"code": {"ctx_1/a": [(0, 4)]}}),
        usage=Spent(root_calls=1, prompt_tokens=5, cost_usd=0.5, seconds=2.0),
        iterations=1,
        mode="rlm",
        depth=1,
    )
    assert fields_of(run_result(state)) == {
        "run_id": "run-1",
        "status": "completed",
        "answer": "42",
        "answer_chars": 2,
        "truncated": False,
        "offset": 0,
        "stopped_by": "final",
        "citations": [
            {"context_id": "ctx_1", "path": "a", "start_line": 1, "end_line": 2, "quote": "x", "verified": True}
        ],
        "coverage": {"total_chars": 9, "read_by_code": 4, "read_by_model": 3},
        "usage": {
            "root_calls": 1,
            "sub_calls": 0,
            "cached_calls": 0,
            "calls_in_vain": 0,
            "failed_calls": 0,
            "prompt_tokens": 5,
            "completion_tokens": 0,
            "unanswered_prompt_tokens": 0,
            "cost_usd": 0.5,
            "seconds": 2.0,
        },
        "iterations": 1,
        "mode": "rlm",
        "depth": 1,
        "trace_uri": "rlm://runs/run-1/trace",
        "message": "",
    }


def test_notes_and_the_message_of_a_cell_are_sent_where_there_are_any() -> None:
    plain = fields_of(code_result(CONTEXT, CellResult(code="1", value="1")))
    noted = fields_of(code_result(CONTEXT, CellResult(code="1", notes=("slow",), stopped_by="trap")))
    assert plain.keys() == {
        "context_id", "name", "view", "truncated", "stdout", "value", "error", "stdout_chars", "seconds", "variables"
    }  # fmt: skip
    assert noted.keys() - plain.keys() == {"notes", "message"}

"""The view model of a run: its notes, and the open runs below them."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from rlm_mcp.cli.console.excerpt import excerpt, one_line
from rlm_mcp.cli.console.view_model import BlockNote, ResumeNote, RouteNote, RunIntro, RunView, TurnNote
from rlm_mcp.records.events import SubAsked, event_from_json

RECORD = [json.loads(line) for line in (files("rlm_mcp.cli.demo_data") / "small.jsonl").read_text("utf-8").splitlines()]


def fold(*events: Mapping[str, Any]) -> RunView:
    view = RunView()
    for second, event in enumerate(events):
        view.apply(event_from_json(event), float(second))
    return view


def apply(view: RunView, event: Mapping[str, Any], now: float) -> None:
    view.apply(event_from_json(event), now)


def sub(event: str, key: str, **facts: Any) -> dict[str, Any]:
    return {"event": event, "turn": 1, "key": key, "kind": "llm", "prompt_head": key, **facts}


def test_a_record_becomes_notes_from_the_question_to_the_last_block() -> None:
    view = fold(*RECORD)
    begun, routed, *turns = view.notes
    assert isinstance(begun, RunIntro)
    assert begun.query == RECORD[0]["query"]
    assert isinstance(routed, RouteNote)
    replies = [event["text"] for event in RECORD if event["event"] == "root_reply"]
    cells = [event["code"] for event in RECORD if event["event"] == "cell"]
    assert sum(isinstance(one, TurnNote) for one in turns) == len(replies)
    assert [one.code.first[0] for one in turns if isinstance(one, BlockNote)] == [code.split("\n")[0] for code in cells]
    assert view.fold.open_runs == {}


def test_sub_calls_are_in_flight_from_their_question_to_their_answer() -> None:
    asked = [sub("sub_asked", key) for key in "abca"]
    view = fold({"event": "cell_begun", "turn": 1, "code": "…"}, *asked, sub("sub_reply", "a", value="A"))
    run = view.fold.open_runs[""]
    calls = run.counts
    assert [(one.begun.prompt_head, one.since) for one in run.in_flight() if isinstance(one.begun, SubAsked)] == [
        ("a", 4.0),
        ("b", 2.0),
        ("c", 3.0),
    ]
    apply(view, sub("sub_failed", "b", error="no"), 9.0)
    assert (calls.asked, calls.answered, calls.failed) == (4, 1, 1)


def test_a_record_that_does_not_say_when_calls_began_still_counts_them() -> None:
    view = fold(sub("sub_reply", "a", value="A"), sub("sub_reply", "b", value="B"))
    assert (view.fold.open_runs[""].counts.asked, view.fold.open_runs[""].counts.ended) == (2, 2)


def test_a_child_has_the_question_of_its_call_and_is_noted_with_the_block_of_its_parent() -> None:
    view = fold(
        {"event": "cell_begun", "turn": 1, "code": "rlm_query('Why?', x)"},
        sub("sub_asked", "k", kind="rlm", prompt_head="Why?", child="ab12"),
        {"event": "root_asked", "path": "ab12", "turn": 1},
    )
    assert view.fold.open_runs["ab12"].query == "Why?"
    apply(view, {"event": "run_ended", "path": "ab12", "answer": None, "message": "out of time", "iterations": 3}, 4.0)
    apply(view, sub("sub_failed", "k", kind="rlm", error="out of time"), 5.0)
    apply(view, {"event": "cell", "turn": 1, "code": "rlm_query('Why?', x)", "stdout": ""}, 6.0)
    (ran,) = view.notes
    assert isinstance(ran, BlockNote)
    assert [(one.query, one.turns, one.is_answered) for one in ran.children] == [("Why?", 3, False)]
    assert list(view.fold.open_runs) == [""]


def test_a_resumed_run_notes_how_many_turns_are_on_record() -> None:
    view = fold(*RECORD, {"event": "run_resumed"}, {"event": "root_asked", "turn": 4})
    assert [type(one) for one in view.notes] == [RunIntro, ResumeNote]
    assert view.notes[1] == ResumeNote(turns=RECORD[-1]["iterations"])
    assert view.fold.open_runs[""].turn == 4


def test_the_clock_of_a_run_that_is_read_from_its_record_began_when_the_run_did() -> None:
    view = RunView()
    apply(view, {"event": "run_started", "at": 0.0}, 100.0)
    apply(view, {"event": "root_reply", "turn": 1, "text": "", "at": 40.0}, 100.0)
    assert view.began == 60.0


def test_an_excerpt_says_what_it_leaves_out() -> None:
    text = "\n".join(map(str, range(100)))
    cut = excerpt(text, first=2, last=1)
    assert (cut.first, cut.last, cut.left_out, cut.total_chars) == (("0", "1"), ("99",), 97, 289)
    assert excerpt("a\nb\nc\nd\n", first=2, last=1).first == ("a", "b", "c", "d")
    assert excerpt("", first=2).first == ()
    assert excerpt("x" * 500, first=1).first == ("x" * 400 + "… (500 characters)",)


def test_one_line_is_one_line() -> None:
    assert one_line(" a\n\tb\r\nc ") == "a b c"
    assert one_line("x" * 1000, chars=5) == "xxxx…"

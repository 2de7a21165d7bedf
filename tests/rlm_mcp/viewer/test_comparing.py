"""How two runs differ."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rlm_mcp.records.events import event_from_json
from rlm_mcp.viewer.comparing import align_turns, compare_runs, diff_texts, merge_citations
from rlm_mcp.viewer.page import page_data
from rlm_mcp.viewer.passages import StoredTexts
from rlm_mcp.viewer.story import story_of
from tests.rlm_mcp.viewer.records import cell, ended, reply, started


def data(*events: Any) -> dict[str, Any]:
    return page_data(story_of(event_from_json(event) for event in events), StoredTexts())


def test_answers_are_compared_word_by_word() -> None:
    assert diff_texts("five of nine regions", "six of nine") == [
        ("first", "five"),
        ("second", "six"),
        ("both", " of nine"),
        ("first", " regions"),
    ]


def test_a_word_that_happens_to_stand_in_both_does_not_break_a_change_in_two() -> None:
    assert diff_texts("it had one root less than before it, we saw", "it had a root that is gone, we saw") == [
        ("both", "it had "),
        ("first", "one root less than before it"),
        ("second", "a root that is gone"),
        ("both", ", we saw"),
    ]


@given(first=st.text(alphabet="ab, .\n", max_size=60), second=st.text(alphabet="ab, .\n", max_size=60))
def test_both_answers_can_be_read_out_of_their_differences(first: str, second: str) -> None:
    told = diff_texts(first, second) or []
    assert "".join(text for side, text in told if side != "second") == first
    assert "".join(text for side, text in told if side != "first") == second


def test_long_answers_are_compared_by_lines_and_very_long_ones_not_at_all() -> None:
    lines = "".join(f"row {n} of many words\n" for n in range(1_000))
    assert diff_texts(lines, lines + "one more\n") == [("both", lines), ("second", "one more\n")]
    assert diff_texts("x\n" * 9_000, "y\n" * 9_000) is None


def test_the_same_answer_has_no_differences() -> None:
    assert diff_texts("same", "same") == [("both", "same")]
    assert diff_texts("", "") == []


def test_turns_with_the_same_code_are_put_side_by_side() -> None:
    assert align_turns([(1, "look"), (2, "count"), (3, "end")], [(1, "look"), (2, "end")]) == [
        {"first": 1, "second": 1, "same_code": True},
        {"first": 2, "second": None, "same_code": False},
        {"first": 3, "second": 2, "same_code": True},
    ]


def test_turns_with_nearly_the_same_code_are_put_side_by_side_too() -> None:
    count = "for line in context: total += line.count('ERROR')"
    assert align_turns([(1, "FINAL(0)"), (2, count)], [(1, count.replace("ERROR", "WARN"))]) == [
        {"first": 1, "second": None, "same_code": False},
        {"first": 2, "second": 1, "same_code": False},
    ]


def test_every_turn_is_listed_once_and_in_order() -> None:
    first, second = [(n, f"a{n % 7}") for n in range(40)], [(n, f"a{n % 5}") for n in range(40)]
    pairs = align_turns(first, second)
    assert [pair["first"] for pair in pairs if pair["first"] is not None] == list(range(40))
    assert [pair["second"] for pair in pairs if pair["second"] is not None] == list(range(40))


def test_a_place_cited_by_both_runs_is_listed_once() -> None:
    one = {"context_id": "c", "path": "a.log", "start_line": 3, "end_line": 3, "quote": "x  y", "state": "verified"}
    assert merge_citations([one], [one | {"quote": "x y", "state": "corrected"}, one | {"start_line": 9}]) == [
        {"path": "a.log", "start_line": 3, "end_line": 3, "quote": "x  y", "first": "verified", "second": "corrected"},
        {"path": "a.log", "start_line": 9, "end_line": 3, "quote": "x  y", "first": None, "second": "verified"},
    ]


def test_two_runs_are_told_apart_by_question_contexts_and_answer() -> None:
    one = data(started(), reply("", 1, "hi", 1.0), cell("", 1, "FINAL(1)", 1.1), ended("1", 1.2))
    other = data(started(query="Another?"), reply("", 1, "hi", 1.0), cell("", 1, "FINAL(1)", 1.1), ended("1", 1.2))
    facts = compare_runs(one, other)
    assert facts["same"] == {"query": False, "contexts": True, "answer": True}
    assert facts["turns"] == [{"first": 1, "second": 1, "same_code": True}]
    assert [run["answer_chars"] for run in facts["runs"]] == [1, 1]


def test_a_run_without_an_answer_differs_from_one_with_an_empty_answer() -> None:
    assert compare_runs(data(started(), ended(None, 1.0)), data(started(), ended("", 1.0)))["same"]["answer"] is False

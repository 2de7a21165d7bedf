"""The content of a page, computed from a record."""

import json
from typing import Any

import pytest

from rlm_mcp.errors import RunRecordDamaged
from rlm_mcp.records.reading import event_or_none
from rlm_mcp.viewer.story import MOST_ANSWER_CHARS, Story, call_chars, head_and_tail, story_of
from tests.rlm_mcp.viewer import records
from tests.rlm_mcp.viewer.records import call, cell, ended, reply, started


def story_from(*lines: object) -> Story:
    return story_of(event_or_none(one) for one in lines)


def head(events: list[Any], **facts: Any) -> dict[str, Any]:
    return story_from(*events).head(**({"is_live": False} | facts))


def test_an_answer_longer_than_the_page_holds_is_its_head_its_tail_and_its_length() -> None:
    answer = "a" * 5_000_000
    shown = head([started(), ended(None, 1.0, answer_chars=5_000_000)], answer=answer)["answer"]
    assert shown["chars"] == 5_000_000
    assert shown["text"]["chars"] == 5_000_000
    assert len(shown["text"]["head"]) + len(shown["text"]["tail"]) == MOST_ANSWER_CHARS


def test_an_object_as_answer_is_shown_as_json() -> None:
    assert head([started(), ended({"n": 1}, 1.0)])["answer"] == {"text": '{\n "n": 1\n}', "kind": "json", "chars": 11}


def test_a_text_is_cut_in_the_middle() -> None:
    assert head_and_tail("0123456789", 10) == "0123456789"
    assert head_and_tail("0123456789", 8) == {"head": "012345", "tail": "89", "chars": 10}


def test_the_more_sub_calls_there_are_the_less_of_each_is_kept() -> None:
    assert [call_chars(calls) for calls in (0, 100, 5_000, 1_000_000)] == [4_000, 4_000, 1_200, 120]


def test_rows_say_what_happened_when_and_in_which_run() -> None:
    story = story_from(
        started(), reply("", 1, "hi", 3.0), call("", 1, "p", {"a": 1}, 4.0, 0.5), cell("", 1, "c", 4.5, 1.0)
    )
    assert [(row["kind"], row["path"], row["turn"], row["start"], row["end"]) for row in story.rows] == [
        ("reply", "", 1, 1.0, 3.0),
        ("call", "", 1, 3.5, 4.0),
        ("cell", "", 1, 3.5, 4.5),
    ]
    assert (story.rows[1]["text"], story.rows[1]["is_json"]) == ('{\n "a": 1\n}', True)


def test_a_run_that_was_resumed_is_running_again_until_its_next_end() -> None:
    events = [started(), ended("partial", 2.0, status="cancelled"), {"event": "run_resumed", "at": 9.0}]
    assert head(events, is_live=True)["status"] == "running"
    assert story_from(*events).rows[-1]["pause"] == 7.0


def test_what_is_no_event_or_of_an_unknown_kind_is_counted_and_left_out() -> None:
    story = story_from(started(), 5, None, {"event": ["x"]}, {"event": "invented_later"})
    assert story.rows == []
    assert story.head(is_live=False)["notes"] == [
        "Left out: 3 lines of the record that are no events.",
        "Left out: 1 events of kinds that this version does not know.",
    ]


def test_events_whose_facts_have_other_types_are_shown_as_far_as_they_can_be() -> None:
    odd: dict[str, Any] = {"event": "cell", "path": 7, "turn": "x", "code": None, "error": "boom", "final": 3}
    rows = story_from(started(), odd | {"changed": "abc", "stdout_chars": [], "at": {}}).rows
    assert (rows[0]["path"], rows[0]["turn"], rows[0]["code"], rows[0]["error"], rows[0]["changed"]) == (
        *("", 0, ""),
        None,
        [],
    )


def test_a_citation_is_verified_corrected_or_neither() -> None:
    cited = [{"verified": True}, {"verified": True, "corrected": True}, {"verified": "yes"}]
    assert [one["state"] for one in head([started(), ended("x", 1.0, citations=cited)])["citations"]] == [
        "verified",
        "corrected",
        "unverified",
    ]


def test_a_record_without_its_first_event_is_refused() -> None:
    with pytest.raises(RunRecordDamaged):
        head([reply("", 1, "hi", 3.0)])


def test_what_is_told_is_json_whatever_the_record_holds() -> None:
    story = story_of(records.hostile())
    assert json.loads(json.dumps([story.head(is_live=False), story.rows], allow_nan=False))

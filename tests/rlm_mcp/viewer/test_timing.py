"""When things happened: as the record says, or laid out from durations."""

from rlm_mcp.viewer.timing import LONGEST_PAUSE, Timing
from tests.rlm_mcp.viewer.records import call, cell, reply


def without_at(event: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in event.items() if name != "at"}


def test_an_event_ends_when_it_was_written_and_began_so_many_seconds_before() -> None:
    assert Timing().place(reply("", 1, "hello", 5.0, 2.0)) == (3.0, 5.0)


def test_of_a_pause_before_a_resume_one_second_is_kept() -> None:
    timing = Timing()
    timing.place(reply("", 1, "hello", 5.0, 2.0))
    resumed = {"event": "run_resumed", "at": 3_605.0}
    assert timing.pause_before(resumed) == 3_600.0
    assert timing.place(resumed) == (5.0 + LONGEST_PAUSE, 5.0 + LONGEST_PAUSE)
    assert timing.place(reply("", 2, "again", 3_610.0, 2.0)) == (9.0, 11.0)


def test_without_times_turns_follow_each_other_and_sub_calls_lie_within_their_block() -> None:
    timing = Timing()
    spans = [
        timing.place(without_at(event))
        for event in (
            reply("", 1, "hello", 0.0, 2.0),
            call("", 1, "a", "b", 0.0, 1.0),
            call("", 1, "c", "d", 0.0, 3.0),
            cell("", 1, "code", 0.0, 0.5),
            reply("", 2, "again", 0.0, 1.0),
        )
    ]
    assert spans == [(0.0, 2.0), (2.0, 3.0), (2.0, 5.0), (2.0, 5.0), (5.0, 6.0)]


def test_without_times_the_ledger_of_the_whole_run_tells_when_a_reply_came() -> None:
    timing = Timing()
    assert timing.place(without_at(reply("", 1, "hello", 0.0, 2.0, spent={"seconds": 31.5}))) == (29.5, 31.5)


def test_without_times_a_child_run_begins_where_its_parent_stands_and_its_call_spans_it() -> None:
    timing = Timing()
    timing.place(without_at(reply("", 1, "hello", 0.0, 2.0)))
    assert timing.place(without_at(reply("c1", 1, "child", 0.0, 4.0))) == (2.0, 6.0)
    assert timing.place(without_at(call("", 1, "q", "a", 0.0, 1.0, child="c1"))) == (2.0, 6.0)
    assert timing.place(without_at(cell("", 1, "code", 0.0, 0.1))) == (2.0, 6.0)


def test_numbers_that_are_none_count_as_nothing() -> None:
    timing = Timing()
    assert timing.place({"event": "cell", "at": "<b>", "seconds": float("nan"), "path": None}) == (0.0, 0.0)

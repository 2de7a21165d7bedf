"""When things happened, as the record says."""

from rlm_mcp.records.events import RunResumed, event_from_json
from rlm_mcp.viewer.timing import LONGEST_PAUSE, Timing
from tests.rlm_mcp.viewer.records import reply


def test_an_event_ends_when_it_was_written_and_began_so_many_seconds_before() -> None:
    assert Timing().span_of(event_from_json(reply("", 1, "hello", 5.0, 2.0))) == (3.0, 5.0)


def test_of_a_pause_before_a_resume_one_second_is_kept() -> None:
    timing = Timing()
    timing.span_of(event_from_json(reply("", 1, "hello", 5.0, 2.0)))
    resumed = RunResumed(at=3_605.0)
    assert timing.pause_before(resumed) == 3_600.0
    assert timing.span_of(resumed) == (5.0 + LONGEST_PAUSE, 5.0 + LONGEST_PAUSE)
    assert timing.span_of(event_from_json(reply("", 2, "again", 3_610.0, 2.0))) == (9.0, 11.0)


def test_numbers_that_are_none_count_as_nothing() -> None:
    odd = {"event": "cell", "at": "<b>", "seconds": float("nan"), "path": None}
    assert Timing().span_of(event_from_json(odd)) == (0.0, 0.0)

"""The time of a run begins anew where it is resumed after it was over, and nowhere else."""

import pytest

from rlm_mcp.records.events import Event, RunEnded, RunResumed
from rlm_mcp.records.time_over import seconds_before
from rlm_mcp.records.types import StoppedBy


def ended(stopped_by: StoppedBy, path: str = "") -> RunEnded:
    return RunEnded(path=path, status="failed", stopped_by=stopped_by, message="")


OVER, CANCELLED, OF_CHILD = ended("seconds"), ended("cancelled"), ended("seconds", path="ab12")
FIRST, SECOND = RunResumed(spent={"seconds": 60.5}), RunResumed(spent={"seconds": 70.0})


@pytest.mark.parametrize(
    ("events", "seconds"),
    [
        ([], 0),
        ([CANCELLED], 0),
        ([OF_CHILD], 0),
        ([OVER], 99),
        ([OVER, FIRST], 60.5),
        ([OVER, FIRST, SECOND], 60.5),  # the process was killed after the first: it goes on within the same time
        ([OVER, FIRST, CANCELLED], 60.5),
        ([OVER, FIRST, OVER], 99),
        ([OVER, FIRST, OVER, SECOND], 70),
        ([CANCELLED, FIRST], 0),
        ([OVER, RunResumed()], 0),
        ([OVER, RunResumed(spent={"seconds": "many"})], 0),
    ],
)
def test_the_time_begins_anew_with_the_resume_after_an_end_by_time(events: list[Event], seconds: float) -> None:
    assert seconds_before(events, 99) == seconds

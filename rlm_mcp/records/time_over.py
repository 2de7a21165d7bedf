"""The time of a run that was resumed after it was over: it begins anew. All other limits hold over every resume."""

from collections.abc import Iterable

from rlm_mcp.records.events import Event, RunEnded, RunResumed, is_sound


def seconds_before(events: Iterable[Event], seconds_now: float) -> float:
    """The seconds that the run had taken when its time last began anew; 0 if it never did.

    `seconds_now` are those that it has taken where the events end, which are those of a run that is being resumed.
    """
    seconds, is_over = 0.0, False
    for event in events:
        match event:
            case RunEnded(path=""):
                is_over = event.stopped_by == "seconds"
            case RunResumed() if is_over:
                told = (event.spent or {}).get("seconds")
                seconds = float(told) if isinstance(told, int | float) and is_sound(told) else 0.0
                is_over = False
    return seconds_now if is_over else seconds

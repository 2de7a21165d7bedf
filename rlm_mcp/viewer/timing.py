"""When the subject of each event began and ended, in seconds since the run was created.

Events have the time at which they were written (`at`) and the duration of their subject (`seconds`). Pauses before a
resume are left out.
"""

from math import isfinite
from typing import Any

from rlm_mcp.records.events import Event, RunResumed

LONGEST_PAUSE = 1.0
"""How much of a pause before a resume stays visible."""

Span = tuple[float, float]


class Timing:
    """The time line of one record, whose events must be given in order."""

    def __init__(self) -> None:
        self._pauses = 0.0
        self._last = 0.0

    def __repr__(self) -> str:
        return f"<Timing at {self._last:.1f} s, {self._pauses:.1f} s of pauses>"

    def span_of(self, event: Event) -> Span:
        """When the subject of the event began and ended. Moves the time line on."""
        end = max(0.0, number(event.at) - self._pauses)
        if isinstance(event, RunResumed) and end - self._last > LONGEST_PAUSE:
            self._pauses += end - self._last - LONGEST_PAUSE
            end = self._last + LONGEST_PAUSE
        self._last = max(self._last, end)
        return max(0.0, end - seconds_of(event)), end

    @property
    def end(self) -> float:
        """The latest time so far."""
        return self._last

    def pause_before(self, event: Event) -> float:
        """The time between the latest time so far and the event."""
        return max(0.0, number(event.at) - self._pauses - self._last)


def number(value: Any) -> float:
    """A finite number, or 0 in place of anything else in a damaged record."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return 0.0
    return float(value)


def seconds_of(event: Event) -> float:
    """The duration of the event's subject."""
    return max(0.0, number(getattr(event, "seconds", 0.0)))

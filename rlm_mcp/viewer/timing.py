"""When each event of a record began and ended, in seconds since the run was created, pauses before a resume taken out.

Events say when they were written (`at`) and how long the thing they tell of took (`seconds`).
"""

from math import isfinite
from typing import Any

from rlm_mcp.records.events import Event, RunResumed

LONGEST_PAUSE = 1.0
"""Of a pause before a resume, so much stays visible."""

Span = tuple[float, float]


class Timing:
    """Places the events of one record, which must be given in its order."""

    def __init__(self) -> None:
        self._pauses = 0.0
        self._last = 0.0

    def __repr__(self) -> str:
        return f"<Timing at {self._last:.1f} s, {self._pauses:.1f} s of pauses>"

    def place(self, event: Event) -> Span:
        """When the event's subject began and ended."""
        end = max(0.0, number(event.at) - self._pauses)
        if isinstance(event, RunResumed) and end - self._last > LONGEST_PAUSE:
            self._pauses += end - self._last - LONGEST_PAUSE
            end = self._last + LONGEST_PAUSE
        self._last = max(self._last, end)
        return max(0.0, end - seconds_of(event)), end

    @property
    def end(self) -> float:
        """The latest moment so far."""
        return self._last

    def pause_before(self, event: Event) -> float:
        """How long nothing had happened when the event was written."""
        return max(0.0, number(event.at) - self._pauses - self._last)


def number(value: Any) -> float:
    """A finite number, or 0: records are read as they are, damaged ones too."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return 0.0
    return float(value)


def seconds_of(event: Event) -> float:
    """The length of the event's subject."""
    return max(0.0, number(getattr(event, "seconds", 0.0)))

"""When each event of a record began and ended, in seconds since the run was created, pauses before a resume taken out.

Events say when they were written (`at`) and how long the thing they tell of took (`seconds`). Records from before `at`
are laid out from the durations: the turns of a run follow each other, and the sub-calls of a block begin with it unless
`spent`, whose seconds are those of the run that the ledger belongs to, tells more.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from rlm_mcp.engine import Event

LONGEST_PAUSE = 1.0
"""Of a pause before a resume, so much stays visible."""

Span = tuple[float, float]


class Timing:
    """Places the events of one record, which must be given in its order."""

    def __init__(self) -> None:
        self._pauses = 0.0
        self._last = 0.0
        self._now: dict[str, float] = {}
        """without `at`: where each (child) run stands"""
        self._calls_end: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Timing at {self._last:.1f} s, {self._pauses:.1f} s of pauses>"

    def place(self, event: Event) -> Span:
        """When the event's subject began and ended."""
        seconds = seconds_of(event)
        if "at" in event:
            end = max(0.0, number(event["at"]) - self._pauses)
            if event.get("event") == "run_resumed" and end - self._last > LONGEST_PAUSE:
                self._pauses += end - self._last - LONGEST_PAUSE
                end = self._last + LONGEST_PAUSE
            self._now[path_of(event)] = end
            span = max(0.0, end - seconds), end
        else:
            span = self._laid_out(event, seconds)
        self._last = max(self._last, span[1])
        return span

    @property
    def end(self) -> float:
        """The latest moment so far."""
        return self._last

    def pause_before(self, event: Event) -> float:
        """How long nothing had happened when the event was written."""
        return max(0.0, number(event.get("at")) - self._pauses - self._last)

    def _laid_out(self, event: Event, seconds: float) -> Span:
        path = path_of(event)
        now = self._now.setdefault(path, self._now.get(path.rpartition(".")[0], self._last if not path else 0.0))
        match event.get("event"):
            case "root_reply":
                start, end = self._spent_until(event, path, (now, now + seconds))
                self._now[path] = end
            case "sub_reply" | "sub_failed":
                child = f"{path}.{event.get('child')}".lstrip(".")
                start, end = self._spent_until(event, path, (now, max(now + seconds, self._now.get(child, 0.0))))
                self._calls_end[path] = max(end, self._calls_end.get(path, 0.0))
            case "cell":
                start, end = now, max(now + seconds, self._calls_end.pop(path, 0.0))
                self._now[path] = end
            case _:
                start = end = now
        return start, end

    def _spent_until(self, event: Event, path: str, otherwise: Span) -> Span:
        """The ledger of the whole run began with the run; that of a child began later, nobody knows when."""
        spent = event.get("spent")
        known = number(spent.get("seconds")) if isinstance(spent, Mapping) and not path else 0.0
        return (max(0.0, known - seconds_of(event)), known) if known else otherwise


def number(value: Any) -> float:
    """A finite number, or 0: records are read as they are, damaged ones too."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return 0.0
    return float(value)


def seconds_of(event: Event) -> float:
    """The length of the event's subject."""
    return max(0.0, number(event.get("seconds")))


def path_of(event: Event) -> str:
    """The (child) run that the event belongs to."""
    return str(event.get("path") or "")

"""The lines of a record, one JSON object each: how events become lines, and what their beginnings tell.

A line begins with the name of its event, so that a reader can pass over most lines without parsing them.
"""

import json
from collections.abc import Iterable

from rlm_mcp.records.events import Event, RunEnded, RunResumed, to_json
from rlm_mcp.records.reading import event_or_none

OUTLINE = tuple(
    f'{{"event":"{name}'.encode()
    for name in (
        *("run_started", "run_resumed", "run_left"),
        *('run_ended","status', 'run_ended","path":"",'),  # not those of child runs
        'routed","path":"",',
    )
)
"""Beginnings of the lines from which the state of an ended run is read."""

SYNCED = (b'{"event":"run_started"', b'{"event":"run_ended"')
"""Beginnings of the lines that are on the disk, and not only with the operating system, when they are settled."""

MARK = b'{"event":"run_'
"""Beginning of the lines of events that `marks` gives."""

ASKED = (b'{"event":"root_asked"', b'{"event":"sub_asked"')
"""Beginnings of the lines of requests, which may be repeated ones: only a reply is a step forward."""


def line_of(event: Event, at: float) -> bytes:
    """The line of an event, with a line break. `at` is the time since the run was created, in seconds."""
    timed = to_json(event) | {"at": round(max(0.0, at), 3)}
    return json.dumps(timed, ensure_ascii=True, separators=(",", ":"), default=str).encode() + b"\n"


def event_of(line: bytes) -> Event | None:
    """The event of a line. None for a damaged one, which is left out as in every reader of records."""
    try:
        return event_or_none(json.loads(line))
    except (ValueError, RecursionError):
        return None


def mark_of(line: bytes) -> Event | None:
    """The event of a line if it begins, ends, leaves or resumes the run itself."""
    event = event_of(line) if line.startswith(MARK) else None
    return event if event is not None and not event.path else None


def is_enough(outline: list[Event]) -> bool:
    """Whether the state of a run follows from its outline alone, because the run itself recorded its end."""
    last = outline[-1] if outline else None
    return isinstance(last, RunEnded) and not last.path and last.tells_all


def fruitless_resumes(lines: Iterable[bytes]) -> int:
    """How often in a row servers have resumed the run of these lines since it last got any further."""
    resumes = 0
    for line in lines:
        if not line.startswith((MARK, *ASKED)):
            resumes = 0
        elif isinstance(event := event_of(line), RunResumed) and event.served and not event.path:
            resumes += 1
    return resumes

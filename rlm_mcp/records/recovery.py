"""Crash recovery: which runs without an end a starting server resumes.

A server that shuts down leaves its runs to the next one: it writes `run_left` after the end that the shutdown gave
them; a killed server writes nothing. Runs of the command line are never resumed automatically, because their user has
seen them end.
"""

import json
import time
from collections.abc import Iterator

from rlm_mcp.records.events import Event, RunEnded, RunResumed, RunStarted
from rlm_mcp.records.reading import event_or_none
from rlm_mcp.records.store import Run, Runs

WITHIN_SECONDS = 24 * 3600.0
"""Nobody waits any longer for a run whose record has not grown for a day."""

MOST_TRIES = 3
"""A run that was resumed this often and never ended may be what crashes the server."""

MOST_AT_ONCE = 4
"""Runs that a server resumes when it starts. The others are resumed when a client asks for them."""

_MARK = b'{"event":"run_'


def has_ended(run: Run) -> bool:
    """Whether the latest of the run's beginnings and ends on record is an end."""
    return isinstance(next(reversed(list(_marks(run))), None), RunEnded)


def is_left(run: Run) -> bool:
    """Whether a server should resume the run: a server started it, it has no end, and no process is running it."""
    marks = list(_marks(run))
    if not marks or isinstance(marks[-1], RunEnded):
        return False
    if not (isinstance(marks[0], RunStarted) and marks[0].served):
        return False
    tries = sum(1 for mark in marks if isinstance(mark, RunResumed) and mark.served)
    return tries < MOST_TRIES and not run.is_live()


def left_runs(runs: Runs) -> list[str]:
    """The ids of the runs that a starting server resumes, most recently written first."""
    return [run.run_id for run in _recent(runs) if _is_readably_left(run)][:MOST_AT_ONCE]


def _is_readably_left(run: Run) -> bool:
    try:
        return is_left(run)
    except OSError:  # nothing can be resumed from a record that cannot be read
        return False


def _recent(runs: Runs) -> list[Run]:
    if not runs.directory.is_dir():
        return []
    found = [Run(entry) for entry in runs.directory.iterdir() if (entry / "events.jsonl").is_file()]
    written = {run.run_id: run.events_path.stat().st_mtime for run in found}
    oldest = time.time() - WITHIN_SECONDS
    recent = [run for run in found if written[run.run_id] >= oldest]
    return sorted(recent, key=lambda run: written[run.run_id], reverse=True)


def _marks(run: Run) -> Iterator[Event]:
    """The events that begin, end, leave or resume the run; nothing else in its record is parsed."""
    with run.events_path.open("rb") as file:
        for line in file:
            if line.startswith(_MARK) and line.endswith(b"\n"):
                event = _event_of(line)
                if event is not None and not event.path:
                    yield event


def _event_of(line: bytes) -> Event | None:
    try:
        return event_or_none(json.loads(line))
    except (ValueError, RecursionError):  # a damaged line, which is left out as in every reader of records
        return None

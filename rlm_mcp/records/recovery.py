"""Crash recovery: which runs without an end a starting server resumes, and which the same request finds again.

A server that shuts down leaves its runs to the next one: it writes `run_left` after the end that the shutdown gave
them; a killed server writes nothing. Runs of the command line are never resumed automatically, because their user has
seen them end.
"""

from rlm_mcp.errors import RunRecordDamaged, RunRecordTooNew
from rlm_mcp.records.events import RunEnded, RunStarted
from rlm_mcp.records.protocols import RunRecord

WITHIN_SECONDS = 24 * 3600.0
"""Nobody waits any longer for a run whose record has not grown for a day."""

MOST_TRIES = 5
"""A run that was resumed this often in a row, and never got any further, may be what crashes the server."""

TRIES_TOGETHER = 2
"""A run that was resumed this often in a row is resumed without others of the kind beside it, whose tries it may use
up."""

MOST_AT_ONCE = 4
"""Runs that a server resumes when it starts if it has no limit on runs. Others are resumed when a client asks."""


def has_ended(run: RunRecord) -> bool:
    """Whether the latest of the run's beginnings and ends on record is an end."""
    return isinstance(next(reversed(run.marks()), None), RunEnded)


def is_left(run: RunRecord) -> bool:
    """Whether a server should resume the run: a server started it, it has no end, and no process is running it."""
    return not run.is_live() and is_resumable(run)  # in this order: each rlm_result asks, and the record may be long


def is_resumable(run: RunRecord) -> bool:
    """The same of a run that no process is running."""
    marks = run.marks()
    if not marks or isinstance(marks[-1], RunEnded):
        return False
    if not (isinstance(marks[0], RunStarted) and marks[0].served):
        return False
    return run.fruitless_resumes() < MOST_TRIES


def is_unanswered(run: RunRecord, fingerprint: str, except_model: str | None = None) -> bool:
    """Whether this request finds the run again: it has no end, or an answer that the call which waited did not get.

    Not if it asks the model that is excepted, nor if its record cannot be read.
    """
    try:
        started = run.started()
        if started is None or started.fingerprint != fingerprint or except_model in model_names(started):
            return False
        last = next(reversed(run.marks()), None)
        return not isinstance(last, RunEnded) or (last.status == "completed" and run.is_awaited())
    except (RunRecordTooNew, RunRecordDamaged):
        return False


def model_names(started: RunStarted) -> list[object]:
    """The names of the models that a run asks, as far as its record tells them."""
    return [model["name"] for model in started.models.values() if isinstance(model, dict) and "name" in model]

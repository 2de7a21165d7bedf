"""Run records that several processes share in one data directory: to find, claim, cancel and follow.

Everything except `read_along` does disk work and is called on a worker thread.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import anyio

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.errors import RlmError, RunRecordDamaged, RunRecordTooNew
from rlm_mcp.models.sampling_queue import CLIENT
from rlm_mcp.records.events import Event
from rlm_mcp.records.recovery import has_ended
from rlm_mcp.records.store import Run, Runs

CANCEL_POLL_SECONDS = 0.5
"""How often a process looks whether another one asks it to cancel a run, and whether a record has grown."""

RECENT_RUNS = 100
"""Searched for a run of the same request."""


class RunElsewhere(RlmError):
    """A run belongs to another process."""


def find_unfinished(records: Runs, fingerprint: str, *, sampling: bool) -> Run | None:
    """A recent run of this request whose record has no end. Without `sampling`, none that asks a client's model."""
    if not records.directory.is_dir():
        return None
    newest = sorted(records.directory.iterdir(), key=lambda entry: entry.stat().st_mtime, reverse=True)
    for entry in newest[:RECENT_RUNS]:
        run = Run(entry)
        with suppress(RunRecordTooNew, RunRecordDamaged):
            started = run.started() if run.events_path.is_file() else None
            if started is None or started.fingerprint != fingerprint or has_ended(run):
                continue
            models = [model for model in started.models.values() if isinstance(model, dict)]
            if sampling or all(model.get("name") != CLIENT for model in models):
                return run
    return None


def claim_record(run: Run, known: Sequence[Event]) -> None:
    """Makes this process the writer of a record that is still as it was read. Raises RunBusy, RunElsewhere."""
    run.claim()
    if sum(1 for _ in run.events()) != len(known):
        run.close()
        raise RunElsewhere(f"another process has gone on with {run.run_id} just now: wait for it with rlm_result.")


def cancel_request(run: Run) -> Path:
    """The file by which one process asks another to cancel a run."""
    return run.directory / "cancel"


async def request_cancel(run: Run) -> None:
    """Asks the process that runs it to cancel, and waits a while until it has."""
    cancel_request(run).touch()
    with anyio.move_on_after(CANCEL_POLL_SECONDS * 8):
        while run.is_live():  # noqa: ASYNC110 - the other process does not tell
            await anyio.sleep(CANCEL_POLL_SECONDS / 4)


async def read_along(run: Run, on_event: Callable[[Event], None]) -> None:
    """Passes on the events of a run of another process as its record grows."""
    seen, is_live = 0, True
    while is_live:
        is_live = await run_in_thread(run.is_live)
        news = await run_in_thread(lambda skipped: list(islice(run.events(), skipped, None)), seen)
        for event in news:
            on_event(event)
        seen += len(news)
        if is_live:
            await anyio.sleep(CANCEL_POLL_SECONDS)

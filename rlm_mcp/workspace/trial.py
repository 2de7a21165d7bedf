"""Runs with which processes have died: one of them at a time goes on, until it has got further.

One of them may be what ends the process, and would use up the tries of those beside it (records/recovery.py).
"""

from contextlib import suppress

import anyio

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.errors import RlmError
from rlm_mcp.records.protocols import RunRecord
from rlm_mcp.records.recovery import TRIES_TOGETHER

MOST_SECONDS, POLL_SECONDS = 60.0, 0.5
"""How long others wait for one of these runs, and how often it is looked at: a crash comes soon."""


class Trial:
    """The runs of this kind of all owners in one process."""

    def __init__(self) -> None:
        self._place = anyio.Semaphore(1)

    def __repr__(self) -> str:
        return f"<Trial, {'free' if self._place.value else 'taken'}, {self._place.statistics().tasks_waiting} waiting>"

    async def begin(self) -> None:
        """Returns when no other one is on trial. Then `end` or `end_now` has to be called."""
        await self._place.acquire()

    async def end(self, run: RunRecord, is_over: anyio.Event) -> None:
        """Lets the next one begin once this one has got further or does not go on, or the time or all `is_over`."""
        try:
            with anyio.move_on_after(MOST_SECONDS), suppress(RlmError, OSError):
                while not is_over.is_set() and await run_in_thread(_has_got_no_further, run):
                    with anyio.move_on_after(POLL_SECONDS):
                        await is_over.wait()
        finally:
            self.end_now()

    def end_now(self) -> None:
        """Lets the next one begin."""
        self._place.release()


def is_suspect(run: RunRecord) -> bool:
    """Whether a run was resumed so often in vain that it is put on trial."""
    return run.fruitless_resumes() >= TRIES_TOGETHER


def _has_got_no_further(run: RunRecord) -> bool:
    """Whether a run goes on, and has not got any further since it was resumed."""
    return run.is_live() and run.fruitless_resumes() > 0

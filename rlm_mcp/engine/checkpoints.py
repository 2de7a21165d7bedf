"""Checkpoints of a run's REPL: restored when the run is resumed, saved while the root model is being asked.

Blocks up to the saved checkpoint are not executed again; the first block after it restores the REPL. Without a
checkpoint, blocks are run again on resume, with their sub-calls answered from the record.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from rlm_mcp.concurrency import background_task
from rlm_mcp.engine.types import Record
from rlm_mcp.repl.types import Repl


class Checkpoints:
    """The checkpoint of one run. With `enabled` False (child runs, replays) none is read and none is written."""

    def __init__(self, record: Record, *, after_seconds: float, enabled: bool) -> None:
        self._record = record
        self._after_seconds = after_seconds
        self._enabled = enabled
        self._saved = record.checkpoint() if enabled else None
        self._is_unsaved = False
        """blocks have run in the REPL that no checkpoint holds"""

    def __repr__(self) -> str:
        return f"<Checkpoints, {'none' if self._saved is None else f'turn {self._saved[0]}'} to restore>"

    def cover(self, turn: int) -> bool:
        """Whether the checkpoint that is still to be restored holds what the blocks of this turn did."""
        return self._saved is not None and turn <= self._saved[0]

    async def prepare(self, repl: Repl) -> None:
        """Restores the checkpoint before the first block that runs after it, and notes that a block will run."""
        if self._saved is not None:
            await repl.restore(self._saved[1])
            self._saved = None
        self._is_unsaved = self._enabled

    @asynccontextmanager
    async def saved_meanwhile(self, repl: Repl | None, turn: int) -> AsyncIterator[None]:
        """Saves the REPL as it was after `turn`, unless it is saved already: while the body runs, or before it."""
        if repl is None or not self._is_unsaved:
            yield
        elif self._after_seconds <= 0:
            await self._save(repl, turn)
            yield
        else:
            async with background_task(self._save, repl, turn):
                yield

    async def _save(self, repl: Repl, turn: int) -> None:
        await anyio.sleep(self._after_seconds)
        with anyio.CancelScope(shield=True):  # once begun, it is finished
            data = await repl.checkpoint()
            await anyio.to_thread.run_sync(self._record.save_checkpoint, turn, data)
            self._is_unsaved = False

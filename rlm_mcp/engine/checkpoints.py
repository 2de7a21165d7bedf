"""Checkpoints of a run's REPL: restored when the run is resumed, saved while the root model is being asked.

Blocks up to the restored checkpoint are not executed again. Without one, or with one of another version of the
sandbox, blocks are run again on resume, with their sub-calls answered from the record.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from rlm_mcp.concurrency import background_task
from rlm_mcp.records.protocols import Record
from rlm_mcp.repl.types import Repl


class Checkpoints:
    """The checkpoint of one run. With `enabled` False (child runs, replays) none is read and none is written."""

    def __init__(self, record: Record, *, after_seconds: float, enabled: bool) -> None:
        self._record = record
        self._after_seconds = after_seconds
        self._enabled = enabled
        self._covered = 0
        """the last turn whose blocks the restored checkpoint holds"""
        self._is_unsaved = False
        """blocks have run in the REPL that no checkpoint holds"""

    def __repr__(self) -> str:
        return f"<Checkpoints, turns up to {self._covered} restored>"

    def cover(self, turn: int) -> bool:
        """Whether the restored checkpoint includes the effects of this turn's blocks."""
        return turn <= self._covered

    async def restore(self, repl: Repl, *, is_usable: Callable[[int], bool]) -> None:
        """Restores the run's checkpoint in a REPL that was just opened, if there is one and the REPL accepts it.

        `is_usable` tells whether one of that turn may be used.
        """
        saved = await anyio.to_thread.run_sync(self._record.checkpoint) if self._enabled else None
        if saved is not None and is_usable(saved[0]) and await repl.restore(saved[1]):
            self._covered = saved[0]

    def note_block(self) -> None:
        """Notes that a block runs in the REPL, so that the checkpoint is out of date."""
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
            pack = await repl.checkpoint()
            if pack is not None:
                await anyio.to_thread.run_sync(lambda: self._record.save_checkpoint(turn, pack()))
            self._is_unsaved = False

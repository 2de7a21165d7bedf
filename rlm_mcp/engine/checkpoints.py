"""Checkpoints of a run's REPL: restored when the run is resumed, saved while the root model is being asked.

Blocks up to the restored checkpoint are not executed again. Without one, or with one of another version of the
sandbox, blocks are run again on resume, with their sub-calls answered from the record. So it is where the record has
lost the result of a block that the checkpoint holds: run again over what it left, that block would count twice.

A checkpoint is the number of blocks it holds, in 4 bytes, and what the REPL saved.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from rlm_mcp.concurrency import background_task
from rlm_mcp.records.protocols import Record
from rlm_mcp.repl.types import Repl

_COUNT_BYTES = 4


class Checkpoints:
    """The checkpoint of one run. With `enabled` False (child runs, replays) none is read and none is written."""

    def __init__(self, record: Record, *, after_seconds: float, enabled: bool) -> None:
        self._record = record
        self._after_seconds = after_seconds
        self._enabled = enabled
        self._covered = 0
        """the last turn whose blocks the restored checkpoint holds"""
        self._blocks = 0
        """how many blocks the REPL's state comes from"""
        self._is_unsaved = False
        """blocks have run in the REPL that no checkpoint holds"""

    def __repr__(self) -> str:
        return f"<Checkpoints, turns up to {self._covered} restored>"

    def cover(self, turn: int) -> bool:
        """Whether the restored checkpoint includes the effects of this turn's blocks."""
        return turn <= self._covered

    async def restore(self, repl: Repl, *, known_blocks: Callable[[int], int | None]) -> None:
        """Restores the run's checkpoint in a REPL that was just opened, if there is one and the REPL accepts it.

        `known_blocks` tells how many results of blocks the record has up to a turn, or None if one is unreadable.
        """
        saved = await anyio.to_thread.run_sync(self._record.checkpoint) if self._enabled else None
        if saved is None:
            return
        turn, data = saved
        blocks = int.from_bytes(data[:_COUNT_BYTES], "little")
        if known_blocks(turn) == blocks and await repl.restore(data[_COUNT_BYTES:]):
            self._covered, self._blocks = turn, blocks

    def note_block(self) -> None:
        """Notes that a block runs in the REPL, so that the checkpoint is out of date."""
        self._blocks += 1
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
            count = self._blocks.to_bytes(_COUNT_BYTES, "little")
            pack = await repl.checkpoint()
            if pack is not None:
                await anyio.to_thread.run_sync(lambda: self._record.save_checkpoint(turn, count + pack()))
            self._is_unsaved = False

"""A REPL whose variables are saved after its cells, beside the work of its client.

A cell pays for the copy of what its session has written (a millisecond), not for packing and writing it. What several
cells did while a state was being saved is saved together, and saving one REPL takes a quarter of a processor at most,
however fast its cells follow each other.
"""

import math
from dataclasses import replace
from functools import partial

import anyio
from anyio.abc import TaskGroup

from rlm_mcp.errors import RlmError
from rlm_mcp.repl.types import CellResult, Repl
from rlm_mcp.workspace.repl_states import DAMAGED, ReplStates, StateNotKept, TakenState

PAUSE, PAUSE_AFTER_FAILURE = 3.0, 60.0
"""After a state was saved, or could not be, the next is saved no earlier than this many times as long as that took."""

_COPIES = anyio.CapacityLimiter(2)
"""States that are copied and packed at once in a process: each takes memory, and the processors from others' cells."""


class KeptRepl:
    """Saves the state of one open REPL under its lease. `lock` is held while a cell runs."""

    def __init__(self, repl: Repl, lock: anyio.Lock, *, context_id: str, states: ReplStates, tasks: TaskGroup) -> None:
        self._repl = repl
        self._lock = lock
        self._context_id = context_id
        self._states = states
        self._tasks = tasks
        self._lease: str | None = None
        self._begun = 0
        self._missing = 0
        self._is_miscounted = False
        """cells are on record as begun that are not counted any more"""
        self._is_taken = False
        self._abandoned = anyio.Event()
        self._is_unsaved = False
        self._is_saving = False
        self._saving = anyio.Lock()
        self._may_save_at = -math.inf
        self._notes: list[str] = []
        self._failure = ""

    def __repr__(self) -> str:
        return f"<KeptRepl of {self._context_id}, {self._begun} cells{', unsaved' * self._is_unsaved}>"

    async def restore(self) -> None:
        """Takes the state of the context's REPL and restores it, if there is one. The next cell is told."""
        taken = await self._take()
        if taken is None:
            return
        lost = taken.lost
        self._missing = taken.begun - taken.cells
        if taken.data is not None:
            lost = await self._restored(taken.data)
        if note := what_became_of(taken, lost):
            self._notes.append(note)

    async def _take(self) -> TakenState | None:
        try:
            taken = await anyio.to_thread.run_sync(self._states.take, self._context_id, self._repl.image)
        except StateNotKept as error:
            self._note_failure(error)
            return None
        self._lease, self._begun = taken.lease, taken.begun
        return taken

    async def _restored(self, data: bytes) -> str:
        """Restores a state; says why if that is not possible."""
        try:
            return "" if await self._repl.restore(data) else DAMAGED
        except RlmError as error:
            return str(error)

    async def begin_cell(self) -> bool:
        """Counts a cell; False if another process has taken the REPL, so that this one is out of date."""
        if self._is_taken:
            return False
        # A state that could not be taken when the REPL was opened is older than what is in the REPL by now.
        if self._lease is None and (self._abandoned.is_set() or await self._take() is None):
            return True
        self._begun += 1
        try:
            self._is_taken = not await self._count(self._lease or "")
        except StateNotKept as error:
            self._note_failure(error)
        if self._is_taken:
            self.abandon()
        return not self._is_taken

    async def _count(self, lease: str) -> bool:
        """Puts on record how many cells have begun; False if another process has taken the REPL."""
        is_ours = await anyio.to_thread.run_sync(self._states.count_cell, self._context_id, lease, self._begun)
        self._is_miscounted = False
        return is_ours

    def end_cell(self) -> None:
        """Saves the state in the background, after the answer of the cell."""
        self._is_unsaved = self._lease is not None
        if self._is_unsaved and not self._is_saving:
            self._is_saving = True
            self._tasks.start_soon(self._save_until_all_is_saved)

    def told(self, result: CellResult) -> CellResult:
        """The result of a cell with what its client has to know about its variables, once.

        Cells that were told to be missing do not count any more.
        """
        notes, self._notes = self._notes, []
        self._is_miscounted |= self._missing > 0
        self._begun, self._missing = self._begun - self._missing, 0
        return replace(result, notes=(*notes, *result.notes)) if notes else result

    def abandon(self) -> None:
        """Saves nothing from now on: the REPL was reset or closed, or another process has it."""
        self._lease, self._is_unsaved = None, False
        self._abandoned.set()

    async def close(self) -> None:
        """Saves what is not saved yet, before the REPL is closed. A cell that still runs is not waited for."""
        if not self._lock.locked():
            await self._save()
        self.abandon()

    async def _save_until_all_is_saved(self) -> None:
        try:
            while self._is_unsaved:
                with anyio.CancelScope(deadline=self._may_save_at):
                    await self._abandoned.wait()
                began = anyio.current_time()
                await self._save()
                ended = anyio.current_time()
                pause = PAUSE_AFTER_FAILURE if self._failure else PAUSE
                self._may_save_at = ended + pause * (ended - began)
        finally:
            self._is_saving = False

    async def _save(self) -> None:
        """Saves the state, once an earlier one is saved. A failure is told to the next cell."""
        async with self._saving:
            if not self._is_unsaved or self._lease is None:
                return
            try:
                cells = await self._save_state(self._lease)
            except StateNotKept as error:
                self._note_failure(error)
                cells = self._begun
            except RlmError:  # the REPL was closed, or its sandbox failed, which its next cell is told
                cells = self._begun
            self._is_unsaved = self._lease is not None and self._begun != cells  # it may be abandoned by now

    async def _save_state(self, lease: str) -> int:
        """Saves the state as it is now; gives the number of cells that it holds. Raises StateNotKept, RlmError."""
        while not await self._is_copying():
            async with _COPIES:  # not while the lock is held, nor the lock while others could copy
                pass
        try:
            cells = self._begun
            try:
                pack = await self._repl.checkpoint()
                if self._is_miscounted:  # while no cell can begin
                    await self._count(lease)
            finally:
                self._lock.release()
            if pack is None:
                raise StateNotKept("the session holds too much")
            save = partial(self._states.save, self._context_id, lease, self._repl.image, cells)
            await anyio.to_thread.run_sync(lambda: save(pack()))
        finally:
            _COPIES.release_on_behalf_of(self)
        self._failure = ""
        return cells

    async def _is_copying(self) -> bool:
        """Waits until no cell runs; then the lock is held, if there is a place for one more copy."""
        await self._lock.acquire()
        try:
            _COPIES.acquire_on_behalf_of_nowait(self)
        except anyio.WouldBlock:
            self._lock.release()
            return False
        return True

    def _note_failure(self, error: StateNotKept) -> None:
        """Tells the next cell that variables are not kept, unless that was told."""
        if self._failure != str(error):
            self._failure = str(error)
            self._notes.append(f"The variables cannot be saved ({error}): they last as long as this server keeps them.")


def what_became_of(taken: TakenState, lost: str) -> str:
    """The note to a client about the variables of earlier cells; empty if there are none."""
    if not taken.begun:
        return ""
    if lost:
        return f"The variables of the earlier cells are gone ({lost}): run again what you need."
    missing = taken.begun - taken.cells
    if missing:
        last = "the last cell, which was" if missing == 1 else f"the last {missing:,} cells, which were"
        return f"The variables were restored as they were before {last} not saved: run again what you need of that."
    return "The variables of the earlier cells were restored."

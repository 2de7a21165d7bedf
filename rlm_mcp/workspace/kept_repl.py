"""A REPL whose variables are saved after its cells, beside the work of its client.

A cell pays for the copy of what its session has written (a millisecond), not for packing and writing it. What several
cells did while a state was being saved is saved together, and saving one REPL takes a quarter of a processor at most,
however fast its cells follow each other.

Where another process waits for the REPL, the state is saved once the running cell has ended, and no other cell begins
before this process has taken the REPL again. Then the newer state is restored in the open session.
"""

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import anyio
from anyio.abc import TaskGroup

from rlm_mcp.errors import RlmError
from rlm_mcp.repl.types import CellResult, Repl
from rlm_mcp.workspace.repl_states import DAMAGED, ReplNews, ReplStates, StateNotKept, StorageAway, TakenState

PAUSE, PAUSE_AFTER_FAILURE = 3.0, 60.0
"""After a state was saved, or could not be, the next is saved no earlier than this many times as long as that took."""

MOST_PAUSE_SECONDS = 30.0
"""Where that took long, it was rather waiting than computing."""

ASK_AGAIN_SECONDS = 0.5
"""How often a REPL that another process uses is asked for: what it answers may be lost."""

REPLACED = (
    "The variables of cells before those of this REPL are gone (they could not be read when it was opened): run again"
    " what you need."
)

_COPIES = anyio.CapacityLimiter(2)
"""States that are copied and packed at once in a process: each takes memory, and the processors from others' cells."""


class KeptRepl:
    """Saves the state of one open REPL under its lease. `lock` is held while a cell runs.

    Where another process forgets the REPL, `close` is called, which interrupts a cell that runs.
    """

    def __init__(
        self,
        repl: Repl,
        lock: anyio.Lock,
        *,
        context_id: str,
        states: ReplStates,
        tasks: TaskGroup,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._repl = repl
        self._lock = lock
        self._context_id = context_id
        self._states = states
        self._tasks = tasks
        self._close_repl = close
        self._lease: str | None = None
        self._to_release: str | None = None
        """the lease that others have to wait for until it is released"""
        self._begun = 0
        self._missing = 0
        self._is_miscounted = False
        """cells are on record as begun that are not counted any more"""
        self._is_outdated = False
        """its variables are not those that are kept, and could not be replaced: cells run in another one"""
        self._is_wanted = False
        self._is_leaving = False
        """no cell begins before the REPL is taken again: another process waits, and gets what `close` saves"""
        self._has_run = False
        self._is_abandoned = False
        self._is_asked_for = False
        self._free = anyio.Event()
        """the REPL may be taken"""
        self._doubt = anyio.Event()
        """the REPL may have been forgotten"""
        self._work, self._hurry = anyio.Event(), anyio.Event()
        """there is something to do in the background; no pause is made before that"""
        self._is_unsaved = False
        self._saving = anyio.Lock()
        self._written = anyio.Event()
        """no state is on its way from this process to where it is kept"""
        self._written.set()
        self._may_save_at = -math.inf
        self._notes: list[str] = []
        self._failure, self._told_failure = "", ""
        """why the last state could not be saved, and what of that the client was told"""

    def __repr__(self) -> str:
        return f"<KeptRepl of {self._context_id}, {self._begun} cells{', unsaved' * self._is_unsaved}>"

    async def restore(self) -> None:
        """Takes the state of the context's REPL and restores it, if there is one. The next cell is told.

        From now on states are saved in the background, until `abandon`.
        """
        self._tasks.start_soon(self._keep_saving)
        self._tasks.start_soon(self._leave_when_dropped)
        try:
            await self._restore()
        except BaseException:  # cancellation too: what is there now is not the state that was kept
            self._is_outdated = True
            raise

    async def _restore(self) -> None:
        taken = await self._take()
        if taken is None:
            return
        lost = taken.lost if taken.data is None else await self._restored(taken.data)
        self._note_what_became_of(taken, lost)

    def _note_what_became_of(self, taken: TakenState, lost: str) -> None:
        self._missing = taken.begun - taken.cells
        if note := what_became_of(taken, lost):
            self._notes.append(note)

    async def _restore_in_place(self) -> bool:
        """Takes the REPL from another process and replaces the variables; False where a new session is needed."""
        self._lease, self._to_release, self._is_unsaved = None, None, False
        self._is_wanted = self._is_leaving = self._is_asked_for = self._has_run = False
        is_restored = False
        try:
            taken = await self._take()
            if taken is not None and taken.data is not None and not await self._restored(taken.data):
                self._note_what_became_of(taken, "")
                is_restored = True
        finally:
            if not is_restored:  # or the cell was cancelled: nobody knows whose variables these are
                self._is_outdated = True
                self.abandon()
                with anyio.CancelScope(shield=True):
                    await self._release_taken()
        return is_restored

    async def _take(self) -> TakenState | None:
        while not self._is_abandoned:
            self._free = anyio.Event()
            try:
                taken = await anyio.to_thread.run_sync(self._states.take, self._context_id, self._repl.image)
            except StateNotKept as error:
                self._failure = str(error)
                return None
            if taken is not None and not self._is_abandoned:
                self._lease, self._begun = taken.lease, taken.begun
                self._to_release = taken.lease
                return taken
            if taken is not None:  # too late: `close` has released what there was
                await self._release(taken.lease)
            with anyio.move_on_after(ASK_AGAIN_SECONDS):
                await self._free.wait()
        return None

    def hear(self, news: ReplNews) -> None:
        """Acts on what other processes tell about the REPL."""
        if news != "wanted":
            self._free.set()
            if news == "dropped":
                self._doubt.set()
        elif self._lease is not None:
            self._is_wanted = self._is_asked_for = True
            self._hurry.set()
            self._work.set()

    async def _leave_when_dropped(self) -> None:
        """Closes the REPL once another process has forgotten it; the news may be older than the lease."""
        while not self._is_abandoned:
            await self._doubt.wait()
            self._doubt, lease = anyio.Event(), self._lease
            with suppress(StateNotKept):
                is_held = partial(self._states.is_held, self._context_id)
                is_lost = lease is not None and not await anyio.to_thread.run_sync(is_held, lease)
                if is_lost and self._lease == lease:  # or it was taken again meanwhile
                    self.abandon()
                    await self._close_repl()

    async def _let_go(self) -> None:
        """Lets another process take the REPL when no cell runs, unless there is something to save first."""
        async with self._lock:
            if self._lease is not None and not self._is_unsaved:
                await self._release(self._lease)

    async def _release(self, lease: str) -> None:
        with suppress(StateNotKept):  # it expires, or others ask for it again
            await anyio.to_thread.run_sync(self._states.release, self._context_id, lease)

    async def _restored(self, data: bytes) -> str:
        """Restores a state; says why if that is not possible."""
        try:
            return "" if await self._repl.restore(data) else DAMAGED
        except RlmError as error:
            return str(error)

    async def begin_cell(self) -> bool:
        """Counts a cell, once the variables are those of the cell before; False if this takes another session."""
        # A process that has waited runs one cell at least, or two could pass the REPL on for ever.
        self._is_leaving |= self._is_wanted and self._has_run
        if self._is_leaving:
            await self._written.wait()
        if self._is_abandoned or self._is_outdated or (self._is_leaving and self._is_unsaved):
            return False
        if self._lease is None:
            if (taken := await self._take()) is None:
                return not self._is_abandoned
            # A state that could not be taken when the REPL was opened is older than what is in the REPL by now.
            if taken.begun:
                self._notes.append(REPLACED)
        # Counting tells whether another process has taken the REPL.
        while self._is_leaving or not await self._is_counted():
            if not await self._restore_in_place():
                return False
        return True

    async def _is_counted(self) -> bool:
        """Counts a cell; False if another process has taken the REPL."""
        self._begun += 1
        try:
            return await self._count(self._lease or "")
        except StateNotKept as error:
            self._failure = str(error)
            return True

    async def _count(self, lease: str) -> bool:
        """Puts on record how many cells have begun; False if another process has taken the REPL."""
        is_ours = await anyio.to_thread.run_sync(self._states.count_cell, self._context_id, lease, self._begun)
        self._is_miscounted = False
        return is_ours

    def end_cell(self) -> None:
        """Saves the state in the background, after the answer of the cell."""
        self._has_run = True
        self._is_unsaved = self._lease is not None
        self._work.set()

    def told(self, result: CellResult) -> CellResult:
        """The result of a cell with what its client has to know about its variables, once.

        Cells that were told to be missing do not count any more.
        """
        notes, self._notes = self._notes, []
        if self._failure and self._failure != self._told_failure:
            why = f"The variables cannot be saved ({self._failure}): they last as long as this server keeps them."
            notes.append(why)
            self._told_failure = self._failure
        self._is_miscounted |= self._missing > 0
        self._begun, self._missing = self._begun - self._missing, 0
        return replace(result, notes=(*notes, *result.notes)) if notes else result

    def abandon(self) -> None:
        """Saves nothing from now on: the REPL was reset or closed, or another process has it."""
        self._lease, self._is_unsaved, self._is_abandoned = None, False, True
        for event in (self._free, self._hurry, self._work, self._doubt):
            event.set()

    async def close(self) -> None:
        """Saves what is not saved yet, before the REPL is closed. A cell that still runs is not waited for."""
        if self._is_leaving or not self._lock.locked():
            await self._save()
        self.abandon()
        await self._release_taken()

    async def _release_taken(self) -> None:
        if self._to_release is not None:
            await self._release(self._to_release)

    async def _keep_saving(self) -> None:
        while not self._is_abandoned:
            self._work = anyio.Event()
            if self._is_unsaved:
                with anyio.CancelScope(deadline=self._may_save_at):
                    await self._hurry.wait()
                began = anyio.current_time()
                await self._save()
                ended = anyio.current_time()
                pause = PAUSE_AFTER_FAILURE if self._failure else PAUSE
                self._may_save_at = ended + min(pause * (ended - began), MOST_PAUSE_SECONDS)
            elif self._is_asked_for:
                self._is_asked_for = False
                await self._let_go()
            else:
                await self._work.wait()

    async def _save(self) -> None:
        """Saves the state, once an earlier one is saved. A failure is told to the next cell, unless it has passed."""
        async with self._saving:
            if not self._is_unsaved or self._lease is None:
                return
            try:
                saved = await self._save_state(self._lease)
            except StateNotKept as error:
                self._failure = str(error)
                if isinstance(error, StorageAway) and not self._is_wanted:
                    return  # and tries again
                saved = self._lease, self._begun
            except RlmError:  # the REPL was closed, or its sandbox failed, which its next cell is told
                saved = self._lease, self._begun
            finally:
                self._written.set()
            # By now it may be abandoned, or hold what another process has saved.
            self._is_unsaved = self._lease is not None and (self._lease, self._begun) != saved
            await anyio.to_thread.run_sync(self._states.delete_replaced)

    async def _save_state(self, lease: str) -> tuple[str | None, int]:
        """Saves the state as it is now; gives its lease and number of cells. Raises StateNotKept, RlmError."""
        while not await self._is_copying():
            async with _COPIES:  # not while the lock is held, nor the lock while others could copy
                pass
        try:
            # Another process may have had the REPL while this waited, or it is being closed, which loses nothing.
            lease, cells = self._lease or lease, self._begun
            try:
                pack = await self._repl.checkpoint()
                if self._is_miscounted:  # while no cell can begin
                    await self._count(lease)
                self._written = anyio.Event()
            finally:
                self._lock.release()
            if pack is None:
                raise StateNotKept("the session holds too much")
            save = partial(self._states.save, self._context_id, lease, self._repl.image, cells)
            await anyio.to_thread.run_sync(lambda: save(pack()))
        finally:
            _COPIES.release_on_behalf_of(self)
        self._failure = self._told_failure = ""
        return lease, cells

    async def _is_copying(self) -> bool:
        """Waits until no cell runs; then the lock is held, if there is a place for one more copy."""
        await self._lock.acquire()
        try:
            _COPIES.acquire_on_behalf_of_nowait(self)
        except anyio.WouldBlock:
            self._lock.release()
            return False
        return True


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
    return "" if taken.is_usual else "The variables of the earlier cells were restored."

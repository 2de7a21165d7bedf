"""The calls that wait for runs: a run goes on while one of them does, and is kept for a client that was lost.

A call that its user cancels stops its run; one that ends with its connection keeps the run for the same request, which
such a client will probably make again. Whether the answer has reached anybody is on the record of the run, so that the
next server knows it too.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import TaskGroup

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.errors import RlmError
from rlm_mcp.workspace.awaited_runs import AwaitedRuns
from rlm_mcp.workspace.live_runs import LiveRuns

TELLING_SECONDS = 1.0
"""From the end of a call that waited for a run until it is taken to have reached its client."""

log = logging.getLogger(__name__)


class WaitingCalls:
    """The calls of one owner's clients in one process. With `serves`, the process is a server."""

    def __init__(self, runs: LiveRuns, awaited: AwaitedRuns, tasks: TaskGroup, *, serves: bool = False) -> None:
        self._runs = runs
        self._awaited = awaited
        self._tasks = tasks
        self._serves = serves

    def __repr__(self) -> str:
        return f"<WaitingCalls for {self._runs!r}>"

    @asynccontextmanager
    async def waiting(self, run_id: str, call: str = "") -> AsyncIterator[None]:
        """Counts a call that waits for the run: until it ends, another call that is given up does not stop the run.

        In a server, the same request finds the run again if the process dies before the call is answered. The next
        process cancels the run instead if `call`, the id of the only one, was given up meanwhile; without an id, never.
        """
        live = self._runs.live(run_id)
        if live is None:
            self._awaited.add_calls(run_id, 1)
        else:
            live.waiting += 1
            live.go_on()
        try:
            if live is not None and self._serves and call not in live.waiting_calls:
                live.waiting_calls.add(call)
                await run_in_thread(live.run.note_waiting, call)
            yield
        finally:
            if live is None:
                self._awaited.add_calls(run_id, -1)
            else:
                live.waiting -= 1
                if not live.waiting:
                    live.waiting_calls.clear()
            if self._serves and not self._runs.is_over.is_set() and (live is None or not live.waiting):
                self._awaited.begin_telling(run_id)
                self._tasks.start_soon(self._note_told, run_id)

    async def _note_told(self, run_id: str) -> None:
        """Lets the end of a call reach its client; then the same request is a new one, also for other processes."""
        with anyio.move_on_after(TELLING_SECONDS):
            await self._runs.is_over.wait()
        try:
            run = await self._runs.find(run_id)
            live = self._runs.live(run_id)
            # Calls of another process may wait for a run that goes on there.
            is_awaited = await run_in_thread(run.is_live) if live is None else live.waiting
            if not is_awaited and not self._awaited.is_kept(run_id):
                await run_in_thread(run.note_told)
        except (RlmError, OSError) as error:
            log.warning("the request of %s may find that run again: %s", run_id, error)
        finally:
            self._awaited.end_telling(run_id)

    def give_up(self, run_id: str, *, by_user: bool = False) -> None:
        """Stops the run because the call that started it was cancelled: nothing may be spent any more.

        Unless another call waits for the run, or only the end of the server cancelled the call and no user did. A run
        that is kept for a question that was repeated before is only held: its client gives up too early.
        """
        if self._runs.is_ending and not by_user:
            return
        if self._awaited.is_given_up_elsewhere(run_id):
            self._runs.cancel_elsewhere_soon(run_id)
        live = self._runs.live(run_id)
        if live is None or live.waiting:
            return
        if live.is_repeated and self._awaited.kept_for(live.fingerprint) == run_id:
            live.hold()
        else:
            live.cancel()

    async def keep_for_repeat(self, run_id: str) -> None:
        """Keeps the run for the same question: its client was lost or gave up waiting, and will probably ask again.

        A run that has just been completed is kept, too: its answer was on its way when the call was cancelled. In a
        server, this is on record, so that the next one gives the answer to the same question if the run is completed.
        """
        if (live := self._runs.live(run_id)) is not None:
            fingerprint = "" if live.asks_client else live.fingerprint
        else:
            fingerprint = await self._fingerprint_elsewhere(run_id)
        if not fingerprint:
            return
        self._awaited.keep(fingerprint, run_id)
        if self._serves:
            with anyio.CancelScope(shield=True), suppress(RlmError):
                await run_in_thread((await self._runs.find(run_id)).note_waiting)

    async def _fingerprint_elsewhere(self, run_id: str) -> str:
        """That of a run which is completed, or was handed over by this process."""
        with anyio.CancelScope(shield=True), suppress(RlmError):
            state = await self._runs.state(run_id)
            if state.status == "completed" or self._awaited.is_handed_over(run_id):
                return state.fingerprint
        return ""

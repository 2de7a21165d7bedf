"""Attempts at runs that another process handed over to whichever machine of a cluster has room, played to their end."""

import logging
from contextlib import AsyncExitStack

import anyio

from rlm_mcp.concurrency import background_task, run_in_thread
from rlm_mcp.errors import RlmError, RunNotWritten, RunRecordTooNew, StorageUnreachable
from rlm_mcp.records.events import RunResumed, RunStarted
from rlm_mcp.records.run_queue import RunQueue, TakenOver
from rlm_mcp.workspace.launch import Launch, Launcher
from rlm_mcp.workspace.live_run import failed_end
from rlm_mcp.workspace.live_runs import LiveRuns, ServerEnds
from rlm_mcp.workspace.trial import Trial, is_suspect

log = logging.getLogger(__name__)


class HandedOverRuns:
    """Plays runs of one owner that were begun elsewhere, among the live runs of this process."""

    def __init__(self, runs: LiveRuns, queue: RunQueue, launcher: Launcher) -> None:
        self._runs = runs
        self._queue = queue
        self._launcher = launcher

    def __repr__(self) -> str:
        return f"<HandedOverRuns of {self._queue!r}>"

    async def play(self, run_id: str, position: int, trial: Trial) -> None:
        """Plays to its end an attempt that was handed over, unless it is not waiting for that any more.

        One with which processes have died is on `trial` first.
        """
        run = await run_in_thread(self._runs.records.get, run_id)
        if not await run_in_thread(is_suspect, run):
            await self._take_over(run_id, position)
            return
        await trial.begin()
        async with background_task(trial.end, run, self._runs.is_over):
            await self._take_over(run_id, position)

    async def _take_over(self, run_id: str, position: int) -> None:
        taken = await run_in_thread(self._queue.take_over, run_id, position)
        if taken is None:
            return
        run = taken.run
        try:
            launch, fingerprint = await self._launch(taken)
            live = self._runs.add_live(run, launch, fingerprint, AsyncExitStack())
        except (ServerEnds, RunNotWritten, RunRecordTooNew, StorageUnreachable) as error:
            log.warning("%s goes on elsewhere or later: %s", run_id, error)
            return
        except Exception as error:  # a bug, too, is an end that must be on record
            await run_in_thread(run.append, failed_end(error))
            if not isinstance(error, RlmError):
                log.exception("run %s failed", run_id)
            return
        finally:
            if self._runs.live(run_id) is None:
                with anyio.CancelScope(shield=True):
                    await run_in_thread(run.close)
        await self._runs.play(run_id, live.position)

    async def _launch(self, taken: TakenOver) -> tuple[Launch, str]:
        """The rest of a run whose record this process has claimed. It is on record that another one goes on with it."""
        run = taken.run
        events = await run_in_thread(lambda: list(run.events()))
        state = await run_in_thread(run.state)
        launch = await self._launcher.resumed(events, state.usage)
        if taken.is_lost or not isinstance(events[-1], RunStarted | RunResumed):
            spent = None if launch.already is None else launch.already.to_json()
            await run_in_thread(run.append, RunResumed(served=True, spent=spent))
        return launch, state.fingerprint

"""Crash recovery in a server: it resumes the runs that earlier servers left, or ends those that were given up.

Which runs those are, and how often each is tried, is decided by records/recovery.py.
"""

import logging

from anyio.abc import TaskGroup

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.errors import RlmError
from rlm_mcp.records.recovery import MOST_AT_ONCE, is_left
from rlm_mcp.records.run_queue import RunQueue
from rlm_mcp.workspace.awaited_runs import AwaitedRuns
from rlm_mcp.workspace.live_runs import LiveRuns
from rlm_mcp.workspace.tenant_limits import TenantLimits
from rlm_mcp.workspace.trial import Trial, is_suspect
from rlm_mcp.workspace.waiting_calls import WaitingCalls

log = logging.getLogger(__name__)


class RunRecovery:
    """The runs of one owner whose processes have died. With `serves`, this process is a server."""

    def __init__(
        self,
        *,
        runs: LiveRuns,
        calls: WaitingCalls,
        awaited: AwaitedRuns,
        queue: RunQueue,
        limits: TenantLimits,
        tasks: TaskGroup,
        owner: str = "",
        serves: bool = False,
    ) -> None:
        self._runs = runs
        self._calls = calls
        self._awaited = awaited
        self._queue = queue
        self._limits = limits
        self._tasks = tasks
        self._owner = owner
        self._serves = serves

    def __repr__(self) -> str:
        return f"<RunRecovery of {self._queue!r}>"

    async def resume_left(self, given_up: frozenset[str] = frozenset(), trial: Trial | None = None) -> None:
        """Resumes the runs that earlier servers left; those that cannot be resumed stay as they are.

        A run whose id, or that of each call that waited for it, is `given_up` is cancelled instead. Those with which
        processes have died come last, and one after the other in all workspaces that share a `trial`.
        """
        trial = trial or Trial()
        most = await self._limits.runs_left(self._owner)
        left = await run_in_thread(self._queue.left, MOST_AT_ONCE if most is None else most)
        suspects = await run_in_thread(lambda: {run.run_id for run in left if is_suspect(run)})
        for run in sorted(left, key=lambda run: run.run_id in suspects):
            if run.run_id in given_up:
                await run_in_thread(self._queue.request_cancel, run.run_id)
            elif given_up and (calls := await run_in_thread(run.waiting_calls)) and calls <= given_up:
                await self._cancel_given_up(run.run_id)
                continue
            if run.run_id not in suspects:
                await self._try_to_resume(run.run_id)
                continue
            await trial.begin()
            try:
                await self._try_to_resume(run.run_id)
            except BaseException:  # cancellation too: all others would wait for ever
                trial.end_now()
                raise
            self._tasks.start_soon(trial.end, run, self._runs.is_over)

    async def resume_if_left(self, run_id: str) -> None:
        """Resumes this run, which a client asks for, if an earlier server left it."""
        if not self._serves or self._runs.live(run_id) is not None:
            return
        if await run_in_thread(is_left, await self._runs.find(run_id)):
            await self._try_to_resume(run_id)

    async def _try_to_resume(self, run_id: str) -> None:
        """Resumes a run that was left, or ends one that was cancelled when its process died."""
        try:
            if await run_in_thread(self._queue.is_cancel_requested, run_id):
                await self._runs.cancel(run_id)
                log.warning("%s was cancelled while its server ended, which had no time to record it", run_id)
                return
            if not await self._runs.resume_if_left(run_id):
                return
        except RlmError as error:
            log.warning("%s was left by a server that has ended and cannot be resumed: %s", run_id, error)
        else:
            await self._calls.keep_for_repeat(run_id)  # its client was lost with that server
            log.warning("resuming %s, which a server that has ended left", run_id)

    async def _cancel_given_up(self, run_id: str) -> None:
        """Ends a run that nobody waits for. Its client may only have been lost, and gets it for the same question."""
        try:
            state = await self._runs.cancel(run_id)
        except RlmError as error:
            log.warning("%s was given up by its client and cannot be cancelled: %s", run_id, error)
        else:
            self._awaited.keep(state.fingerprint, run_id)

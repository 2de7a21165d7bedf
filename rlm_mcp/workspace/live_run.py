"""One run of this process: a task that puts every event, and its end, on record.

It outlives the request that started it. However it ends, its record gets an end: the run's own, "cancelled", "failed",
or, where the server that ran it ends, the mark `run_left`, by which the next server knows to resume it.
"""

import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
import anyio.to_thread

from rlm_mcp.concurrency import background_task, run_in_thread
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.engine.budget import Ledger
from rlm_mcp.errors import RlmError, RunNotWritten
from rlm_mcp.models.sampling_queue import SamplingQueue
from rlm_mcp.records.events import Event, RunEnded, RunLeft
from rlm_mcp.records.fold import RunFold
from rlm_mcp.records.protocols import RunRecord
from rlm_mcp.records.run_queue import RunQueue
from rlm_mcp.workspace.launch import Launch
from rlm_mcp.workspace.progress import Progress, progress_of

HELD_SECONDS = 120.0
"""How long calls in flight are awaited for a client that will probably ask again. Models that think take a minute."""

CANCELLED = RunEnded(status="cancelled", stopped_by="cancelled", message="Cancelled; what it had is in its trace.")

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class LiveRun:
    """A run in progress, and its state for followers."""

    run: RunRecord
    position: int
    """of its record where this attempt begins"""
    launch: Launch
    fingerprint: str
    ledger: Ledger
    max_seconds: float | None
    sampling_queue: SamplingQueue | None
    admitted: AsyncExitStack
    """counts the run among those of its owner until it is closed"""
    asks_client: bool = False
    """one of its models is that of a client"""
    started: float = field(default_factory=time.monotonic)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    finished: anyio.Event = field(default_factory=anyio.Event)
    news: anyio.Event = field(default_factory=anyio.Event)
    """set, and replaced, at every event"""
    is_played: bool = False
    waiting: int = 0
    """calls that wait for it"""
    waiting_calls: set[str] = field(default_factory=set)
    """their ids, as far as they are on record"""
    is_repeated: bool = False
    """the client that it was kept for has asked the same again"""
    is_left: bool = False
    """it is stopped only because the server ends"""
    is_unwanted: anyio.Event = field(default_factory=anyio.Event)
    """set once it was cancelled for good"""
    unwritten: str = ""
    """why the end of the run is not on record"""
    told: int = 0
    """the position in the record up to which listeners were told of its events"""
    listeners: list[Callable[[Event], None]] = field(default_factory=list)
    _fold: RunFold = field(default_factory=RunFold)
    _has_end: bool = False
    """the record has its last event"""

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.run.run_id

    def progress(self) -> Progress:
        """Snapshot of the run, with the time it has taken and has left."""
        seconds = time.monotonic() - self.started
        left = None if self.max_seconds is None else max(self.max_seconds - seconds, 0.0)
        return progress_of(self._fold, seconds=seconds, seconds_left=left)

    def note(self, event: Event) -> None:
        """Passes one event of the run to listeners and followers."""
        self.told = self.run.position
        for listener in self.listeners:
            listener(event)
        self._fold.apply(event)
        self._has_end = self._has_end or (isinstance(event, RunEnded) and not event.path)
        self.wake_followers()

    def wake_followers(self) -> None:
        """Makes all followers look at the run again."""
        self.news.set()
        self.news = anyio.Event()

    def cancel(self, *, is_left: bool = False) -> None:
        """Stops the run without waiting for its end; it `is_left` to the next server unless it was cancelled before."""
        self.is_left = is_left and (self.is_left or not self.scope.cancel_called)
        if not self.is_left:
            self.is_unwanted.set()
        self.scope.cancel()

    def hold(self) -> None:
        """Begins no new calls; those in flight get their replies. Stops the run unless it goes on in time."""
        self.ledger.hold()
        self.scope.deadline = anyio.current_time() + HELD_SECONDS

    def go_on(self) -> None:
        """Ends `hold`, because somebody waits for the run again."""
        self.ledger.release()
        self.scope.deadline = math.inf

    async def play(self, store: Store, queue: RunQueue) -> None:
        """Runs it to its end, which is then on record, unless it is cancelled, also from another process."""
        async with background_task(self._watch_for_cancel_request, queue), background_task(self._note_cancel, queue):
            await self._play(self.launch, store, queue)

    async def _play(self, launch: Launch, store: Store, queue: RunQueue) -> None:
        try:
            with self.scope:
                async with _in_use(store, [context.context_id for context in launch.spec.contexts], self.run_id):
                    await launch.play(self.run, self.note, self.ledger)
            if self.scope.cancelled_caught and not self._has_end and not self.is_left:
                await self._record_end(CANCELLED)
            if self.scope.cancelled_caught and self.is_left:
                await run_in_thread(self.run.append, RunLeft())
                if launch.is_portable:
                    await run_in_thread(queue.hand_over, self.run)
        except Exception as error:  # a bug, too, is an end that must be on record
            if not self._has_end:
                await self._record_end(failed_end(error))
            if not isinstance(error, RlmError):
                log.exception("run %s failed", self.run_id)
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_thread(self.run.close)
            self.sampling_queue = None

    async def _record_end(self, event: RunEnded) -> None:
        """Records an end that the run did not record itself."""
        try:
            await run_in_thread(self.run.append, event)
        except RunNotWritten as error:
            self.unwritten = str(error)
        else:
            self.note(event)

    async def _watch_for_cancel_request(self, queue: RunQueue) -> None:
        await queue.cancel_requested(self.run_id)
        self.scope.cancel()

    async def _note_cancel(self, queue: RunQueue) -> None:
        """Lets a cancellation outlive this process, which may end before the end of the run is on record."""
        await self.is_unwanted.wait()
        with suppress(RlmError):  # on a full disk only this process knows
            # Not abandoned when the run ends meanwhile: a later request would stop the run after it was resumed.
            await anyio.to_thread.run_sync(queue.request_cancel, self.run_id)


def failed_end(error: Exception) -> RunEnded:
    """The end of a run that an error has stopped."""
    text = str(error) if isinstance(error, RlmError) else "The run ended by a fault of rlm-mcp; see its log."
    return RunEnded(status="failed", stopped_by="error", message=text)


@asynccontextmanager
async def _in_use(store: Store, context_ids: Sequence[str], run_id: str) -> AsyncIterator[None]:
    """`store.in_use` off the event loop, because it waits for other writers. Cancellation does not split it."""
    held = store.in_use(context_ids, run_id)
    await anyio.to_thread.run_sync(held.__enter__)
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(held.__exit__, None, None, None)

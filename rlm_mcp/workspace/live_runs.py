"""The runs of one owner in one process: started, followed, cancelled, interrupted by the server's end, and resumed.

A run is a task of the process (live_run.py): it outlives the request that started it and ends with the process at the
latest, leaving a record that `resume` continues. Over this file: the calls that wait for runs (waiting_calls.py), what
a server does with runs that another one left (recovery.py) or handed over (handed_over.py).
Records are synchronous and do disk work, so every call of them happens on a worker thread; the objects here belong to
the event loop.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from weakref import WeakValueDictionary

import anyio
from anyio.abc import TaskGroup

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.engine.json_schema import check_length
from rlm_mcp.engine.question_words import MAX_QUERY_CHARS
from rlm_mcp.engine.router import Estimate
from rlm_mcp.errors import RlmError, RunBusy, RunRecordDamaged, SchemaError
from rlm_mcp.models.sampling_queue import CLIENT, SamplingQueue
from rlm_mcp.records.events import Event, RunResumed
from rlm_mcp.records.protocols import RunRecord, RunStore
from rlm_mcp.records.recovery import has_ended, is_left
from rlm_mcp.records.run_queue import RunQueue
from rlm_mcp.records.types import USED_UP, RunPage, RunState
from rlm_mcp.workspace.awaited_runs import AwaitedRuns
from rlm_mcp.workspace.change_feed import Bulletin, ResourceChange, run_uri
from rlm_mcp.workspace.launch import Launch, Launcher, SolveRequest, fingerprint_of
from rlm_mcp.workspace.live_run import CANCELLED, LiveRun
from rlm_mcp.workspace.progress import HEARTBEAT_SECONDS, Progress
from rlm_mcp.workspace.shared_records import POLL_SECONDS, RunElsewhere, read_along, request_cancel
from rlm_mcp.workspace.telemetry import Telemetry
from rlm_mcp.workspace.tenant_limits import TenantLimits

CALM_SECONDS = 0.2
"""The shortest time between two reports: a batch of a hundred sub-calls is one step to a reader."""

ENDING = "The server is about to end: ask it again when it is back."
RESTARTING = "The server is restarting; it goes on with this run when it is back."

MAX_CONTEXTS = 1_000
"""of one run: each is described, and its description kept in memory"""

log = logging.getLogger(__name__)


class RequestTooLong(RlmError):
    """A question, its list of contexts or its schema is longer than any that makes sense."""


class EmptyRequest(RlmError):
    """A request without a question, or without contexts."""


class ServerEnds(RlmError):
    """The server is ending and starts no more runs."""


class RunAlreadyEnded(RlmError):
    """A run has its final answer, or has spent what it may, so there is nothing to resume."""


class LiveRuns:
    """Starts runs and looks after them. With `serves`, those that its end interrupts are left to the next server."""

    def __init__(
        self,
        *,
        store: Store,
        records: RunStore,
        queue: RunQueue,
        launcher: Launcher,
        tasks: TaskGroup,
        changes: Bulletin,
        telemetry: Telemetry,
        limits: TenantLimits,
        awaited: AwaitedRuns,
        owner: str = "",
        serves: bool = False,
    ) -> None:
        self.records = records
        self._queue = queue
        self._store = store
        self._changes = changes
        self._launcher = launcher
        self._tasks = tasks
        self._telemetry = telemetry
        self._limits = limits
        self._awaited = awaited
        self._owner = owner
        self._resuming: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._serves = serves
        self.is_ending = False
        """the server is going to end: from now on that is what stops its runs, and not their clients"""
        self.is_over = anyio.Event()
        """set when no run can be begun any more"""
        self._live: dict[str, LiveRun] = {}
        self._starting: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        """fingerprint -> held while a run of that request is looked for or made"""
        self._unwritten: dict[str, str] = {}
        """run id -> why the end of the run is not on record"""
        self._cancelling: dict[str, anyio.Event] = {}
        """run that another process was asked to cancel -> set once it has, or does not react"""

    def __repr__(self) -> str:
        return f"<LiveRuns {self.records!r}, {len(self._live)} live runs>"

    @property
    def live_count(self) -> int:
        """How many runs go on."""
        return len(self._live)

    # --- starting -------------------------------------------------------------------------------------------------

    async def start(self, request: SolveRequest, *, sampling: bool = False) -> str:
        """Starts a run and returns its id.

        The very same request finds the run that works on it already, in this process or another, and resumes one that
        was cut off when its process died, or stopped when its client was lost. With `sampling` the client's own model
        may be asked; a client without it is not given a run that asks a client's model.
        """
        if self.is_ending:
            raise ServerEnds(ENDING)
        contexts = await self._contexts_of(request)
        fingerprint = fingerprint_of(request, contexts)
        async with self._starting.setdefault(fingerprint, anyio.Lock()):
            await self._stopped(fingerprint)
            existing = await self._find_or_resume(fingerprint, sampling=sampling) or await self._kept_run(fingerprint)
            was_kept = self._awaited.hand_out(fingerprint)
            if was_kept is not None and (live := self.live(was_kept)) is not None:
                live.is_repeated = True
            return existing or await self._start_new(request, contexts, fingerprint, sampling=sampling)

    async def _start_new(
        self, request: SolveRequest, contexts: Sequence[Context], fingerprint: str, *, sampling: bool
    ) -> str:
        async with AsyncExitStack() as admitted:
            is_on_record = await admitted.enter_async_context(self._limits.admit_run(self._owner))
            launch = await self._launcher.new(request, contexts, sampling=sampling)
            started = replace(launch.started, fingerprint=fingerprint, served=self._serves)
            with anyio.CancelScope(shield=True):  # a caller that gives up now must not leave a record without a run
                run = await run_in_thread(self.records.create, started)
                await is_on_record()
                if not (self._serves and launch.is_portable and await self._hand_over(run)):
                    try:
                        self._begin(run, launch, fingerprint, admitted)
                    except ServerEnds:
                        await run_in_thread(run.close)  # as if its process had died
                        raise
        self._changes.add(ResourceChange())
        return run.run_id

    async def estimate(self, request: SolveRequest, *, sampling: bool = False) -> Estimate:
        """The probable needs of a run of this request. Nothing is started and no model is asked."""
        return await self._launcher.estimate(request, await self._contexts_of(request), sampling=sampling)

    async def is_new(self, request: SolveRequest, *, sampling: bool = False) -> bool:
        """Whether no run works on this very request, nor was cut off while it did."""
        fingerprint = fingerprint_of(request, await self._contexts_of(request))
        is_kept = self._awaited.kept_for(fingerprint) is not None
        if is_kept or self._find_live(fingerprint, sampling=sampling) is not None:
            return False
        return await self._unanswered(fingerprint, sampling=sampling) is None

    async def _contexts_of(self, request: SolveRequest) -> list[Context]:
        if not request.query.strip():
            raise EmptyRequest("query is empty: ask a question about the contexts.")
        if not request.contexts:
            raise EmptyRequest("contexts is empty: name at least one registered context (register_context makes one).")
        _check_length(request)
        return [await run_in_thread(self._store.get, ref) for ref in dict.fromkeys(request.contexts)]

    def _find_live(self, fingerprint: str, *, sampling: bool) -> str | None:
        same = (live for live in self._live.values() if live.fingerprint == fingerprint)
        return next((live.run_id for live in same if sampling or not live.asks_client), None)

    async def _unanswered(self, fingerprint: str, *, sampling: bool) -> RunRecord | None:
        """A run of this request that was cut off, or whose end was lost. Without `sampling`, none of a client's model.

        The process may have died when the end was on record, and before the call that waited had it.
        """
        excepted = None if sampling else CLIENT
        run = await run_in_thread(self.records.unanswered, fingerprint, except_model=excepted)
        if run is not None and self._awaited.is_being_told(run.run_id) and await run_in_thread(has_ended, run):
            return None
        return run

    async def _stopped(self, fingerprint: str) -> None:
        """Waits for the end of runs of this request that are being stopped, which takes tenths of a second."""
        for live in list(self._live.values()):
            if live.fingerprint == fingerprint and live.scope.cancel_called:
                await live.finished.wait()
        if (ended := self._cancelling.get(self._awaited.kept_for(fingerprint) or "")) is not None:
            await ended.wait()

    async def _kept_run(self, fingerprint: str) -> str | None:
        """The run whose client was lost while it waited: as it is if it has its answer, else resumed."""
        run_id = self._awaited.kept_for(fingerprint)
        if run_id is None:
            return None
        try:
            has_answer = (await self.state(run_id)).status == "completed"
            return run_id if has_answer else await self.resume(run_id)
        except RlmError as error:
            log.warning("%s was stopped when its client was lost, and cannot be resumed: %s", run_id, error)
            return None

    async def _find_or_resume(self, fingerprint: str, *, sampling: bool) -> str | None:
        """The run that works on this request already, or that was cut off and is resumed now."""
        if (run_id := self._find_live(fingerprint, sampling=sampling)) is not None:
            return run_id
        run = await self._unanswered(fingerprint, sampling=sampling)
        if run is None or await run_in_thread(has_ended, run):
            return None if run is None else run.run_id
        try:
            return await self.resume(run.run_id)
        except (RunElsewhere, RunBusy, RunAlreadyEnded):  # another process works on it, or was faster just now
            return run.run_id
        except RunRecordDamaged as error:
            log.warning("%s was cut off and cannot be resumed: %s", run.run_id, error)
            return None

    async def _hand_over(self, run: RunRecord) -> bool:
        """Whether another process plays it, or will do so."""
        if not await run_in_thread(self._queue.hand_over, run):
            return False
        await run_in_thread(run.note_waiting)  # by the call that begins it
        self._awaited.note_handed_over(run.run_id)
        return True

    def _begin(self, run: RunRecord, launch: Launch, fingerprint: str, admitted: AsyncExitStack) -> None:
        """Plays a run whose record is claimed. Raises ServerEnds, and leaves it to the caller to close the record."""
        live = self.add_live(run, launch, fingerprint, admitted)
        self._queue.submit(run.run_id, live.position)

    def add_live(self, run: RunRecord, launch: Launch, fingerprint: str, admitted: AsyncExitStack) -> LiveRun:
        """Adds a run whose record is claimed to those of this process, for `play`. Raises ServerEnds."""
        if self.is_over.is_set():
            raise ServerEnds(ENDING)
        queue = launch.sampling_queue
        live = LiveRun(
            run=run,
            position=run.position,
            launch=launch,
            fingerprint=fingerprint,
            ledger=launch.new_ledger(),
            max_seconds=launch.limits.max_seconds,
            sampling_queue=queue,
            admitted=admitted.pop_all(),
            told=run.position,
            asks_client=CLIENT in {launch.models.root.name, launch.models.sub.name},
        )
        if queue is not None:
            queue.on_request = live.wake_followers
        if (spans := self._telemetry.begin(run.run_id, launch)) is not None:
            live.listeners.append(spans)
        self._unwritten.pop(run.run_id, None)
        self._live[run.run_id] = live
        return live

    async def serve(self) -> None:
        """Plays the runs that are begun or resumed here, until the queue is closed."""
        await self._queue.serve(self.play)

    async def play(self, run_id: str, position: int) -> None:
        """Plays a run that was added from this position of its record on, until it ends."""
        live = self.live(run_id)
        if live is None or live.position != position or live.is_played:
            return  # this attempt is over, or is delivered for the second time
        live.is_played = True
        try:
            await live.play(self._store, self._queue)
        finally:
            self._live.pop(live.run_id, None)
            if live.unwritten:
                self._unwritten[live.run_id] = live.unwritten
            with anyio.CancelScope(shield=True):
                await live.admitted.aclose()
            live.finished.set()
            live.news.set()
            self._changes.add(ResourceChange(uri=run_uri(live.run_id)))

    # --- resuming -------------------------------------------------------------------------------------------------

    async def resume(self, run_id: str) -> str:
        """Continues a run that was cut off, cancelled, or stopped when its time was over. Returns its id."""
        run = await self.find(run_id)
        async with self._lock_of(run):
            return await self._resume(run)

    async def resume_if_left(self, run_id: str) -> bool:
        """Resumes a run that a server left, and says whether it did: a client may have cancelled or resumed it."""
        run = await self.find(run_id)
        async with self._lock_of(run):
            if not await run_in_thread(is_left, run):
                return False
            await self._resume(run)
            return True

    def _lock_of(self, run: RunRecord) -> anyio.Lock:
        """A server resumes what was left while clients ask for the same run, or cancel it."""
        return self._resuming.setdefault(run.run_id, anyio.Lock())

    async def _resume(self, run: RunRecord) -> str:
        if run.run_id in self._live:
            return run.run_id
        state = await run_in_thread(run.state)
        if state.status == "running":
            raise RunElsewhere(f"{run.run_id} runs in another process of rlm-mcp: wait for it with rlm_result.")
        if state.status == "completed" and state.stopped_by == "final":
            raise RunAlreadyEnded(f"{run.run_id} has its final answer: read it with rlm_result, or start a new run.")
        if state.stopped_by in USED_UP:
            raise RunAlreadyEnded(
                f"{run.run_id} was ended by its limit: ask the same question with a higher max_{state.stopped_by}."
            )
        read = await run_in_thread(lambda: list(run.events_from(0)))
        position = read[-1][1] if read else 0
        launch = await self._launcher.resumed([event for event, _ in read if event is not None], state.usage)
        async with AsyncExitStack() as admitted:
            is_on_record = await admitted.enter_async_context(self._limits.admit_run(self._owner))
            with anyio.CancelScope(shield=True):
                await self._resume_from(position, run, launch, state.fingerprint, admitted)
                await is_on_record()
        return run.run_id

    async def _resume_from(
        self, position: int, run: RunRecord, launch: Launch, fingerprint: str, admitted: AsyncExitStack
    ) -> None:
        """Claims the record, if it still ends where it was read to, and goes on with the run."""
        try:
            await run_in_thread(run.claim, position)
            spent = None if launch.already is None else launch.already.to_json()
            await run_in_thread(self._queue.drop_cancel_request, run.run_id)
            await run_in_thread(run.append, RunResumed(served=self._serves, spent=spent))
            if not (self._serves and launch.is_portable and await self._hand_over(run)):
                self._begin(run, launch, fingerprint, admitted)
        except BaseException:  # cancellation too: the lease of the run must not stay taken
            with anyio.CancelScope(shield=True):
                await run_in_thread(run.close)
            raise

    # --- looking --------------------------------------------------------------------------------------------------

    async def follow(self, run_id: str) -> AsyncIterator[Progress]:
        """The progress of a run, after every event and at least every HEARTBEAT_SECONDS, until it has ended."""
        run_id = await self.full_id(run_id)
        while (live := self.live(run_id)) is not None:
            news = live.news  # taken before the look: what happens while it is being told must not be missed
            yield live.progress()
            with anyio.move_on_after(HEARTBEAT_SECONDS):
                await news.wait()
            with anyio.move_on_after(CALM_SECONDS):
                await live.finished.wait()
        run, waited = await self.find(run_id), 0.0
        while not self.is_ending and await run_in_thread(run.is_live):
            if waited % HEARTBEAT_SECONDS == 0:
                yield Progress(doing="running in another process")
            await anyio.sleep(POLL_SECONDS / 2)
            waited += POLL_SECONDS / 2

    async def stream_events(self, run_id: str, on_event: Callable[[Event], None]) -> None:
        """Passes on every event of a run until it has ended: recorded ones first, then each as it happens.

        Events that are not recorded (something only begins) are told for a run of this process alone.
        """
        run = await self.find(run_id)
        live = self.live(run.run_id)
        if live is None:
            await read_along(run, on_event)
            return
        missed: list[Event] = []
        live.listeners.append(missed.append)
        told = live.told
        await run.settled()
        for event in await run_in_thread(lambda: list(run.events(until=told))):
            on_event(event)
        live.listeners.remove(missed.append)
        live.listeners.append(on_event)
        for told_meanwhile in missed:
            on_event(told_meanwhile)
        await live.finished.wait()

    def progress(self, run_id: str) -> Progress | None:
        """Snapshot of a run of this process; None for any other."""
        live = self.live(run_id)
        return None if live is None else live.progress()

    def sampling_queue(self, run_id: str) -> SamplingQueue | None:
        """The sampling requests of a run of this process; None if it has none or is not live here."""
        live = self.live(run_id)
        return None if live is None else live.sampling_queue

    async def full_id(self, run_id: str) -> str:
        """The id of the run that a shortened one means. Raises UnknownRun, AmbiguousRun."""
        return (await self.find(run_id)).run_id

    async def state(self, run_id: str) -> RunState:
        """The state of a run according to its record. Raises UnknownRun."""
        run = await self.find(run_id)
        state = await run_in_thread(run.state)
        if self.is_ending and state.status == "failed" and await run_in_thread(is_left, run):
            return replace(state, status="running", stopped_by=None, message=RESTARTING)
        if state.status == "failed" and run.run_id in self._unwritten:
            return replace(state, message=self._unwritten[run.run_id])
        return state

    async def list_page(self, *, limit: int = 20, cursor: str | None = None) -> RunPage:
        """One page of runs, newest first."""
        return await run_in_thread(self.records.list, limit=limit, cursor=cursor)

    async def trace(self, run_id: str) -> str:
        """The record of a run, as it stands on disk."""
        run = await self.find(run_id)
        return await run_in_thread(run.trace)

    def live(self, run_id: str) -> LiveRun | None:
        """The run, if this process plays it."""
        return self._live.get(run_id)

    async def find(self, run_id: str) -> RunRecord:
        """The record of the run of this id, which may be shortened. Raises UnknownRun, AmbiguousRun."""
        if (live := self.live(run_id)) is not None:
            return live.run
        return await run_in_thread(self.records.get, run_id)

    # --- ending ---------------------------------------------------------------------------------------------------

    def stop(self, run_id: str) -> None:
        """Cancels a run that goes on, here or in another process, without waiting for its end."""
        self._awaited.forget(run_id)
        if (live := self.live(run_id)) is not None:
            live.cancel()
        else:
            self.cancel_elsewhere_soon(run_id)

    def cancel_elsewhere_soon(self, run_id: str) -> None:
        """Has the process that plays the run, if one does, cancel it, without waiting for that."""
        self._tasks.start_soon(self._request_cancel, run_id)

    async def _request_cancel(self, run_id: str) -> None:
        """Asks the process that plays the run, if one does, to cancel it."""
        ended = self._cancelling[run_id] = anyio.Event()
        try:
            run = await self.find(run_id)
            if await run_in_thread(run.is_live):
                await self._cancel_elsewhere(run)
        except RlmError as error:
            log.warning("%s is not cancelled: %s", run_id, error)
        finally:
            self._cancelling.pop(run_id, None)
            ended.set()

    async def cancel(self, run_id: str) -> RunState:
        """Stops a run, its cell and its model calls; what it has stays. A run that has ended is left as it is."""
        run = await self.find(run_id)
        if self._awaited.is_kept(run.run_id):
            self._awaited.forget(run.run_id)
            with suppress(OSError):  # then the next server gives it to the same question once
                await run_in_thread(run.note_told)
        async with self._lock_of(run):
            if run.run_id not in self._live:
                await self._cancel_elsewhere(run)
        if (live := self.live(run.run_id)) is not None:
            live.cancel()
            await live.finished.wait()
        state = await run_in_thread(run.state)
        if state.status == "running":
            raise RunElsewhere(
                f"{run.run_id} has not ended yet: the process that plays it was asked to cancel it, and rlm_result says"
                " when it has."
            )
        return state

    async def _cancel_elsewhere(self, run: RunRecord) -> None:
        """Cancels a run of another process, or ends one that waits for one or was cut off, so that none plays it."""
        queued = await run_in_thread(self._queue.take_back, run.run_id)
        if queued is None and await run_in_thread(run.is_live):
            await request_cancel(self._queue, run)
        elif queued is not None or not await run_in_thread(has_ended, run):
            run = queued or run
            try:
                await run_in_thread(run.append, CANCELLED)
            finally:
                with anyio.CancelScope(shield=True):
                    await run_in_thread(run.close)

    def stop_waited_for(self) -> None:
        """Cancels the runs that a call waits for, because its client is leaving: their user has stopped waiting too."""
        for live in self._live.values():
            if live.waiting:
                live.cancel()

    def announce_end(self) -> None:
        """Says that the server is going to end: from now on that is what stops its runs, and not their clients."""
        self.is_ending = self._serves

    async def stop_all(self) -> None:
        """Stops every run; those of a server are left to the next one."""
        self.announce_end()
        self.is_over.set()
        stopped = list(self._live.values())
        for live in stopped:
            live.cancel(is_left=self._serves)
        for live in stopped:
            await live.finished.wait()

    async def close(self) -> None:
        """Stops every run; none can be begun any more."""
        await self.stop_all()
        self._queue.close()


def _check_length(request: SolveRequest) -> None:
    """Raises RequestTooLong or SchemaError where reading the request would keep others waiting."""
    if (chars := len(request.query)) > MAX_QUERY_CHARS:
        raise RequestTooLong(
            f"query has {chars:,} characters, at most {MAX_QUERY_CHARS:,} are taken: keep a long text outside of it"
            " with register_context, and ask about it."
        )
    if (count := len(request.contexts)) > MAX_CONTEXTS:
        raise RequestTooLong(
            f"contexts names {count:,} contexts, at most {MAX_CONTEXTS:,} are taken: register_context makes one of a"
            " directory or a pattern of files."
        )
    if request.output_schema is not None:
        try:
            check_length(request.output_schema)
        except SchemaError as error:
            raise SchemaError(f"output_schema: {error}") from error

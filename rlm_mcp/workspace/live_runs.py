"""The runs of one owner in one process: started, followed, cancelled, interrupted by the server's end, and resumed.

A run is a task of the process (live_run.py): it outlives the request that started it and ends with the process at the
latest, leaving a record that `resume` continues. Runs that a server leaves are resumed by the next one (recovery.py).
Records are synchronous and do disk work, so every call of them happens on a worker thread; the objects here belong to
the event loop.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from weakref import WeakValueDictionary

import anyio
from anyio.abc import TaskGroup

from rlm_mcp.concurrency import background_task, run_in_thread
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.engine.router import Estimate
from rlm_mcp.errors import RlmError, RunBusy, RunNotWritten, RunRecordDamaged, RunRecordTooNew, StorageUnreachable
from rlm_mcp.models.sampling_queue import CLIENT, SamplingQueue
from rlm_mcp.records.events import Event, RunResumed, RunStarted
from rlm_mcp.records.protocols import RunRecord, RunStore
from rlm_mcp.records.recovery import MOST_AT_ONCE, has_ended, is_left
from rlm_mcp.records.run_queue import RunQueue, TakenOver
from rlm_mcp.records.tape import MemoryRecord, TapedRequest
from rlm_mcp.records.types import USED_UP, Outcome, RunPage, RunState
from rlm_mcp.workspace.change_feed import Bulletin, ResourceChange, run_uri
from rlm_mcp.workspace.launch import Launch, Launcher, SolveRequest, fingerprint_of
from rlm_mcp.workspace.live_run import CANCELLED, LiveRun, failed_end
from rlm_mcp.workspace.progress import HEARTBEAT_SECONDS, Progress
from rlm_mcp.workspace.shared_records import POLL_SECONDS, RunElsewhere, read_along, request_cancel
from rlm_mcp.workspace.telemetry import Telemetry
from rlm_mcp.workspace.tenant_limits import TenantLimits
from rlm_mcp.workspace.trial import Trial, is_suspect

CALM_SECONDS = 0.2
"""The shortest time between two reports: a batch of a hundred sub-calls is one step to a reader."""

MOST_KEPT = 100
"""Runs that are kept for a client that was lost while it waited."""

MOST_HANDED_OVER = 1_000
"""Runs of other machines that are cancelled with the calls which began them."""

TELLING_SECONDS = 1.0
"""From the end of a call that waited for a run until it is taken to have reached its client."""

ENDING = "The server is about to end: ask it again when it is back."
RESTARTING = "The server is restarting; it goes on with this run when it is back."

log = logging.getLogger(__name__)


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
        self._owner = owner
        self._resuming: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._serves = serves
        self._is_ending = False
        self._live: dict[str, LiveRun] = {}
        self._starting: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        """fingerprint -> held while a run of that request is looked for or made"""
        self._unwritten: dict[str, str] = {}
        """run id -> why the end of the run is not on record"""
        self._kept: dict[str, str] = {}
        """fingerprint -> run whose client was lost while it waited, or with its server, and has not got the answer"""
        self._telling: set[str] = set()
        """runs whose end is on its way to a client"""
        self._handed_over: dict[str, int] = {}
        """run that was handed to whichever machine has room -> calls that wait for it here"""
        self._cancelling: dict[str, anyio.Event] = {}
        """run that another process was asked to cancel -> set once it has, or does not react"""
        self._is_over = anyio.Event()

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
        if self._is_ending:
            raise ServerEnds(ENDING)
        contexts = await self._contexts_of(request)
        fingerprint = fingerprint_of(request, contexts)
        async with self._starting.setdefault(fingerprint, anyio.Lock()):
            await self._stopped(fingerprint)
            existing = await self._find_or_resume(fingerprint, sampling=sampling) or await self._kept_run(fingerprint)
            was_kept = self._kept.pop(fingerprint, None)
            if was_kept is not None:
                self._telling.add(was_kept)  # this caller has it now; the next one may want a new run
                if (live := self._live.get(was_kept)) is not None:
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
        if fingerprint in self._kept or self._find_live(fingerprint, sampling=sampling) is not None:
            return False
        return await self._unanswered(fingerprint, sampling=sampling) is None

    async def _contexts_of(self, request: SolveRequest) -> list[Context]:
        if not request.query.strip():
            raise EmptyRequest("query is empty: ask a question about the contexts.")
        if not request.contexts:
            raise EmptyRequest("contexts is empty: name at least one registered context (register_context makes one).")
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
        if run is not None and run.run_id in self._telling and await run_in_thread(has_ended, run):
            return None
        return run

    async def _stopped(self, fingerprint: str) -> None:
        """Waits for the end of runs of this request that are being stopped, which takes tenths of a second."""
        for live in list(self._live.values()):
            if live.fingerprint == fingerprint and live.scope.cancel_called:
                await live.finished.wait()
        if (ended := self._cancelling.get(self._kept.get(fingerprint, ""))) is not None:
            await ended.wait()

    async def _kept_run(self, fingerprint: str) -> str | None:
        """The run whose client was lost while it waited: as it is if it has its answer, else resumed."""
        run_id = self._kept.get(fingerprint)
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
        self._handed_over.setdefault(run.run_id, 0)
        if len(self._handed_over) > MOST_HANDED_OVER:
            del self._handed_over[next(iter(self._handed_over))]
        return True

    def _begin(self, run: RunRecord, launch: Launch, fingerprint: str, admitted: AsyncExitStack) -> None:
        """Plays a run whose record is claimed. Raises ServerEnds, and leaves it to the caller to close the record."""
        live = self._add_live(run, launch, fingerprint, admitted)
        self._queue.submit(run.run_id, live.position)

    def _add_live(self, run: RunRecord, launch: Launch, fingerprint: str, admitted: AsyncExitStack) -> LiveRun:
        if self._is_over.is_set():
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
        await self._queue.serve(self._play)

    async def play_attempt(self, run_id: str, position: int, trial: Trial) -> None:
        """Plays to its end an attempt that was handed over, unless it is not waiting for that any more.

        One with which processes have died is on `trial` first.
        """
        run = await run_in_thread(self.records.get, run_id)
        if not await run_in_thread(is_suspect, run):
            await self._play_attempt(run_id, position)
            return
        await trial.begin()
        async with background_task(trial.end, run, self._is_over):
            await self._play_attempt(run_id, position)

    async def _play_attempt(self, run_id: str, position: int) -> None:
        taken = await run_in_thread(self._queue.take_over, run_id, position)
        if taken is None:
            return
        run = taken.run
        try:
            launch, fingerprint = await self._launch_taken_over(taken)
            live = self._add_live(run, launch, fingerprint, AsyncExitStack())
        except (ServerEnds, RunNotWritten, RunRecordTooNew, StorageUnreachable) as error:
            log.warning("%s goes on elsewhere or later: %s", run_id, error)
            return
        except Exception as error:  # a bug, too, is an end that must be on record
            await run_in_thread(run.append, failed_end(error))
            if not isinstance(error, RlmError):
                log.exception("run %s failed", run_id)
            return
        finally:
            if run_id not in self._live:
                with anyio.CancelScope(shield=True):
                    await run_in_thread(run.close)
        await self._play(run_id, live.position)

    async def _launch_taken_over(self, taken: TakenOver) -> tuple[Launch, str]:
        """The rest of a run whose record this process has claimed. It is on record that another one goes on with it."""
        run = taken.run
        events = await run_in_thread(lambda: list(run.events()))
        state = await run_in_thread(run.state)
        launch = await self._launcher.resumed(events, state.usage)
        if taken.is_lost or not isinstance(events[-1], RunStarted | RunResumed):
            spent = None if launch.already is None else launch.already.to_json()
            await run_in_thread(run.append, RunResumed(served=True, spent=spent))
        return launch, state.fingerprint

    async def _play(self, run_id: str, position: int) -> None:
        live = self._live.get(run_id)
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

    # --- resuming and replaying -----------------------------------------------------------------------------------

    async def resume(self, run_id: str) -> str:
        """Continues a run that was cut off, cancelled, or stopped when its time was over. Returns its id."""
        run = await self._find(run_id)
        async with self._lock_of(run):
            return await self._resume(run)

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
            self._tasks.start_soon(trial.end, run, self._is_over)

    async def resume_if_left(self, run_id: str) -> None:
        """Resumes this run, which a client asks for, if an earlier server left it."""
        if self._serves and run_id not in self._live and await run_in_thread(is_left, await self._find(run_id)):
            await self._try_to_resume(run_id)

    async def _try_to_resume(self, run_id: str) -> None:
        """Resumes a run that was left, or ends one that was cancelled when its process died."""
        try:
            if await run_in_thread(self._queue.is_cancel_requested, run_id):
                await self.cancel(run_id)
                log.warning("%s was cancelled while its server ended, which had no time to record it", run_id)
                return
            run = await self._find(run_id)
            async with self._lock_of(run):
                if not await run_in_thread(is_left, run):  # it was cancelled, or resumed for a client, meanwhile
                    return
                await self._resume(run)
        except RlmError as error:
            log.warning("%s was left by a server that has ended and cannot be resumed: %s", run_id, error)
        else:
            await self.keep_for_repeat(run_id)  # its client was lost with that server
            log.warning("resuming %s, which a server that has ended left", run_id)

    async def _cancel_given_up(self, run_id: str) -> None:
        """Ends a run that nobody waits for. Its client may only have been lost, and gets it for the same question."""
        try:
            state = await self.cancel(run_id)
        except RlmError as error:
            log.warning("%s was given up by its client and cannot be cancelled: %s", run_id, error)
        else:
            self._keep(state.fingerprint, run_id)

    async def replay(self, run_id: str, on_event: Callable[[Event], None]) -> tuple[Outcome, str | None]:
        """Executes a recorded run again, its model replies from the record; the outcome and the first difference."""
        run = await self._find(run_id)
        return await self.replay_events(await run_in_thread(lambda: list(run.events())), None, on_event)

    async def replay_events(
        self,
        events: Sequence[Event],
        contexts: Sequence[Context] | None,
        on_event: Callable[[Event], None],
        *,
        on_request: Callable[[TapedRequest], None] = lambda _: None,
    ) -> tuple[Outcome, str | None]:
        """Replays a record from elsewhere, over `contexts` in the place of the recorded ones.

        `on_request` gets what the models would be asked.
        """
        launch = self._launcher.replayed(events, contexts, on_request=on_request)
        outcome = await launch.play(MemoryRecord(), on_event, launch.new_ledger())
        return outcome, launch.tape.difference

    # --- looking --------------------------------------------------------------------------------------------------

    async def follow(self, run_id: str) -> AsyncIterator[Progress]:
        """The progress of a run, after every event and at least every HEARTBEAT_SECONDS, until it has ended."""
        run_id = await self.full_id(run_id)
        while (live := self._live.get(run_id)) is not None:
            news = live.news  # taken before the look: what happens while it is being told must not be missed
            yield live.progress()
            with anyio.move_on_after(HEARTBEAT_SECONDS):
                await news.wait()
            with anyio.move_on_after(CALM_SECONDS):
                await live.finished.wait()
        run, waited = await self._find(run_id), 0.0
        while not self._is_ending and await run_in_thread(run.is_live):
            if waited % HEARTBEAT_SECONDS == 0:
                yield Progress(doing="running in another process")
            await anyio.sleep(POLL_SECONDS / 2)
            waited += POLL_SECONDS / 2

    async def stream_events(self, run_id: str, on_event: Callable[[Event], None]) -> None:
        """Passes on every event of a run until it has ended: recorded ones first, then each as it happens.

        Events that are not recorded (something only begins) are told for a run of this process alone.
        """
        run = await self._find(run_id)
        live = self._live.get(run.run_id)
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
        live = self._live.get(run_id)
        return None if live is None else live.progress()

    def sampling_queue(self, run_id: str) -> SamplingQueue | None:
        """The sampling requests of a run of this process; None if it has none or is not live here."""
        live = self._live.get(run_id)
        return None if live is None else live.sampling_queue

    async def full_id(self, run_id: str) -> str:
        """The id of the run that a shortened one means. Raises UnknownRun, AmbiguousRun."""
        return (await self._find(run_id)).run_id

    async def state(self, run_id: str) -> RunState:
        """The state of a run according to its record. Raises UnknownRun."""
        run = await self._find(run_id)
        state = await run_in_thread(run.state)
        if self._is_ending and state.status == "failed" and await run_in_thread(is_left, run):
            return replace(state, status="running", stopped_by=None, message=RESTARTING)
        if state.status == "failed" and run.run_id in self._unwritten:
            return replace(state, message=self._unwritten[run.run_id])
        return state

    async def list_page(self, *, limit: int = 20, cursor: str | None = None) -> RunPage:
        """One page of runs, newest first."""
        return await run_in_thread(self.records.list, limit=limit, cursor=cursor)

    async def trace(self, run_id: str) -> str:
        """The record of a run, as it stands on disk."""
        run = await self._find(run_id)
        return await run_in_thread(run.trace)

    async def _find(self, run_id: str) -> RunRecord:
        if (live := self._live.get(run_id)) is not None:
            return live.run
        return await run_in_thread(self.records.get, run_id)

    # --- ending ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def waiting(self, run_id: str, call: str = "") -> AsyncIterator[None]:
        """Counts a call that waits for the run: until it ends, another call that is given up does not stop the run.

        In a server, the same request finds the run again if the process dies before the call is answered. The next
        process cancels the run instead if `call`, the id of the only one, was given up meanwhile; without an id, never.
        """
        live = self._live.get(run_id)
        if live is not None:
            live.waiting += 1
            live.go_on()
        elif run_id in self._handed_over:
            self._handed_over[run_id] += 1
        try:
            if live is not None and self._serves and call not in live.waiting_calls:
                live.waiting_calls.add(call)
                await run_in_thread(live.run.note_waiting, call)
            yield
        finally:
            if live is not None:
                live.waiting -= 1
                if not live.waiting:
                    live.waiting_calls.clear()
            elif run_id in self._handed_over:
                self._handed_over[run_id] -= 1
            if self._serves and not self._is_over.is_set() and (live is None or not live.waiting):
                self._telling.add(run_id)
                self._tasks.start_soon(self._note_told, run_id)

    async def _note_told(self, run_id: str) -> None:
        """Lets the end of a call reach its client; then the same request is a new one, also for other processes."""
        with anyio.move_on_after(TELLING_SECONDS):
            await self._is_over.wait()
        try:
            run = await self._find(run_id)
            live = self._live.get(run_id)
            # Calls of another process may wait for a run that goes on there.
            is_awaited = await run_in_thread(run.is_live) if live is None else live.waiting
            if not is_awaited and run_id not in self._kept.values():
                await run_in_thread(run.note_told)
        except (RlmError, OSError) as error:
            log.warning("the request of %s may find that run again: %s", run_id, error)
        finally:
            self._telling.discard(run_id)

    def give_up(self, run_id: str, *, by_user: bool = False) -> None:
        """Stops the run because the call that started it was cancelled: nothing may be spent any more.

        Unless another call waits for the run, or only the end of the server cancelled the call and no user did. A run
        that is kept for a question that was repeated before is only held: its client gives up too early.
        """
        if self._is_ending and not by_user:
            return
        if self._handed_over.get(run_id) == 0:
            self._tasks.start_soon(self._request_cancel, run_id)
        live = self._live.get(run_id)
        if live is None or live.waiting:
            return
        if live.is_repeated and self._kept.get(live.fingerprint) == run_id:
            live.hold()
        else:
            live.cancel()

    async def keep_for_repeat(self, run_id: str) -> None:
        """Keeps the run for the same question: its client was lost or gave up waiting, and will probably ask again.

        A run that has just been completed is kept, too: its answer was on its way when the call was cancelled. In a
        server, this is on record, so that the next one gives the answer to the same question if the run is completed.
        """
        if (live := self._live.get(run_id)) is not None:
            fingerprint = "" if live.asks_client else live.fingerprint
        else:
            fingerprint = await self._fingerprint_elsewhere(run_id)
        if not fingerprint:
            return
        self._keep(fingerprint, run_id)
        if self._serves:
            with anyio.CancelScope(shield=True), suppress(RlmError):
                await run_in_thread((await self._find(run_id)).note_waiting)

    def _keep(self, fingerprint: str, run_id: str) -> None:
        self._kept.pop(fingerprint, None)
        self._kept[fingerprint] = run_id
        if len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]

    async def _fingerprint_elsewhere(self, run_id: str) -> str:
        """That of a run which is completed, or was handed over by this process."""
        with anyio.CancelScope(shield=True), suppress(RlmError):
            state = await self.state(run_id)
            if state.status == "completed" or run_id in self._handed_over:
                return state.fingerprint
        return ""

    def _forget_kept(self, run_id: str) -> None:
        self._kept = {fingerprint: kept for fingerprint, kept in self._kept.items() if kept != run_id}

    def stop(self, run_id: str) -> None:
        """Cancels a run that goes on, here or in another process, without waiting for its end."""
        self._forget_kept(run_id)
        if (live := self._live.get(run_id)) is not None:
            live.cancel()
        else:
            self._tasks.start_soon(self._request_cancel, run_id)

    async def _request_cancel(self, run_id: str) -> None:
        """Asks the process that plays the run, if one does, to cancel it."""
        ended = self._cancelling[run_id] = anyio.Event()
        try:
            run = await self._find(run_id)
            if await run_in_thread(run.is_live):
                await self._cancel_elsewhere(run)
        except RlmError as error:
            log.warning("%s is not cancelled: %s", run_id, error)
        finally:
            self._cancelling.pop(run_id, None)
            ended.set()

    async def cancel(self, run_id: str) -> RunState:
        """Stops a run, its cell and its model calls; what it has stays. A run that has ended is left as it is."""
        run = await self._find(run_id)
        if run.run_id in self._kept.values():
            self._forget_kept(run.run_id)
            with suppress(OSError):  # then the next server gives it to the same question once
                await run_in_thread(run.note_told)
        async with self._lock_of(run):
            if run.run_id not in self._live:
                await self._cancel_elsewhere(run)
        if (live := self._live.get(run.run_id)) is not None:
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
        self._is_ending = self._serves

    async def stop_all(self) -> None:
        """Stops every run; those of a server are left to the next one."""
        self.announce_end()
        self._is_over.set()
        stopped = list(self._live.values())
        for live in stopped:
            live.cancel(is_left=self._serves)
        for live in stopped:
            await live.finished.wait()

    async def close(self) -> None:
        """Stops every run; none can be begun any more."""
        await self.stop_all()
        self._queue.close()

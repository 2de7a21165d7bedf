"""The runs of one process: started, found again, followed, cancelled, left to a successor, and gone on with.

A run is a task of the process: it outlives the request that started it. It ends with the process at the latest, leaving
a record that `resume` goes on with; the runs of a server are gone on with by the next one by itself (unfinished.py).
Runs on disk are synchronous and do disk work, so every call of them happens on a worker thread; the objects here belong
to the event loop.
"""

import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import anyio
from anyio.abc import TaskGroup

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.engine.router import Estimate
from rlm_mcp.errors import RlmError, RunBusy, RunNotWritten
from rlm_mcp.models.sampling_queue import SamplingQueue
from rlm_mcp.records.events import Event
from rlm_mcp.records.recovery import has_ended, is_left, left_runs
from rlm_mcp.records.store import Run, Runs
from rlm_mcp.records.tape import NoRecord
from rlm_mcp.records.types import Outcome, RunPage, RunState
from rlm_mcp.spending import REQUESTED_LIMITS
from rlm_mcp.workspace.change_feed import ChangeFeed, ResourceChange
from rlm_mcp.workspace.launch import Launch, Launcher, SolveRequest
from rlm_mcp.workspace.progress import Progress, advance
from rlm_mcp.workspace.telemetry import Telemetry

HEARTBEAT_SECONDS = 5.0
"""`follow` reports at least so often; clients that reset their limit on progress want it every ten seconds."""

CALM_SECONDS = 0.2
"""The shortest time between two reports: a batch of a hundred sub-calls is one step to a reader."""

RECENT_RUNS = 100
"""Looked through for a run of the same request."""

CANCEL_POLL_SECONDS = 0.5
"""Between two looks for the wish of another process to cancel a run."""

CANCELLED = {"status": "cancelled", "stopped_by": "cancelled", "message": "Cancelled; what it had is in its trace."}

LEFT = "The server is being restarted, and goes on with this run when it is back."

log = logging.getLogger(__name__)


class EmptyRequest(RlmError):
    """A question without words, or about nothing."""


class TooManyRuns(RlmError):
    """An owner's runs at once are limited, and there are that many."""


class ServerEnds(RlmError):
    """Nothing is begun any more."""


class RunEnded(RlmError):
    """There is nothing to go on with."""


class RunElsewhere(RlmError):
    """A run belongs to another process."""


@dataclass(slots=True, kw_only=True)
class Live:
    """A run of this process."""

    run: Run
    fingerprint: str
    started: float
    max_seconds: float | None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    finished: anyio.Event = field(default_factory=anyio.Event)
    news: anyio.Event = field(default_factory=anyio.Event)
    progress: Progress = field(default_factory=Progress)
    waiting: int = 0
    """calls that wait for it"""
    ended: bool = False
    """the record has its last event"""
    left: bool = False
    """it is stopped only because the server ends"""
    listeners: list[Callable[[Event], None]] = field(default_factory=list)
    sampling_queue: SamplingQueue | None = None

    def note(self, event: Event) -> None:
        """Takes in one event of the run."""
        for listener in self.listeners:
            listener(event)
        self.progress = advance(self.progress, event)
        self.ended = self.ended or (event["event"] == "run_ended" and not event.get("path"))
        self.wake()

    def wake(self) -> None:
        """Makes everyone who follows it look again."""
        self.news.set()
        self.news = anyio.Event()

    def look(self) -> Progress:
        """Where it stands now."""
        seconds = time.monotonic() - self.started
        left = None if self.max_seconds is None else max(self.max_seconds - seconds, 0.0)
        return replace(self.progress, seconds=seconds, seconds_left=left)


class LiveRuns:
    """The runs of one owner in one process. With `serves`, its runs are left to the next server when it ends."""

    def __init__(
        self,
        *,
        store: Store,
        runs: Runs,
        launcher: Launcher,
        tasks: TaskGroup,
        changes: ChangeFeed,
        telemetry: Telemetry,
        most_runs: int | None = None,
        serves: bool = False,
    ) -> None:
        self.store = store
        self.runs = runs
        self.changes = changes
        self._launcher = launcher
        self._tasks = tasks
        self._telemetry = telemetry
        self._most_runs = most_runs
        self._serves = serves
        self._leaving = False
        self._live: dict[str, Live] = {}
        self._starting: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        """fingerprint -> held while a run of that request is looked for or made"""
        self._unwritten: dict[str, str] = {}
        """run id -> why the end of the run is not on record"""

    def __repr__(self) -> str:
        return f"<LiveRuns {self.runs.directory.parent}, {len(self._live)} live>"

    @property
    def has_live_runs(self) -> bool:
        """Whether any run goes on."""
        return bool(self._live)

    def run_uri(self, run_id: str) -> str:
        """The address of a run as an MCP resource."""
        return f"rlm://runs/{run_id}"

    # --- beginning

    async def start(self, request: SolveRequest, *, sampling: bool = False) -> str:
        """Starts a run and returns its id.

        The very same request finds the run that is at it already, in this process or another, and goes on with one
        that was cut off when its process died. With `sampling` the client's own model may be asked.
        """
        if self._leaving:
            raise ServerEnds("The server is about to end: ask it again when it is back.")
        contexts = await self._contexts_of(request)
        fingerprint = _fingerprint(request, contexts)
        async with self._starting.setdefault(fingerprint, anyio.Lock()):
            return await self._begun(fingerprint) or await self._new(request, contexts, fingerprint, sampling=sampling)

    async def _new(
        self, request: SolveRequest, contexts: Sequence[Context], fingerprint: str, *, sampling: bool
    ) -> str:
        if self._most_runs is not None and len(self._live) >= self._most_runs:
            raise TooManyRuns(f"{len(self._live)} runs are going on: wait for one with rlm_result, or cancel one.")
        launch = await self._launcher.new(request, contexts, sampling=sampling)
        facts = {**launch.facts, "fingerprint": fingerprint, "served": self._serves}
        with anyio.CancelScope(shield=True):  # a caller that gives up just now must not leave a record without a run
            run = await run_in_thread(self.runs.create, facts)
            self._begin(run, launch, fingerprint)
        self.changes.add(ResourceChange())
        return run.run_id

    async def estimate(self, request: SolveRequest, *, sampling: bool = False) -> Estimate:
        """What a run of this request would take. Nothing is started and no model is asked."""
        return await self._launcher.estimate(request, await self._contexts_of(request), sampling=sampling)

    async def is_new(self, request: SolveRequest) -> bool:
        """Whether no run is at this very request, nor was cut off at it."""
        fingerprint = _fingerprint(request, await self._contexts_of(request))
        if any(live.fingerprint == fingerprint for live in self._live.values()):
            return False
        return await run_in_thread(_without_end, self.runs, fingerprint) is None

    async def _contexts_of(self, request: SolveRequest) -> list[Context]:
        if not request.query.strip():
            raise EmptyRequest("query is empty: ask a question about the contexts.")
        if not request.contexts:
            raise EmptyRequest("contexts is empty: name at least one registered context (register_context makes one).")
        return [await run_in_thread(self.store.get, ref) for ref in dict.fromkeys(request.contexts)]

    async def _begun(self, fingerprint: str) -> str | None:
        """The run that is at this request already, or that was cut off and now goes on."""
        for live in self._live.values():
            if live.fingerprint == fingerprint:
                return live.run.run_id
        run = await run_in_thread(_without_end, self.runs, fingerprint)
        if run is None:
            return None
        try:
            return await self.resume(run.run_id)
        except (RunElsewhere, RunBusy, RunEnded):  # somebody is at it, or was faster just now
            return run.run_id

    async def resume(self, run_id: str) -> str:
        """Goes on with a run that was cut off, cancelled or stopped by a limit that has been raised. Returns its id."""
        run = await self._find(run_id)
        if run.run_id in self._live:
            return run.run_id
        state = await run_in_thread(run.state)
        if state.status == "running":
            raise RunElsewhere(f"{run.run_id} runs in another process of rlm-mcp: wait for it with rlm_result.")
        if state.status == "completed" and state.stopped_by == "final":
            raise RunEnded(f"{run.run_id} has its final answer: read it with rlm_result, or start a new run.")
        events = await run_in_thread(lambda: list(run.events()))
        launch = await self._launcher.resumed(events, state.usage)
        with anyio.CancelScope(shield=True):
            await run_in_thread(_claim, run, events)
            await run_in_thread(run.append, {"event": "run_resumed", "served": self._serves})
            self._begin(run, launch, state.fingerprint)
        return run.run_id

    async def pick_up(self) -> None:
        """Goes on with the runs that servers before this one left; what cannot go on stays as it is."""
        for run_id in await run_in_thread(left_runs, self.runs):
            await self._pick_up(run_id)

    async def pick_up_left(self, run_id: str) -> None:
        """The same for one run that somebody asks for, should it be such a one."""
        if self._serves and run_id not in self._live and await run_in_thread(is_left, await self._find(run_id)):
            await self._pick_up(run_id)

    async def _pick_up(self, run_id: str) -> None:
        try:
            await self.resume(run_id)
        except RlmError as error:
            log.warning("%s was left by a server that has ended and cannot go on: %s", run_id, error)
        else:
            log.warning("going on with %s, which a server that has ended left", run_id)

    async def replay(self, run_id: str, on_event: Callable[[Event], None]) -> tuple[Outcome, str | None]:
        """Executes a recorded run again, its model replies from the record; the outcome and the first difference."""
        run = await self._find(run_id)
        return await self.replay_events(await run_in_thread(lambda: list(run.events())), None, on_event)

    async def replay_events(
        self, events: Sequence[Event], contexts: Sequence[Context] | None, on_event: Callable[[Event], None]
    ) -> tuple[Outcome, str | None]:
        """The same for a record from elsewhere, over `contexts` in the place of the recorded ones."""
        launch = self._launcher.replayed(events, contexts)
        outcome = await launch.play(NoRecord(), on_event)
        return outcome, launch.tape.difference

    def _begin(self, run: Run, launch: Launch, fingerprint: str) -> None:
        seconds = launch.limits.max_seconds
        live = Live(
            run=run,
            fingerprint=fingerprint,
            started=time.monotonic(),
            max_seconds=seconds,
            sampling_queue=launch.sampling_queue,
        )
        if launch.sampling_queue is not None:
            launch.sampling_queue.on_request = live.wake
        if (spans := self._telemetry.begin(run.run_id, launch)) is not None:
            live.listeners.append(spans)
        self._live[run.run_id] = live
        _cancel_request(run).unlink(missing_ok=True)
        self._tasks.start_soon(self._play, live, launch)
        self._tasks.start_soon(self._watch_for_cancel_request, live)

    async def _play(self, live: Live, launch: Launch) -> None:
        """One run as a task: its end is in its record, however it ends."""
        run = live.run
        try:
            with live.scope:
                async with _in_use(self.store, [c.context_id for c in launch.spec.contexts], run.run_id):
                    await launch.play(run, live.note)
            if live.scope.cancelled_caught and not live.ended and not live.left:
                await self._end(live, CANCELLED)
            if live.scope.cancelled_caught and live.left:
                await run_in_thread(run.append, {"event": "run_left"})
        except Exception as error:
            if not live.ended:
                await self._end(live, _failed(error))
            if not isinstance(error, RlmError):
                log.exception("run %s failed", run.run_id)
        finally:
            run.close()
            self._live.pop(run.run_id, None)
            live.sampling_queue = None
            live.finished.set()
            live.news.set()
            self.changes.add(ResourceChange(uri=self.run_uri(run.run_id)))

    async def _end(self, live: Live, how: Mapping[str, Any]) -> None:
        """Puts an end on record that the run did not put there itself."""
        event = {"event": "run_ended", **how}
        try:
            await run_in_thread(live.run.append, event)
        except RunNotWritten as error:
            self._unwritten[live.run.run_id] = str(error)
        else:
            live.note(event)

    async def _watch_for_cancel_request(self, live: Live) -> None:
        """Cancels the run when another process wishes so."""
        while not live.finished.is_set():
            with anyio.move_on_after(CANCEL_POLL_SECONDS):
                await live.finished.wait()
            if _cancel_request(live.run).exists():
                live.scope.cancel()

    # --- looking

    async def follow(self, run_id: str) -> AsyncIterator[Progress]:
        """Where a run stands, after every event and at least every HEARTBEAT_SECONDS, until it has ended."""
        run_id = (await self._find(run_id)).run_id
        while (live := self._live.get(run_id)) is not None:
            news = live.news  # taken before the look: what happens while it is being told must not be missed
            yield live.look()
            with anyio.move_on_after(HEARTBEAT_SECONDS):
                await news.wait()
            with anyio.move_on_after(CALM_SECONDS):
                await live.finished.wait()
        while not self._leaving and (await self.state(run_id)).status == "running":
            yield Progress(doing="running in another process")
            await anyio.sleep(1)

    async def attend(self, run_id: str, on_event: Callable[[Event], None]) -> None:
        """Hands over every event of a run until it has ended: those on record first, then each as it happens.

        What only begins is told for a run of this process alone.
        """
        run = await self._find(run_id)
        live = self._live.get(run.run_id)
        if live is None:
            await _read_along(run, on_event)
            return
        waiting: list[Event] = []
        live.listeners.append(waiting.append)
        on_record = run.events_path.stat().st_size  # just now: the run writes and tells in this thread
        for event in await run_in_thread(lambda: list(run.events(until=on_record))):
            on_event(event)
        live.listeners.remove(waiting.append)
        live.listeners.append(on_event)
        for missed in waiting:
            on_event(missed)
        await live.finished.wait()

    def progress(self, run_id: str) -> Progress | None:
        """Where a run of this process stands; None for any other."""
        live = self._live.get(run_id)
        return None if live is None else live.look()

    def sampling_queue(self, run_id: str) -> SamplingQueue | None:
        """The sampling requests of a run of this process; None if it has none or is not live here."""
        live = self._live.get(run_id)
        return None if live is None else live.sampling_queue

    async def full_id(self, run_id: str) -> str:
        """The id of the run that a shortened one means. Raises UnknownRun, AmbiguousRun."""
        return (await self._find(run_id)).run_id

    async def state(self, run_id: str) -> RunState:
        """A run as its record tells it. Raises UnknownRun."""
        run = await self._find(run_id)
        state = await run_in_thread(run.state)
        if self._leaving and state.status == "failed" and await run_in_thread(is_left, run):
            return replace(state, status="running", stopped_by=None, message=LEFT)
        if state.status == "failed" and run.run_id in self._unwritten:
            return replace(state, message=self._unwritten[run.run_id])
        return state

    async def list_runs(self, *, limit: int = 20, cursor: str | None = None) -> RunPage:
        """Runs, newest first."""
        return await run_in_thread(self.runs.list, limit=limit, cursor=cursor)

    async def trace(self, run_id: str) -> str:
        """The record of a run, as it stands on disk."""
        run = await self._find(run_id)
        return await run_in_thread(partial(run.events_path.read_text, encoding="utf-8"))

    async def _find(self, run_id: str) -> Run:
        if (live := self._live.get(run_id)) is not None:
            return live.run
        return await run_in_thread(self.runs.get, run_id)

    # --- ending

    @contextmanager
    def waited_for(self, run_id: str) -> Iterator[None]:
        """While a call waits for a run, another call that is given up does not stop it."""
        live = self._live.get(run_id)
        if live is None:
            yield
            return
        live.waiting += 1
        try:
            yield
        finally:
            live.waiting -= 1

    def give_up(self, run_id: str) -> None:
        """The call that started a run and waited for it was cancelled: nothing may be spent any more.

        Unless another call waits for the same run, or it was only the server's end that cancelled the call.
        """
        live = self._live.get(run_id)
        if live is not None and live.waiting == 0 and not self._leaving:
            live.scope.cancel()

    def stop(self, run_id: str) -> None:
        """Cancels a run of this process without waiting for its end."""
        if (live := self._live.get(run_id)) is not None:
            live.scope.cancel()

    async def cancel(self, run_id: str) -> RunState:
        """Stops a run, its cell and its model calls; what it has stays. A run that has ended is left as it is."""
        run = await self._find(run_id)
        if (live := self._live.get(run.run_id)) is not None:
            live.scope.cancel()
            await live.finished.wait()
        elif run.is_live():
            _cancel_request(run).touch()
            with anyio.move_on_after(CANCEL_POLL_SECONDS * 8):
                while run.is_live():  # noqa: ASYNC110 - the other process does not tell
                    await anyio.sleep(CANCEL_POLL_SECONDS / 4)
        elif not await run_in_thread(has_ended, run):  # cut off: nobody is to go on with it
            await run_in_thread(run.append, {"event": "run_ended", **CANCELLED})
            run.close()
        state = await run_in_thread(run.state)
        if state.status == "running":
            raise RunElsewhere(f"{run.run_id} runs in another process of rlm-mcp, which does not react: end that one.")
        return state

    def leave(self) -> None:
        """The server is going to end: from now on what stops its runs is that, and not the client."""
        self._leaving = self._serves

    async def stop_all(self) -> None:
        """Stops every run; those of a server are left to the next one."""
        self.leave()
        for live in list(self._live.values()):
            live.left = self._serves and not live.scope.cancel_called
            live.scope.cancel()
        for live in list(self._live.values()):
            await live.finished.wait()


async def _read_along(run: Run, on_event: Callable[[Event], None]) -> None:
    """Events of a run of another process, as its record grows."""
    seen, is_live = 0, True
    while is_live:
        is_live = await run_in_thread(run.is_live)
        news = await run_in_thread(lambda skipped: list(islice(run.events(), skipped, None)), seen)
        for event in news:
            on_event(event)
        seen += len(news)
        if is_live:
            await anyio.sleep(CANCEL_POLL_SECONDS)


def _claim(run: Run, known: Sequence[Event]) -> None:
    """Makes this process the writer of a record, if it is as it was read. Raises RunBusy, RunElsewhere."""
    run.claim()
    if sum(1 for _ in run.events()) != len(known):
        run.close()
        raise RunElsewhere(f"another process has gone on with {run.run_id} just now: wait for it with rlm_result.")


def _without_end(runs: Runs, fingerprint: str) -> Run | None:
    """A recent run of this request whose record has no end."""
    if not runs.directory.is_dir():
        return None
    newest = sorted(runs.directory.iterdir(), key=lambda entry: entry.stat().st_mtime, reverse=True)
    for entry in newest[:RECENT_RUNS]:
        run = Run(entry)
        started = next(run.events(), {}) if run.events_path.is_file() else {}
        if started.get("fingerprint") == fingerprint and not has_ended(run):
            return run
    return None


def _cancel_request(run: Run) -> Path:
    """The file by which one process asks another to cancel a run."""
    return run.directory / "cancel"


def _fingerprint(request: SolveRequest, contexts: Sequence[Context]) -> str:
    """The same for the same request over the same contexts, whichever way they were named."""
    facts = asdict(request) | {"contexts": [context.context_id for context in contexts]}
    limits = facts.pop("limits")
    facts |= {name: limits[name] for name in REQUESTED_LIMITS}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _failed(error: Exception) -> dict[str, Any]:
    text = str(error) if isinstance(error, RlmError) else "The run ended by a fault of rlm-mcp; see its log."
    return {"status": "failed", "stopped_by": "error", "message": text}


@asynccontextmanager
async def _in_use(store: Store, context_ids: Sequence[str], run_id: str) -> AsyncIterator[None]:
    """`store.in_use` off the event loop, because it waits for other writers; whole even when cancelled meanwhile."""
    held = store.in_use(context_ids, run_id)
    await anyio.to_thread.run_sync(held.__enter__)
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(held.__exit__, None, None, None)

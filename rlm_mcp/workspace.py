"""What one process holds open: the store, the runs on disk, live runs, models, the sandbox and the inspect REPLs.

    async with open_workspace(settings) as workspace:
        run_id = await workspace.start(SolveRequest(query="…", contexts=("app.log",)))
        async for progress in workspace.follow(run_id): ...
        state = await workspace.state(run_id)

Runs are tasks of the workspace: they outlive the request that started them and end with the workspace at the latest,
leaving a record that `resume` goes on with. Store and runs are synchronous and do disk work, so every call of them
happens on a worker thread; the objects here belong to the event loop.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.from_thread
from anyio.abc import TaskGroup

from rlm_mcp.budget import Spent
from rlm_mcp.cells import CellResult
from rlm_mcp.contexts.context import Context, Freed, Lines, Page
from rlm_mcp.contexts.describe import Overview, describe
from rlm_mcp.contexts.search import SearchResult, search
from rlm_mcp.contexts.store import Store
from rlm_mcp.engine import Event, OpenRepl, Outcome
from rlm_mcp.errors import ContextError, RlmError, UnknownContext
from rlm_mcp.inspecting import InspectRepls
from rlm_mcp.launch import ChooseModels, Launch, Launcher, SolveRequest
from rlm_mcp.models.base import Model
from rlm_mcp.progress import Progress, advance
from rlm_mcp.providers import open_models
from rlm_mcp.repl import Sandbox, open_sandbox
from rlm_mcp.replycache import ReplyCache
from rlm_mcp.runs import NoRecord, Run, RunPage, Runs, RunState
from rlm_mcp.settings import Settings

HEARTBEAT_SECONDS = 5.0
"""`follow` reports at least so often; clients that reset their limit on progress want it every ten seconds."""

CALM_SECONDS = 0.2
"""The shortest time between two reports: a batch of a hundred sub-calls is one step to a reader."""

RECENT_RUNS = 100
"""Looked through for a run of the same request."""

WISH_SECONDS = 0.5
"""Between two looks for the wish of another process to cancel a run."""

READ_CHARS = 20_000
"""Lines in one tool result, with room for escapes and the other fields under its 32,000."""

CANCELLED = {"status": "cancelled", "stopped_by": "cancelled", "message": "Cancelled; what it had is in its trace."}

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class EmptyRequest(RlmError):
    """A question without words, or about nothing."""


class TooManyRuns(RlmError):
    """An owner's runs at once are limited, and there are that many."""


class RunEnded(RlmError):
    """There is nothing to go on with."""


class RunElsewhere(RlmError):
    """A run belongs to another process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that resources show has changed: the list of them, or the one at `uri`."""

    uri: str | None = None


@dataclass(slots=True, kw_only=True)
class _Live:
    """A run of this process."""

    run: Run
    fingerprint: str
    started: float
    max_seconds: float | None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    finished: anyio.Event = field(default_factory=anyio.Event)
    news: anyio.Event = field(default_factory=anyio.Event)
    progress: Progress = field(default_factory=Progress)
    ended: bool = False
    """the record has its last event"""
    listeners: list[Callable[[Event], None]] = field(default_factory=list)

    def note(self, event: Event) -> None:
        """Takes in one event of the run."""
        for listener in self.listeners:
            listener(event)
        self.progress = advance(self.progress, event)
        self.ended = self.ended or (event["event"] == "run_ended" and not event.get("path"))
        self.news.set()
        self.news = anyio.Event()

    def look(self) -> Progress:
        """Where it stands now."""
        seconds = time.monotonic() - self.started
        left = None if self.max_seconds is None else max(self.max_seconds - seconds, 0.0)
        return replace(self.progress, seconds=seconds, seconds_left=left)


class Workspace:
    """The things of one process and of one owner. Made by `open_workspace`."""

    def __init__(
        self,
        *,
        store: Store,
        runs: Runs,
        launcher: Launcher,
        open_repl: OpenRepl,
        tasks: TaskGroup,
        most_runs: int | None = None,
    ) -> None:
        self.store = store
        self.runs = runs
        self._launcher = launcher
        self._tasks = tasks
        self._most_runs = most_runs
        self._live: dict[str, _Live] = {}
        self._repls = InspectRepls(open_repl)
        self._listeners: list[Callable[[Change], Awaitable[None]]] = []
        self._changes, self._changed = anyio.create_memory_object_stream[Change](float("inf"))

    def __repr__(self) -> str:
        return f"<Workspace {self.runs.directory.parent}, {len(self._live)} live runs, {self._repls!r}>"

    # --- contexts

    async def register(self, *, source: str = "", text: str = "", name: str | None = None) -> Context:
        """Stores a source or a text; the same content under the same name is the same context."""
        if source:
            context = await _in_thread(self.store.register_source, source, name=name)
        else:
            context = await _in_thread(self.store.register_text, text, name=name)
        self._changes.send_nowait(Change())
        return context

    async def find_or_register(self, source: str) -> Context:
        """The context of an existing path, or the one that has this id or name. The store says what is wrong else."""
        if not await anyio.Path(source).exists():
            with suppress(UnknownContext):
                return await self.context(source)
        return await self.register(source=source)

    async def context(self, ref: str) -> Context:
        """The context with this id or name. Raises UnknownContext."""
        return await _in_thread(self.store.get, ref)

    async def contexts(self, query: str = "", *, limit: int = 20, cursor: str | None = None) -> Page:
        """One page of contexts, newest first."""
        return await _in_thread(self.store.list, query, limit=limit, cursor=cursor)

    async def all_contexts(self) -> list[Context]:
        """Every context, newest first."""
        found: list[Context] = []
        cursor: str | None = None
        while True:
            page = await self.contexts(limit=1_000, cursor=cursor)
            found += page.contexts
            if (cursor := page.next_cursor) is None:
                return found

    async def paths(self, ref: str) -> list[str]:
        """The paths of a context's files."""
        files = await _in_thread(self.store.files, await self.context(ref))
        return [file.path for file in files]

    async def overview(self, context: Context) -> Overview:
        """What a context is made of."""
        return await _in_thread(describe, self.store, context)

    async def read(
        self, context: Context, start_line: int, end_line: int | None, path: str | None, *, max_chars: int = READ_CHARS
    ) -> Lines:
        """Some lines of a context."""
        return await _in_thread(self.store.read_lines, context, start_line, end_line, path=path, max_chars=max_chars)

    async def search(
        self, context: Context, pattern: str, *, path: str | None, max_matches: int, context_lines: int
    ) -> SearchResult:
        """Lines that match a pattern."""
        return await _in_thread(
            search, self.store, context, pattern, path=path, max_matches=max_matches, context_lines=context_lines
        )

    async def remove(self, ref: str) -> Context:
        """Forgets a context. Raises ContextInUse while a run reads it."""
        context = await _in_thread(self.store.remove, ref)
        await self._repls.close(context.context_id)
        self._changes.send_nowait(Change())
        return context

    async def refresh(self, ref: str) -> Context:
        """Registers a context's source as it is now: the same context, or the next version of it."""
        context = await _in_thread(self.store.refresh, ref)
        self._changes.send_nowait(Change())
        return context

    async def collect(self) -> Freed:
        """Forgets old versions that no run on record is about, and deletes what nothing uses."""
        return await _in_thread(lambda: self.store.gc(keep=self.runs.context_ids()))

    async def watch(
        self,
        context: Context,
        *,
        stop: threading.Event,
        on_version: Callable[[Context], None],
        on_trouble: Callable[[ContextError], None],
    ) -> None:
        """Registers a source again whenever it changes, until `stop` is set and not before, even when cancelled.

        Both functions are called on another thread. Raises SourceRefused.
        """
        from rlm_mcp.contexts.watch import watch

        def announce(latest: Context) -> None:
            anyio.from_thread.run_sync(self._changes.send_nowait, Change())
            on_version(latest)

        watching = partial(watch, self.store, context.name, stop=stop, on_version=announce, on_trouble=on_trouble)
        await anyio.to_thread.run_sync(watching)

    async def run_code(self, context: Context, code: str, *, seconds: float, reset: bool = False) -> CellResult:
        """Runs a cell in this context's REPL, which is opened on first use. Cells of one context queue up."""
        if reset:
            await self._repls.close(context.context_id)
        return await self._repls.run(context, code, seconds=seconds)

    # --- runs

    def run_uri(self, run_id: str) -> str:
        """The address of a run as an MCP resource."""
        return f"rlm://runs/{run_id}"

    async def start(self, request: SolveRequest, *, otherwise: Model | None = None) -> str:
        """Starts a run and returns its id.

        The very same request finds the run that is at it already, in this process or another, and goes on with one
        that was cut off when its process died. `otherwise` is asked where no model is configured.
        """
        if not request.query.strip():
            raise EmptyRequest("query is empty: ask a question about the contexts.")
        if not request.contexts:
            raise EmptyRequest("contexts is empty: name at least one registered context (register_context makes one).")
        contexts = [await self.context(ref) for ref in dict.fromkeys(request.contexts)]
        fingerprint = _fingerprint(request, contexts)
        for live in self._live.values():
            if live.fingerprint == fingerprint:
                return live.run.run_id
        if (begun := await _in_thread(self._begun, fingerprint)) is not None:
            return begun.run_id if begun.is_live() else await self.resume(begun.run_id)
        if self._most_runs is not None and len(self._live) >= self._most_runs:
            raise TooManyRuns(f"{len(self._live)} runs are going on: wait for one with rlm_result, or cancel one.")
        launch = await self._launcher.new(request, contexts, otherwise=otherwise)
        with anyio.CancelScope(shield=True):  # a caller that gives up just now must not leave a record without a run
            run = await _in_thread(self.runs.create, {**launch.facts, "fingerprint": fingerprint})
            self._begin(run, launch, fingerprint)
        self._changes.send_nowait(Change())
        return run.run_id

    def _begun(self, fingerprint: str) -> Run | None:
        """A recent run of this request whose record has no end."""
        if not self.runs.directory.is_dir():
            return None
        newest = sorted(self.runs.directory.iterdir(), key=lambda entry: entry.stat().st_mtime, reverse=True)
        for entry in newest[:RECENT_RUNS]:
            run = Run(entry)
            started = next(run.events(), {}) if run.events_path.is_file() else {}
            if started.get("fingerprint") == fingerprint and not _has_ended(run):
                return run
        return None

    async def resume(self, run_id: str) -> str:
        """Goes on with a run that was cut off, cancelled or stopped by a limit that has been raised. Returns its id."""
        run = await self._find(run_id)
        if run.run_id in self._live:
            return run.run_id
        state = await _in_thread(run.state)
        if state.status == "running":
            raise RunElsewhere(f"{run.run_id} runs in another process of rlm-mcp: wait for it with rlm_result.")
        if state.status == "completed" and state.stopped_by == "final":
            raise RunEnded(f"{run.run_id} has its final answer: read it with rlm_result, or start a new run.")
        events = await _in_thread(lambda: list(run.events()))
        launch = await self._launcher.resumed(events, Spent.from_json(asdict(state.usage)))
        with anyio.CancelScope(shield=True):
            await _in_thread(run.append, {"event": "run_resumed"})
            self._begin(run, launch, state.fingerprint)
        return run.run_id

    async def replay(self, run_id: str, on_event: Callable[[Event], None]) -> tuple[Outcome, str | None]:
        """Executes a recorded run again, its model replies from the record; the outcome and the first difference."""
        run = await self._find(run_id)
        return await self.replay_events(await _in_thread(lambda: list(run.events())), None, on_event)

    async def replay_events(
        self, events: Sequence[Event], contexts: Sequence[Context] | None, on_event: Callable[[Event], None]
    ) -> tuple[Outcome, str | None]:
        """The same for a record from elsewhere, over `contexts` in the place of the recorded ones."""
        launch = self._launcher.replayed(events, contexts)
        outcome = await launch.play(NoRecord(), on_event)
        return outcome, launch.tape.difference

    def _begin(self, run: Run, launch: Launch, fingerprint: str) -> None:
        seconds = launch.limits.max_seconds
        live = _Live(run=run, fingerprint=fingerprint, started=time.monotonic(), max_seconds=seconds)
        self._live[run.run_id] = live
        _cancel_wish(run).unlink(missing_ok=True)
        self._tasks.start_soon(self._play, live, launch)
        self._tasks.start_soon(self._watch_wish, live)

    async def _play(self, live: _Live, launch: Launch) -> None:
        """One run as a task: its end is in its record, however it ends."""
        run = live.run
        try:
            with live.scope:
                async with _in_use(self.store, [c.context_id for c in launch.task.contexts], run.run_id):
                    await launch.play(run, live.note)
            if live.scope.cancelled_caught and not live.ended:
                await _in_thread(run.append, {"event": "run_ended", **CANCELLED})
        except Exception as error:
            if not live.ended:
                await _in_thread(run.append, {"event": "run_ended", **_failed(error)})
            if not isinstance(error, RlmError):
                log.exception("run %s failed", run.run_id)
        finally:
            run.close()
            self._live.pop(run.run_id, None)
            live.finished.set()
            live.news.set()
            self._changes.send_nowait(Change(uri=self.run_uri(run.run_id)))

    async def _watch_wish(self, live: _Live) -> None:
        """Cancels the run when another process wishes so."""
        while not live.finished.is_set():
            with anyio.move_on_after(WISH_SECONDS):
                await live.finished.wait()
            if _cancel_wish(live.run).exists():
                live.scope.cancel()

    async def follow(self, run_id: str) -> AsyncIterator[Progress]:
        """Where a run stands, after every event and at least every HEARTBEAT_SECONDS, until it has ended."""
        run_id = (await self._find(run_id)).run_id
        while (live := self._live.get(run_id)) is not None:
            yield live.look()
            with anyio.move_on_after(HEARTBEAT_SECONDS):
                await live.news.wait()
            with anyio.move_on_after(CALM_SECONDS):
                await live.finished.wait()
        while (await self.state(run_id)).status == "running":
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
        for event in await _in_thread(lambda: list(run.events(until=on_record))):
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

    async def state(self, run_id: str) -> RunState:
        """A run as its record tells it. Raises UnknownRun."""
        return await _in_thread((await self._find(run_id)).state)

    async def list_runs(self, *, limit: int = 20, cursor: str | None = None) -> RunPage:
        """Runs, newest first."""
        return await _in_thread(self.runs.list, limit=limit, cursor=cursor)

    async def trace(self, run_id: str) -> str:
        """The record of a run, as it stands on disk."""
        run = await self._find(run_id)
        return await _in_thread(partial(run.events_path.read_text, encoding="utf-8"))

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
            _cancel_wish(run).touch()
            with anyio.move_on_after(WISH_SECONDS * 8):
                while run.is_live():  # noqa: ASYNC110 - the other process does not tell
                    await anyio.sleep(WISH_SECONDS / 4)
        state = await _in_thread(run.state)
        if state.status == "running":
            raise RunElsewhere(f"{run.run_id} runs in another process of rlm-mcp, which does not react: end that one.")
        return state

    async def _find(self, run_id: str) -> Run:
        if (live := self._live.get(run_id)) is not None:
            return live.run
        return await _in_thread(self.runs.get, run_id)

    # --- changes

    def on_change(self, listener: Callable[[Change], Awaitable[None]]) -> None:
        """Calls `listener` with every change from now on, one at a time."""
        self._listeners.append(listener)

    async def announce_changes(self) -> None:
        """Hands changes to the listeners, until the workspace is closed."""
        async with self._changed:
            async for change in self._changed:
                for listener in self._listeners:
                    await listener(change)

    async def close(self) -> None:
        """Stops live runs, leaving records that can be resumed, and closes every REPL. Idempotent."""
        for live in list(self._live.values()):
            live.scope.cancel()
        for live in list(self._live.values()):
            await live.finished.wait()
        await self._repls.close_all()
        self._changes.close()


@asynccontextmanager
async def open_workspace(
    settings: Settings,
    *,
    choose: ChooseModels | None = None,
    sandbox: Sandbox | None = None,
    open_repl: OpenRepl | None = None,
    warm: bool = False,
    most_runs: int | None = None,
) -> AsyncIterator[Workspace]:
    """Everything a process needs, ready at once: the sandbox loads and connections open on first use.

    `choose` and `open_repl` stand in for the configured models and for the REPL; a `sandbox` that is open already can
    be shared. `warm` begins to load the sandbox now, in the background. `most_runs` bounds the runs that go on
    at once.
    """
    failure: Exception | None = None
    async with AsyncExitStack() as stack:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = stack.enter_context(Store(settings.data_dir, roots=settings.roots, quota_bytes=settings.quota_bytes))
        cache = stack.enter_context(closing(ReplyCache(settings.cache_dir))) if settings.sub_call_cache else None
        if choose is None:
            choose = (await stack.enter_async_context(open_models(settings))).choose
        if open_repl is None:
            if sandbox is None:
                sandbox = await stack.enter_async_context(open_sandbox(settings.cache_dir))
            if warm:
                sandbox.begin_loading()
            open_repl = partial(sandbox.open_repl, store)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        workspace = Workspace(
            store=store,
            runs=Runs(settings.data_dir),
            launcher=Launcher(settings, choose, store, open_repl, cache),
            open_repl=open_repl,
            tasks=tasks,
            most_runs=most_runs,
        )
        tasks.start_soon(workspace.announce_changes)
        try:
            yield workspace
        except Exception as error:  # noqa: BLE001 - raised again
            failure = error  # below: here the task group would wrap it in an ExceptionGroup
        finally:
            with anyio.CancelScope(shield=True):
                await workspace.close()
    if failure is not None:
        raise failure


async def _read_along(run: Run, on_event: Callable[[Event], None]) -> None:
    """Events of a run of another process, as its record grows."""
    seen, is_live = 0, True
    while is_live:
        is_live = await _in_thread(run.is_live)
        news = await _in_thread(lambda skipped: list(islice(run.events(), skipped, None)), seen)
        for event in news:
            on_event(event)
        seen += len(news)
        if is_live:
            await anyio.sleep(WISH_SECONDS)


def _has_ended(run: Run) -> bool:
    """Whether its record has a last event."""
    marks = [e["event"] for e in run.events() if e["event"] in {"run_ended", "run_resumed"} and not e.get("path")]
    return marks[-1:] == ["run_ended"]


def _cancel_wish(run: Run) -> Path:
    """The file by which one process asks another to cancel a run."""
    return run.directory / "cancel"


def _fingerprint(request: SolveRequest, contexts: Sequence[Context]) -> str:
    """The same for the same request over the same contexts, whichever way they were named."""
    facts = asdict(request) | {"contexts": [context.context_id for context in contexts]}
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


async def _in_thread(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    """A blocking call off the event loop. It is not interrupted; whoever waits for it may be."""
    return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), abandon_on_cancel=True)

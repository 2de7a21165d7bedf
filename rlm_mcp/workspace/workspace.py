"""What one process holds open: the store, the runs on disk, live runs, models, the sandbox and the inspect REPLs.

    async with open_workspace(settings) as workspace:
        run_id = await workspace.start(SolveRequest(query="…", contexts=("app.log",)))
        async for progress in workspace.follow(run_id): ...
        state = await workspace.state(run_id)

This file has the contexts and the opening of it all, live_runs.py the runs. The store is synchronous and does disk
work, so every call of it happens on a worker thread; the objects here belong to the event loop.
"""

import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from functools import partial

import anyio
import anyio.from_thread
from anyio.abc import TaskGroup

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.contexts.describe.overview import Overview, describe
from rlm_mcp.contexts.search import SearchResult, search
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context, Freed, Lines, Page
from rlm_mcp.engine.reply_cache import ReplyCache
from rlm_mcp.engine.types import OpenRepl
from rlm_mcp.errors import ContextError, UnknownContext
from rlm_mcp.models.pool import open_models
from rlm_mcp.records.store import Runs
from rlm_mcp.repl.sandbox import Sandbox, open_sandbox
from rlm_mcp.repl.types import CellResult, GuestCalls
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.change_feed import ChangeFeed, ResourceChange
from rlm_mcp.workspace.inspect_repls import InspectRepls, ReplPool
from rlm_mcp.workspace.launch import ChooseModels, Launcher
from rlm_mcp.workspace.live_runs import LiveRuns
from rlm_mcp.workspace.process_tuning import freeze_gc
from rlm_mcp.workspace.progress import Taken
from rlm_mcp.workspace.telemetry import Telemetry

log = logging.getLogger(__name__)

READ_CHARS = 20_000
"""Lines in one tool result, with room for escapes and the other fields under its 32,000."""


class Workspace(LiveRuns):
    """The contexts of one owner, the runs over them, and their REPLs. Made by `open_workspace`."""

    def __init__(
        self,
        *,
        store: Store,
        runs: Runs,
        launcher: Launcher,
        open_repl: OpenRepl,
        tasks: TaskGroup,
        telemetry: Telemetry,
        most_runs: int | None = None,
        serves: bool = False,
        confirm_usd: float | None = None,
        pool: ReplPool | None = None,
    ) -> None:
        super().__init__(
            store=store,
            runs=runs,
            launcher=launcher,
            tasks=tasks,
            changes=ChangeFeed(),
            telemetry=telemetry,
            most_runs=most_runs,
            serves=serves,
        )
        self._repls = InspectRepls(open_repl, pool)
        self.confirm_usd = confirm_usd
        """a run that may cost more is confirmed by the user first"""

    def __repr__(self) -> str:
        return f"<Workspace {self.runs.directory.parent}, {len(self._live)} live runs, {self._repls!r}>"

    # --- contexts

    async def register(
        self,
        *,
        source: str = "",
        text: str = "",
        name: str | None = None,
        supersedes: bool = False,
        taken: Taken | None = None,
    ) -> Context:
        """Stores a source or a text; the same content under the same name is the same context.

        A text that `supersedes` is the next version of another text of its name; otherwise that is NameTaken.
        `taken` tells meanwhile how far it is. Cancelled, it ends within milliseconds and leaves nothing behind.
        """
        so_far = Taken() if taken is None else taken

        def on_progress(files: int, size: int) -> None:
            anyio.from_thread.check_cancelled()
            so_far.add(files, size)

        if source:
            register = partial(self.store.register_source, source, name=name, on_progress=on_progress)
            context = await anyio.to_thread.run_sync(register)
        else:
            context = await run_in_thread(self.store.register_text, text, name=name, supersedes=supersedes)
        self.changes.add(ResourceChange())
        return context

    async def find_or_register(self, source: str, *, taken: Taken | None = None) -> Context:
        """The context that this means: a path that exists is taken as the path, anything else as an id or a name.

        Where both exist the log says which was taken. The store says what is wrong where neither does.
        """
        named = None
        with suppress(UnknownContext):
            named = await self.context(source)
        if named is not None and not await anyio.Path(source).exists():
            return named
        context = await self.register(source=source, taken=taken)
        if named is not None and named.source != context.source:
            log.warning(
                "%r is a path and the name of a context: the path was taken; the context is %s",
                source,
                named.context_id,
            )
        return context

    async def context(self, ref: str) -> Context:
        """The context with this id or name. Raises UnknownContext."""
        return await run_in_thread(self.store.get, ref)

    async def contexts(self, query: str = "", *, limit: int = 20, cursor: str | None = None) -> Page:
        """One page of contexts, newest first."""
        return await run_in_thread(self.store.list, query, limit=limit, cursor=cursor)

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
        files = await run_in_thread(self.store.files, await self.context(ref))
        return [file.path for file in files]

    async def overview(self, context: Context) -> Overview:
        """What a context is made of."""
        return await run_in_thread(describe, self.store, context)

    async def read(
        self, context: Context, start_line: int, end_line: int | None, path: str | None, *, max_chars: int = READ_CHARS
    ) -> Lines:
        """Some lines of a context."""
        return await run_in_thread(self.store.read_lines, context, start_line, end_line, path=path, max_chars=max_chars)

    async def search(
        self, context: Context, pattern: str, *, path: str | None, max_matches: int, context_lines: int
    ) -> SearchResult:
        """Lines that match a pattern."""
        return await run_in_thread(
            search, self.store, context, pattern, path=path, max_matches=max_matches, context_lines=context_lines
        )

    async def remove(self, ref: str) -> Context:
        """Forgets a context. Raises ContextInUse while a run reads it."""
        context = await run_in_thread(self.store.remove, ref)
        await self._repls.close(context.context_id)
        self.changes.add(ResourceChange())
        return context

    async def refresh(self, ref: str) -> Context:
        """Registers a context's source as it is now: the same context, or the next version of it."""
        context = await run_in_thread(self.store.refresh, ref)
        self.changes.add(ResourceChange())
        return context

    async def collect(self) -> Freed:
        """Forgets old versions that no run on record is about, and deletes what nothing uses."""
        return await run_in_thread(lambda: self.store.gc(keep=self.runs.context_ids()))

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
            anyio.from_thread.run_sync(self.changes.add, ResourceChange())
            on_version(latest)

        watching = partial(watch, self.store, context.name, stop=stop, on_version=announce, on_trouble=on_trouble)
        await anyio.to_thread.run_sync(watching)

    async def run_code(
        self, context: Context, code: str, *, seconds: float, reset: bool = False, calls: GuestCalls | None = None
    ) -> CellResult:
        """Runs a cell in this context's REPL, which is opened on first use. Cells of one context queue up.

        What code may ask of models is settled by the `calls` of the first one; without any, nothing.
        """
        if reset:
            await self._repls.close(context.context_id)
        return await self._repls.run(context, code, seconds=seconds, calls=calls)

    async def complete(self, context: Context, text: str, *, calls: GuestCalls | None = None) -> tuple[str, ...]:
        """What a name that was begun can become in this context's REPL."""
        return await self._repls.complete(context, text, calls=calls)

    def on_change(self, listener: Callable[[ResourceChange], Awaitable[None]]) -> None:
        """Calls `listener` with every change from now on, one at a time."""
        self.changes.listen(listener)

    async def close(self) -> None:
        """Stops live runs, leaving records that can be resumed, and closes every REPL. Idempotent."""
        await self.stop_all()
        await self._repls.close_all()
        self.changes.close()


def _open_store(settings: Settings) -> Store:
    """Takes milliseconds, or as long as another process writes."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Store(settings.data_dir, roots=settings.roots, quota_bytes=settings.quota_bytes)


@asynccontextmanager
async def open_workspace(
    settings: Settings,
    *,
    choose: ChooseModels | None = None,
    sandbox: Sandbox | None = None,
    open_repl: OpenRepl | None = None,
    warm: bool = False,
    most_runs: int | None = None,
    serves: bool = False,
    telemetry: Telemetry | None = None,
    pool: ReplPool | None = None,
) -> AsyncIterator[Workspace]:
    """Everything a process needs, ready at once: the sandbox loads and connections open on first use.

    `choose` and `open_repl` stand in for the configured models and for the REPL; a `sandbox` that is open already can
    be shared. `warm` begins to load the sandbox now, in the background. `most_runs` bounds the runs that go on
    at once. With `serves` the runs are those of a server: what its end cuts off, the next one goes on with.
    `telemetry` stands in for the process's own; the REPLs of `inspect_context` may share a `pool` with other owners'.
    """
    failure: Exception | None = None
    async with AsyncExitStack() as stack:
        # Not to be abandoned: a store that nobody holds would never be closed.
        store = stack.enter_context(await anyio.to_thread.run_sync(_open_store, settings))
        await anyio.to_thread.run_sync(store.remove_leftovers)
        cache = stack.enter_context(closing(ReplyCache(settings.cache_dir))) if settings.sub_call_cache else None
        if choose is None:
            choose = (await stack.enter_async_context(open_models(settings))).choose
        if open_repl is None:
            if sandbox is None:
                on_loaded = freeze_gc if serves else None
                sandbox = await stack.enter_async_context(open_sandbox(settings.cache_dir, on_loaded=on_loaded))
            if warm:
                sandbox.begin_loading()
            pool = pool or ReplPool(has_room=sandbox.has_room)
            open_repl = pool.evicting_opener(partial(sandbox.open_repl, store))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        workspace = Workspace(
            store=store,
            runs=Runs(settings.data_dir),
            launcher=Launcher(settings, choose, store, open_repl, cache),
            open_repl=open_repl,
            tasks=tasks,
            telemetry=telemetry or Telemetry(content=settings.trace_content),
            most_runs=most_runs,
            serves=serves,
            confirm_usd=settings.confirm_usd,
            pool=pool,
        )
        tasks.start_soon(workspace.changes.tell)
        try:
            yield workspace
        except Exception as error:  # noqa: BLE001 - raised again
            failure = error  # below: here the task group would wrap it in an ExceptionGroup
        finally:
            with anyio.CancelScope(shield=True):
                await workspace.close()
    if failure is not None:
        raise failure

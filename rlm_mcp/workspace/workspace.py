"""Everything that one owner has in one process: contexts, runs and inspect REPLs, over one data directory.

    async with open_workspace(settings) as workspace:
        context = await workspace.contexts.register(source="app.log")
        run_id = await workspace.runs.start(SolveRequest(query="…", contexts=(context.context_id,)))
        async for progress in workspace.runs.follow(run_id): ...
        state = await workspace.runs.state(run_id)

The objects here belong to the event loop.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import anyio

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context, Freed
from rlm_mcp.engine.types import OpenRepl, recorded_packages
from rlm_mcp.models.pool import open_models
from rlm_mcp.packages.library import PackageImage, PackageLibrary, folder_of
from rlm_mcp.records.events import Event
from rlm_mcp.records.tape import MemoryRecord, TapedRequest
from rlm_mcp.records.types import Outcome
from rlm_mcp.repl.maps import ShareMap
from rlm_mcp.repl.sandbox import Sandbox, open_sandbox
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.awaited_runs import AwaitedRuns
from rlm_mcp.workspace.backends import Backends, open_backends
from rlm_mcp.workspace.change_feed import Bulletin, ResourceChange
from rlm_mcp.workspace.contexts import WorkspaceContexts
from rlm_mcp.workspace.handed_over import HandedOverRuns
from rlm_mcp.workspace.inspect_repls import InspectRepls, ReplPool
from rlm_mcp.workspace.launch import ChooseModels, Launcher
from rlm_mcp.workspace.live_runs import LiveRuns
from rlm_mcp.workspace.map_work import MapWork
from rlm_mcp.workspace.process_tuning import freeze_gc
from rlm_mcp.workspace.recovery import RunRecovery
from rlm_mcp.workspace.run_images import RunImages
from rlm_mcp.workspace.telemetry import Telemetry
from rlm_mcp.workspace.tenant_limits import TenantLimits
from rlm_mcp.workspace.tool_servers import open_tool_servers
from rlm_mcp.workspace.waiting_calls import WaitingCalls


class Workspace:
    """The contexts of one owner, the runs over them, and their REPLs. Made by `open_workspace`."""

    def __init__(
        self,
        *,
        contexts: WorkspaceContexts,
        runs: LiveRuns,
        calls: WaitingCalls,
        recovery: RunRecovery,
        handed_over: HandedOverRuns,
        repls: InspectRepls,
        changes: Bulletin,
        launcher: Launcher,
        map_work: MapWork | None = None,
        confirm_usd: float | None = None,
        longest_wait: float | None = None,
    ) -> None:
        self.contexts = contexts
        self.runs = runs
        self.calls = calls
        self.recovery = recovery
        self.handed_over = handed_over
        self.repls = repls
        self._changes = changes
        self._launcher = launcher
        self.map_work = map_work
        """work on maps of other processes; None where REPLs are opened in another way"""
        self.confirm_usd = confirm_usd
        """a run that may cost more is confirmed by the user first"""
        self.longest_wait = longest_wait
        """seconds that a call may wait for a run, whichever client calls"""

    def __repr__(self) -> str:
        return f"<Workspace {self.runs.records!r}, {self.runs.live_count} live runs, {self.repls!r}>"

    async def remove_context(self, ref: str) -> Context:
        """Forgets a context and the variables of its REPL. Raises ContextInUse while a run reads it."""
        context = await self.contexts.remove(ref)
        await self.repls.forget(context.context_id)
        return context

    async def collect_garbage(self) -> Freed:
        """Forgets old versions of contexts that no recorded run is about, and deletes what nothing uses."""
        freed = await run_in_thread(lambda: self.contexts.store.gc(keep=self.runs.records.context_ids()))
        await self.repls.forget_all_but(self.contexts.exists)
        return freed

    async def replay(
        self,
        events: Sequence[Event],
        contexts: Sequence[Context] | None,
        on_event: Callable[[Event], None],
        *,
        on_request: Callable[[TapedRequest], None] = lambda _: None,
    ) -> tuple[Outcome, str | None]:
        """Executes a recorded run again, its model replies from the record; the outcome and the first difference.

        `contexts` take the place of the recorded ones. `on_request` gets the requests that the models would be sent.
        """
        launch = self._launcher.replayed(events, contexts, on_request=on_request)
        outcome = await launch.play(MemoryRecord(), on_event, launch.new_ledger())
        return outcome, launch.tape.difference

    def on_change(self, listener: Callable[[ResourceChange], Awaitable[None]]) -> None:
        """Calls `listener` with every change from now on, one at a time."""
        self._changes.listen(listener)

    async def close(self) -> None:
        """Stops live runs, leaving records that can be resumed, and closes every REPL. Idempotent."""
        await self.runs.close()
        await self.repls.close_all()
        self._changes.close()


def _always() -> bool:
    return True


def _opener(
    store: Store,
    sandbox: Sandbox,
    pool: ReplPool,
    owner: str | None,
    share_map: ShareMap | None,
    image: PackageImage | None,
) -> OpenRepl:
    """Opens REPLs with an image."""
    sandbox = sandbox.with_image(folder_of(image))
    packages = recorded_packages(image)
    opening = partial(sandbox.open_repl, store, owner=owner, share_map=share_map, packages=packages)
    return pool.evicting_opener(opening, owner)


@asynccontextmanager
async def open_workspace(
    settings: Settings,
    *,
    choose: ChooseModels | None = None,
    sandbox: Sandbox | None = None,
    open_repl: OpenRepl | None = None,
    warm: bool = False,
    limits: TenantLimits | None = None,
    serves: bool = False,
    telemetry: Telemetry | None = None,
    pool: ReplPool | None = None,
    owner: str | None = None,
    library: PackageLibrary | None = None,
    keeps_repls: bool = False,
    backends: Backends | None = None,
) -> AsyncIterator[Workspace]:
    """Opens a workspace. It is ready at once: the sandbox loads and connections open on first use.

    `choose` and `open_repl` replace the configured models and the REPL; an open `sandbox` can be shared. `warm` starts
    loading the sandbox now, in the background. `limits` are those of the owner. With `serves` the runs are those of
    a server: the next server resumes what the end of this one interrupts. `telemetry` replaces that of the process;
    the REPLs of `inspect_context` may share a `pool` with those of other owners. A named `owner` leaves threads and
    memory of a shared sandbox to others. `library` has the packages of the sandbox, by default those in `data_dir`.
    With `keeps_repls`, the variables of the REPLs of `inspect_context` are saved in `data_dir` after each cell, and
    come back after eviction, a restart, or the death of the process. `backends` replace those of this machine.
    """
    failure: Exception | None = None
    async with AsyncExitStack() as stack:
        if backends is None:
            backends = await stack.enter_async_context(open_backends(settings, limits))
        store, changes = backends.store, backends.changes
        if choose is None:
            choose = (await stack.enter_async_context(open_models(settings))).choose
        images: RunImages | None = None
        map_work: MapWork | None = None
        if open_repl is None:
            library = library or PackageLibrary(settings.data_dir)
            chosen = await anyio.to_thread.run_sync(library.choose, settings.packages)
            if sandbox is None:
                on_loaded = freeze_gc if serves else None
                opening = open_sandbox(settings.cache_dir, image=folder_of(chosen), on_loaded=on_loaded)
                sandbox = await stack.enter_async_context(opening)
            if warm:
                sandbox.with_image(folder_of(chosen)).begin_loading()
            pool = pool or ReplPool(has_room=sandbox.has_room)
            opener = partial(_opener, store, sandbox, pool, owner, backends.share_map)
            # An image that was named is waited for; until any other is compiled, the one without packages serves.
            is_waited_for = chosen is None or settings.packages is not None
            is_ready = _always if is_waited_for else sandbox.with_image(folder_of(chosen)).is_compiled
            images = RunImages(library=library, chosen=chosen, open_with=opener, is_ready=is_ready)
            open_repl = images.open_repl
            map_work = MapWork(store=store, sandbox=sandbox, images=images, owner=owner)
        tools = await stack.enter_async_context(open_tool_servers(settings.tools))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        launcher = Launcher(
            settings, choose, store, open_repl, backends.replies, images, tools, backends.open_sampling_queue
        )
        awaited = AwaitedRuns()
        runs = LiveRuns(
            store=store,
            records=backends.records,
            queue=backends.queue,
            launcher=launcher,
            tasks=tasks,
            changes=changes,
            telemetry=telemetry or Telemetry(content=settings.trace_content),
            limits=backends.limits,
            awaited=awaited,
            owner=owner or "",
            serves=serves,
        )
        calls = WaitingCalls(runs, awaited, tasks, serves=serves)
        workspace = Workspace(
            contexts=WorkspaceContexts(store, changes),
            runs=runs,
            calls=calls,
            recovery=RunRecovery(
                runs=runs,
                calls=calls,
                awaited=awaited,
                queue=backends.queue,
                limits=backends.limits,
                tasks=tasks,
                owner=owner or "",
                serves=serves,
            ),
            handed_over=HandedOverRuns(runs, backends.queue, launcher),
            repls=InspectRepls(
                open_repl,
                pool,
                owner,
                states=backends.repl_states,
                tasks=tasks if keeps_repls else None,
            ),
            changes=changes,
            launcher=launcher,
            map_work=map_work,
            confirm_usd=settings.confirm_usd,
            longest_wait=settings.longest_wait,
        )
        tasks.start_soon(changes.deliver)
        tasks.start_soon(runs.serve)
        try:
            yield workspace
        except Exception as error:  # noqa: BLE001 - raised again
            failure = error  # below: here the task group would wrap it in an ExceptionGroup
        finally:
            with anyio.CancelScope(shield=True):
                await workspace.close()
    if failure is not None:
        raise failure

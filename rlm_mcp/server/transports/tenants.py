"""The tenants of a server over HTTP: one workspace for each token name, with limits on its requests.

Each tenant's workspace has a directory of its own: contexts and runs of others do not exist for it. All workspaces
share one sandbox and one pool of models.
"""

import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR

from rlm_mcp.errors import RlmError
from rlm_mcp.server.notifications import Notifications
from rlm_mcp.server.transports.tenant_names import EVERYBODY, current_tenant
from rlm_mcp.workspace.map_work import MapWork
from rlm_mcp.workspace.tenant_limits import Holding, LimitReached, TenantLimits
from rlm_mcp.workspace.trial import Trial
from rlm_mcp.workspace.workspace import Workspace

GRACE_SECONDS, ANSWER_SECONDS = 0.3, 1.5
"""When the server ends: for answers of calls whose runs were stopped, and then for ending what still runs."""

ENDING = "the server is restarting: send the request again in a few seconds"

IDLE_SECONDS = 1800.0
"""A workspace that has not been used for this long is closed: it holds a database, and REPLs."""


log = logging.getLogger(__name__)

OpenFor = Callable[[str], AbstractAsyncContextManager[Workspace]]


@dataclass(slots=True, kw_only=True)
class _Tenant:
    """A known tenant."""

    seen: float
    """time of the last request, by the clock of Tenants"""
    busy: int = 0
    workspace: Workspace | None = None
    opening: anyio.Lock = field(default_factory=anyio.Lock)
    unused: anyio.Event = field(default_factory=anyio.Event)
    """set when the workspace is to be closed"""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Counts one more request during a block."""
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1

    def is_unused(self, now: float) -> bool:
        """Whether closing the workspace loses nothing: the variables of REPLs are kept."""
        idle = self.busy == 0 and not self.opening.locked() and now - self.seen >= IDLE_SECONDS
        return idle and (self.workspace is None or self.workspace.runs.live_count == 0)


class Tenants:
    """The workspaces of all known tenants, each open until it is unused for long or the server ends."""

    def __init__(
        self,
        open_for: OpenFor,
        tasks: TaskGroup,
        clock: Callable[[], float] = time.monotonic,
        *,
        limits: TenantLimits,
        given_up: Collection[str] = (),
    ) -> None:
        """`given_up` are ids of runs, and of calls that waited for runs, which nobody wants any more."""
        self._given_up = frozenset(given_up)
        self._open_for = open_for
        self._tasks = tasks
        self._limits = limits
        self._clock = clock
        self._known: dict[str, _Tenant] = {}
        self._unanswered: dict[anyio.CancelScope, None] = {}
        self._is_ending = False
        self._trial = Trial()
        self.notifications = Notifications(current_tenant)

    def __repr__(self) -> str:
        return f"<Tenants {len(self._known)} known>"

    def names(self) -> list[str]:
        """The tenants whose workspaces are open."""
        return [name for name, tenant in self._known.items() if tenant.workspace is not None]

    def current(self) -> Workspace:
        """The workspace of the tenant that sent the current request; the middleware has opened it."""
        workspace = self._known[current_tenant()].workspace
        if workspace is None:
            raise LookupError("no workspace was opened for this request")
        return workspace

    async def middleware(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Opens the caller's workspace before the request is handled."""
        name = current_tenant()
        tenant = self._find_tenant(name)
        if ctx.request_id is None:
            await self._open_for_request(name)
            return await call_next(ctx)
        if ctx.method == "subscriptions/listen":
            with self._held(name, "stream"):
                await self._open_for_request(name)
                return await call_next(ctx)
        with self._held(name, "answered"), tenant.at_work():
            await self._open_for_request(name)
            return await self._until_the_end(call_next, ctx)

    async def _open_for_request(self, name: str) -> None:
        """Opens the workspace, or says in a sentence why it cannot be opened. Raises MCPError."""
        try:
            await self.open(name)
        except RlmError as error:
            raise MCPError(INTERNAL_ERROR, str(error)) from error
        except (OSError, sqlite3.Error) as error:
            log.warning("the workspace of %s cannot be opened: %s", name, error)
            why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
            raise MCPError(
                INTERNAL_ERROR,
                f"the contexts and runs of this token cannot be opened ({why}): the operator of the server finds the"
                " reason in its log",
            ) from error

    async def _until_the_end(self, call_next: CallNext, ctx: ServerRequestContext[Any, Any]) -> HandlerResult:
        """The result of a request. One that is unanswered when the server ends is told so."""
        if not self._is_ending:
            with anyio.CancelScope() as scope:
                self._unanswered[scope] = None
                try:
                    return await call_next(ctx)
                finally:
                    del self._unanswered[scope]
        raise MCPError(INTERNAL_ERROR, ENDING)

    async def open(self, name: str) -> Workspace:
        """Opens a tenant's workspace. Runs that an earlier server left in it are resumed."""
        tenant = self._find_tenant(name)
        if tenant.workspace is not None:
            return tenant.workspace
        async with tenant.opening:
            if tenant.workspace is None:
                tenant.workspace = await self._tasks.start(self._hold, name, tenant)
        return tenant.workspace

    async def play_attempt(self, owner: str, run_id: str, position: int) -> None:
        """Plays an attempt that was handed over by any machine of a cluster to its end."""
        name = owner or EVERYBODY
        with self._find_tenant(name).at_work():
            await (await self.open(name)).handed_over.play(run_id, position, self._trial)

    async def work_on_map(self, owner: str, work: Callable[[MapWork], Awaitable[None]]) -> None:
        """Works on a map of an owner that waits in another process of a cluster."""
        name = owner or EVERYBODY
        with self._find_tenant(name).at_work():
            map_work = (await self.open(name)).map_work
            if map_work is not None:
                await work(map_work)

    async def resume_left(self, names: Iterable[str]) -> None:
        """Opens these tenants' workspaces, so that runs which were left go on before a tenant comes back."""
        for name in names:
            try:
                await self.open(name)
            except (RlmError, OSError, sqlite3.Error) as error:
                log.warning("the runs of %s are not resumed: %s", name, error)

    async def keep_closing_unused(self) -> None:
        """Closes unused workspaces from now on. One opens again when its tenant comes back."""
        while True:
            await anyio.sleep(IDLE_SECONDS / 10)
            self.close_unused()

    def close_unused(self) -> None:
        """Forgets tenants without requests for IDLE_SECONDS and without live runs."""
        now = self._clock()
        for name, tenant in list(self._known.items()):
            if tenant.is_unused(now):
                del self._known[name]
                tenant.unused.set()

    def announce_end(self) -> None:
        """Says that the server is going to end: from now on that is what stops runs, and not their clients."""
        for workspace in self._workspaces():
            workspace.runs.announce_end()

    async def stop_runs(self) -> None:
        """Stops all runs, so that calls that wait for them are answered; the next server resumes them."""
        async with anyio.create_task_group() as tasks:
            for workspace in self._workspaces():
                tasks.start_soon(workspace.runs.stop_all)

    async def end_all(self) -> None:
        """Stops all runs and answers all calls."""
        await self.stop_runs()
        await self.answer_all()

    async def answer_all(self) -> None:
        """Lets calls that waited for a run be answered, and ends all others with a sentence, as cells that still run.

        Returns when all have an answer, or after ANSWER_SECONDS.
        """
        self._is_ending = True
        await self._settle(GRACE_SECONDS)
        for scope in list(self._unanswered):
            scope.cancel()
        await self._settle(ANSWER_SECONDS)

    async def _settle(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            while self._unanswered:  # noqa: ASYNC110 - once, at the end of the process
                await anyio.sleep(0.02)

    def _workspaces(self) -> list[Workspace]:
        return [tenant.workspace for tenant in self._known.values() if tenant.workspace is not None]

    def _find_tenant(self, name: str) -> _Tenant:
        """The tenant of this name, made if it is new."""
        now = self._clock()
        if (tenant := self._known.get(name)) is None:
            tenant = self._known[name] = _Tenant(seen=now)
        tenant.seen = now
        return tenant

    @contextmanager
    def _held(self, name: str, what: Holding) -> Iterator[None]:
        """Holds one more for a tenant during a block. Raises MCPError when it has as many as it may."""
        with ExitStack() as held:
            try:
                if what != "stream" or name != EVERYBODY:
                    held.enter_context(self._limits.hold(name, what))
            except LimitReached as error:
                raise MCPError(INTERNAL_ERROR, str(error)) from error
            yield

    async def _hold(self, name: str, tenant: _Tenant, *, task_status: TaskStatus[Workspace]) -> None:
        """Keeps a workspace open until it is unused. What goes wrong in it after it was opened ends nothing else."""
        opened: Workspace | None = None
        try:
            async with self._open_for(name) as opened:
                opened.on_change(partial(self.notifications.announce, tenant=name))
                task_status.started(opened)
                try:
                    await opened.recovery.resume_left(self._given_up, self._trial)
                except (RlmError, OSError, ValueError, TypeError, LookupError) as error:
                    log.warning("the runs of %s are not resumed: %s", name, error)
                await tenant.unused.wait()
        except Exception:  # whatever fails at the end of a workspace that was opened must not end the server
            if opened is None:
                raise
            tenant.workspace = None
            log.exception("the workspace of %s was closed by a fault of rlm-mcp; its next request opens it again", name)

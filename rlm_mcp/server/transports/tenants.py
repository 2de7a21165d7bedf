"""Who has come in over HTTP: a workspace for every token name, how much each may do, and what outlives the process.

Every owner has a workspace of its own, under the data directory: contexts and runs of others do not exist for it. All
workspaces share one sandbox and one pool of models.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR

from rlm_mcp.errors import RlmError
from rlm_mcp.server.notifications import Notifications
from rlm_mcp.workspace.workspace import Workspace

EVERYBODY = "everybody"
"""The owner where there are no tokens."""

REQUESTS_PER_SECOND, BURST = 20.0, 200.0
"""Of one owner. A client that lists, reads and polls stays far below; a runaway loop does not."""

MOST_REQUESTS = 64
"""Of one owner at once; a call that waits for a run counts. Streams of change notices do not."""

IDLE_SECONDS = 1800.0
"""A workspace that nobody has used for this long is closed: it holds a database, REPLs and what they know."""


class RateLimitExceeded(RlmError):
    """An owner asks for more than one may; after `seconds` there is room again."""

    def __init__(self, text: str, *, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


OpenFor = Callable[[str], AbstractAsyncContextManager[Workspace]]


@dataclass(slots=True, kw_only=True)
class _Tenant:
    """One who has come in."""

    seen: float
    """when the last request came, by the clock of Owners"""
    allowance: float = BURST
    busy: int = 0
    workspace: Workspace | None = None
    opening: anyio.Lock = field(default_factory=anyio.Lock)
    unused: anyio.Event = field(default_factory=anyio.Event)
    """the workspace is to be closed"""

    def is_unused(self, now: float) -> bool:
        """Whether nothing would be missed if the workspace were closed, but for variables in REPLs."""
        idle = self.busy == 0 and not self.opening.locked() and now - self.seen >= IDLE_SECONDS
        return idle and (self.workspace is None or self.workspace.runs.live_count == 0)


class Tenants:
    """The workspaces of everyone who has come in, each open until it is not used any more or the server ends."""

    def __init__(self, open_for: OpenFor, tasks: TaskGroup, clock: Callable[[], float] = time.monotonic) -> None:
        self._open_for = open_for
        self._tasks = tasks
        self._clock = clock
        self._known: dict[str, _Tenant] = {}
        self.notifications = Notifications(current_tenant)

    def __repr__(self) -> str:
        return f"<Tenants {len(self._known)} known>"

    def current(self) -> Workspace:
        """The workspace of whoever sent the current request; the middleware has opened it."""
        workspace = self._known[current_tenant()].workspace
        if workspace is None:
            raise LookupError("no workspace was opened for this request")
        return workspace

    async def middleware(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Opens the caller's workspace before anything is asked of it."""
        name = current_tenant()
        tenant = self._find_tenant(name)
        if ctx.request_id is None or ctx.method == "subscriptions/listen":
            await self.open(name)
            return await call_next(ctx)
        with self._place(tenant):
            await self.open(name)
            return await call_next(ctx)

    async def open(self, name: str) -> Workspace:
        """The workspace of an owner. Runs that a server before this one left in it go on."""
        tenant = self._find_tenant(name)
        if tenant.workspace is not None:
            return tenant.workspace
        async with tenant.opening:
            if tenant.workspace is None:
                tenant.workspace = await self._tasks.start(self._hold, name, tenant)
        return tenant.workspace

    async def pick_up(self, names: Iterable[str]) -> None:
        """Opens the workspaces in which runs were left, so that these go on before their owners come back."""
        for name in names:
            await self.open(name)

    async def keep_closing_unused(self) -> None:
        """Closes what nobody uses, from now on; it opens again when its owner comes back."""
        while True:
            await anyio.sleep(IDLE_SECONDS / 10)
            self.close_unused()

    def close_unused(self) -> None:
        """Forgets the owners who have not been seen for IDLE_SECONDS and have nothing going on."""
        now = self._clock()
        for name, tenant in list(self._known.items()):
            if tenant.is_unused(now):
                del self._known[name]
                tenant.unused.set()

    def leave(self) -> None:
        """The server is going to end: from now on what stops runs is that, and not their clients."""
        for workspace in self._workspaces():
            workspace.runs.announce_end()

    async def stop_all(self) -> None:
        """Stops all runs, so that calls that wait for them are answered; the next server goes on with them."""
        async with anyio.create_task_group() as tasks:
            for workspace in self._workspaces():
                tasks.start_soon(workspace.runs.stop_all)

    def _workspaces(self) -> list[Workspace]:
        return [tenant.workspace for tenant in self._known.values() if tenant.workspace is not None]

    def _find_tenant(self, name: str) -> _Tenant:
        """Whoever has this name, who is there now. What the time since the last request allows is added."""
        now = self._clock()
        if (tenant := self._known.get(name)) is None:
            tenant = self._known[name] = _Tenant(seen=now)
        tenant.allowance = min(BURST, tenant.allowance + (now - tenant.seen) * REQUESTS_PER_SECOND)
        tenant.seen = now
        return tenant

    def charge(self, name: str) -> None:
        """One request of a token bucket. Raises TooMuch when it is empty; that costs a request too, but no debts."""
        tenant = self._find_tenant(name)
        tenant.allowance = max(tenant.allowance - 1, -1.0)
        if tenant.allowance < 0:
            raise RateLimitExceeded(f"more than {REQUESTS_PER_SECOND:.0f} requests a second: wait a second", seconds=1)

    @contextmanager
    def _place(self, tenant: _Tenant) -> Iterator[None]:
        """One of the requests that an owner may have open at once. Raises MCPError when there are that many."""
        if tenant.busy >= MOST_REQUESTS:
            raise MCPError(INTERNAL_ERROR, f"{MOST_REQUESTS} requests are being answered: wait for one of them")
        tenant.busy += 1
        try:
            yield
        finally:
            tenant.busy -= 1

    async def _hold(self, name: str, tenant: _Tenant, *, task_status: TaskStatus[Workspace]) -> None:
        async with self._open_for(name) as workspace:
            workspace.on_change(partial(self.notifications.announce, tenant=name))
            task_status.started(workspace)
            await workspace.runs.resume_left()
            await tenant.unused.wait()


def current_tenant() -> str:
    """A name, fit for a directory, of whoever sent the current request."""
    token = get_access_token()
    if token is None:
        return EVERYBODY
    if token.claims is None:
        return token.client_id
    who = f"{token.claims['iss']}\0{token.subject}"
    return f"oauth-{hashlib.sha256(who.encode()).hexdigest()[:32]}"

"""Who has come in over HTTP: a workspace for every token name, how much each may do, and what outlives the process.

Every owner has a workspace of its own, under the data directory: contexts and runs of others do not exist for it. All
workspaces share one sandbox and one pool of models.
"""

import hashlib
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR

from rlm_mcp.notices import Notices
from rlm_mcp.workspace import Workspace

EVERYBODY = "everybody"
"""The owner where there are no tokens."""

REQUESTS_PER_SECOND, BURST = 20.0, 200.0
"""Of one owner. A client that lists, reads and polls stays far below; a runaway loop does not."""

MOST_REQUESTS = 64
"""Of one owner at once; a call that waits for a run counts. Streams of change notices do not."""

OpenFor = Callable[[str], AbstractAsyncContextManager[Workspace]]


class Owners:
    """The workspaces of everyone who has come in, each open until the server ends."""

    def __init__(self, open_for: OpenFor, tasks: TaskGroup, clock: Callable[[], float] = time.monotonic) -> None:
        self._open_for = open_for
        self._tasks = tasks
        self._clock = clock
        self._open: dict[str, Workspace] = {}
        self._opening: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._allowance: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._busy: defaultdict[str, int] = defaultdict(int)
        self.notices = Notices(current_owner)

    def __repr__(self) -> str:
        return f"<Owners {len(self._open)} open>"

    def current(self) -> Workspace:
        """The workspace of whoever sent the current request; the middleware has opened it."""
        return self._open[current_owner()]

    async def middleware(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Opens the caller's workspace before anything is asked of it, and slows down who asks too much."""
        owner = current_owner()
        if ctx.request_id is None or ctx.method == "subscriptions/listen":
            await self.open(owner)
            return await call_next(ctx)
        self._charge(owner)
        with self._place(owner):
            await self.open(owner)
            return await call_next(ctx)

    async def open(self, owner: str) -> Workspace:
        """The workspace of an owner. Runs that a server before this one left in it go on."""
        async with self._opening[owner]:
            if owner not in self._open:
                self._open[owner] = await self._tasks.start(self._hold, owner)
        return self._open[owner]

    async def pick_up(self, owners: Iterable[str]) -> None:
        """Opens the workspaces in which runs were left, so that these go on before their owners come back."""
        for owner in owners:
            await self.open(owner)

    def leave(self) -> None:
        """The server is going to end: from now on what stops runs is that, and not their clients."""
        for workspace in self._open.values():
            workspace.leave()

    async def stop_all(self) -> None:
        """Stops all runs, so that calls that wait for them are answered; the next server goes on with them."""
        async with anyio.create_task_group() as tasks:
            for workspace in self._open.values():
                tasks.start_soon(workspace.stop_all)

    def _charge(self, owner: str) -> None:
        """One request of a token bucket. Raises MCPError when it is empty."""
        now = self._clock()
        left, then = self._allowance.get(owner, (BURST, now))
        left = min(BURST, left + (now - then) * REQUESTS_PER_SECOND) - 1
        self._allowance[owner] = max(left, -1.0), now
        if left < 0:
            raise MCPError(INTERNAL_ERROR, f"more than {REQUESTS_PER_SECOND:.0f} requests a second: wait a second")

    @contextmanager
    def _place(self, owner: str) -> Iterator[None]:
        """One of the requests that an owner may have open at once. Raises MCPError when there are that many."""
        if self._busy[owner] >= MOST_REQUESTS:
            raise MCPError(INTERNAL_ERROR, f"{MOST_REQUESTS} requests are being answered: wait for one of them")
        self._busy[owner] += 1
        try:
            yield
        finally:
            self._busy[owner] -= 1

    async def _hold(self, owner: str, *, task_status: TaskStatus[Workspace]) -> None:
        async with self._open_for(owner) as workspace:
            workspace.on_change(partial(self.notices.announce, owner=owner))
            task_status.started(workspace)
            await workspace.pick_up()
            await anyio.sleep_forever()


def current_owner() -> str:
    """A name, fit for a directory, of whoever sent the current request."""
    token = get_access_token()
    if token is None:
        return EVERYBODY
    if token.claims is None:
        return token.client_id
    who = f"{token.claims['iss']}\0{token.subject}"
    return f"oauth-{hashlib.sha256(who.encode()).hexdigest()[:32]}"

"""Which tenants' workspaces are open, and for how long."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp import MCPError

from rlm_mcp.server.transports.tenants import IDLE_SECONDS, Tenants
from rlm_mcp.workspace.launch import SolveRequest
from rlm_mcp.workspace.tenant_limits import MOST_REQUESTS, LocalLimits
from rlm_mcp.workspace.workspace import Workspace
from tests.rlm_mcp.server.conftest import HeldModel

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Opened:
    """Opens the one workspace of the test for every tenant, and keeps for whom."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.names: list[str] = []
        self.closed = anyio.Event()

    @asynccontextmanager
    async def __call__(self, name: str) -> AsyncIterator[Workspace]:
        self.names.append(name)
        yield self.workspace
        self.closed.set()


async def test_a_workspace_that_nobody_uses_is_closed_and_opens_again(workspace: Workspace) -> None:
    clock, opened = Clock(), Opened(workspace)
    async with anyio.create_task_group() as tasks:
        tenants = Tenants(opened, tasks, clock, limits=LocalLimits())
        await tenants.open("ann")
        clock.now = IDLE_SECONDS - 1
        await tenants.open("bob")
        tenants.close_unused()
        assert repr(tenants) == "<Tenants 2 known>"
        clock.now = IDLE_SECONDS
        tenants.close_unused()
        with anyio.fail_after(60):
            await opened.closed.wait()
        assert repr(tenants) == "<Tenants 1 known>"
        await tenants.open("bob")
        await tenants.open("ann")
        assert opened.names == ["ann", "bob", "ann"]
        tasks.cancel_scope.cancel()


async def test_a_workspace_with_a_run_stays_open(workspace: Workspace, model: HeldModel) -> None:
    clock = Clock()
    async with anyio.create_task_group() as tasks:
        tenants = Tenants(Opened(workspace), tasks, clock, limits=LocalLimits())
        await tenants.open("ann")
        await workspace.contexts.register(text="a b c", name="abc")
        run_id = await workspace.runs.start(SolveRequest(query="Anything?", contexts=("abc",), mode="rlm"))
        clock.now = IDLE_SECONDS
        tenants.close_unused()
        assert repr(tenants) == "<Tenants 1 known>"
        await workspace.runs.cancel(run_id)
        tenants.close_unused()
        assert repr(tenants) == "<Tenants 0 known>"
        tasks.cancel_scope.cancel()


class Asked:
    """A request, as far as the middleware looks at it."""

    request_id = 1
    method = "tools/call"


async def test_requests_that_wait_are_bounded_and_leave_their_places(workspace: Workspace) -> None:
    go = anyio.Event()

    async def wait(_: object) -> dict[str, object]:
        await go.wait()
        return {}

    async with anyio.create_task_group() as tasks:
        tenants = Tenants(Opened(workspace), tasks, Clock(), limits=LocalLimits({"answered": MOST_REQUESTS}))
        request: Any = Asked()
        async with anyio.create_task_group() as waiting:
            for _ in range(MOST_REQUESTS):
                waiting.start_soon(tenants.middleware, request, wait)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(MCPError, match=f"{MOST_REQUESTS} requests are being answered"):
                await tenants.middleware(request, wait)
            go.set()
        await tenants.middleware(request, wait)
        tasks.cancel_scope.cancel()

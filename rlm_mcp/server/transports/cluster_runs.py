"""Runs of a cluster that a process plays, beside serving clients or as all that it does (`rlm-mcp worker`)."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from rlm_mcp.cluster.opening import open_cluster_if_set
from rlm_mcp.concurrency import on_stop_signal
from rlm_mcp.errors import SettingsError
from rlm_mcp.server.transports.listener import run_to_the_end
from rlm_mcp.server.transports.logs import configure_logging
from rlm_mcp.server.transports.tenant_application import open_tenants
from rlm_mcp.server.transports.tenants import Tenants
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.tenant_limits import LocalLimits

if TYPE_CHECKING:
    from rlm_mcp.cluster.backends import Cluster


def begin_playing(cluster: "Cluster", tenants: Tenants, tasks: TaskGroup, *, at_once: int | None) -> Callable[[], None]:
    """Plays runs in a task from now on, and works on maps of runs that others play.

    Returns what takes no more of them and announces the end to the tenants.
    """
    from rlm_mcp.cluster.map_worker import MapWorker
    from rlm_mcp.cluster.worker import RUNS_AT_ONCE, RunWorker

    worker = RunWorker(cluster, tenants.play_attempt, at_once=RUNS_AT_ONCE if at_once is None else at_once)
    tasks.start_soon(worker.serve)
    map_worker = MapWorker(cluster, tenants.work_on_map)
    tasks.start_soon(map_worker.serve)

    def announce_end() -> None:
        worker.stop()
        map_worker.stop()
        tenants.announce_end()

    return announce_end


def serve_runs(settings: Settings, *, at_once: int | None, at_end: Callable[[], None]) -> None:
    """Plays runs until SIGTERM or SIGINT; then hands those that go on to other workers, and ends with status 0."""
    configure_logging(structured=True)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(open_cluster_if_set(settings))
            if cluster is None:
                raise SettingsError(
                    "RLM_MCP_STORE and RLM_MCP_BLOBS are not set: a worker plays what servers of a cluster begin"
                )
            opened = await stack.enter_async_context(open_tenants(settings, LocalLimits(), cluster=cluster))
            tasks = await stack.enter_async_context(anyio.create_task_group())
            announce_end = begin_playing(cluster, opened.tenants, tasks, at_once=at_once)
            ending = anyio.Event()
            with on_stop_signal(ending.set):
                await ending.wait()
                announce_end()
                await opened.tenants.stop_runs()
            tasks.cancel_scope.cancel()

    run_to_the_end(main, at_end)

"""The part of a process that works on maps whose code waits in other processes, one map at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import anyio

from rlm_mcp.cluster.backends import Cluster
from rlm_mcp.cluster.database import DatabaseUnusable
from rlm_mcp.cluster.maps import NOTICE_OWNER, OfferedMap, WorkerOfMap, find_map
from rlm_mcp.concurrency import background_task, run_in_thread
from rlm_mcp.errors import RlmError
from rlm_mcp.repl.process_shares import processor_count
from rlm_mcp.workspace.map_work import MapWork

POLL_SECONDS = 5.0
"""How often maps are looked for, apart from the notices that tell of them."""

MOST_KNOWN = 1_000
"""Maps that are remembered, because each is worked on once."""

WorkFor = Callable[[str, Callable[[MapWork], Awaitable[None]]], Awaitable[None]]
"""Calls a function with the work of an owner."""

log = logging.getLogger(__name__)


class MapWorker:
    """Works on maps of any owner. A process that offers a map itself has enough to do, and works on no other."""

    def __init__(self, cluster: Cluster, work_for: WorkFor, *, processors: int | None = None) -> None:
        """`processors` compute at the same time, by default all that this process may use."""
        self._cluster = cluster
        self._work_for = work_for
        self._processors = processors or processor_count()
        self._known: dict[str, None] = {}
        self._scope = anyio.CancelScope()

    def __repr__(self) -> str:
        return f"<MapWorker, {len(self._known)} maps so far>"

    def stop(self) -> None:
        """Works on maps no more; the items of one that goes on are given up."""
        self._scope.cancel()

    async def serve(self) -> None:
        """Works on maps until it is stopped or cancelled."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def hear(_: str | None) -> None:
            loop.call_soon_threadsafe(news.set)

        with self._cluster.notices.listening("map", NOTICE_OWNER, hear), self._scope:
            while True:
                offered = await run_in_thread(self._find)
                if offered is not None and not self._cluster.held_maps.has_home:
                    await self._work_on(offered)
                    continue
                with anyio.move_on_after(POLL_SECONDS):
                    await news.wait()
                news.clear()

    def _find(self) -> OfferedMap | None:
        try:
            return find_map(self._cluster.database, node=self._cluster.heartbeats.node, known=self._known)
        except DatabaseUnusable:
            return None

    async def _work_on(self, offered: OfferedMap) -> None:
        """Works on a map until it is over, or nothing can be done here. It is not looked at again."""
        self._known[offered.token] = None
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]
        cluster = self._cluster
        worker = WorkerOfMap(cluster.database, cluster.objects.briefly(), offered.token, node=cluster.heartbeats.node)
        try:
            if await run_in_thread(worker.join, self._processors):
                with cluster.held_maps.working(offered.token, worker.name):
                    async with background_task(_end_when_cancelled, worker):
                        await self._work_for(offered.owner, partial(self._work_with, offered, worker))
        except RlmError as error:
            log.warning("this process does not work on a map of another one: %s", error)
        except Exception:  # a bug in one map must not end the runs of this process
            log.exception("this process does not work on a map of another one")
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_thread(worker.leave)

    async def _work_with(self, offered: OfferedMap, worker: WorkerOfMap, work: MapWork) -> None:
        checkpoint = partial(run_in_thread, worker.checkpoint)
        await work.work_on(offered.needs, checkpoint, worker, workers=self._processors, seconds=offered.seconds)


async def _end_when_cancelled(worker: WorkerOfMap) -> None:
    """Ends the work on threads, which cancellation does not reach."""
    try:
        await anyio.sleep_forever()
    finally:
        worker.end()

"""The part of a process that works on maps of others: which it takes up, once each, and how it ends."""

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")

from rlm_mcp.cluster.backends import Cluster
from rlm_mcp.cluster.database import Database
from rlm_mcp.cluster.leases import Heartbeats
from rlm_mcp.cluster.map_worker import MapWorker
from rlm_mcp.cluster.maps import HeldMaps, MapHome
from rlm_mcp.cluster.notices import Notices
from rlm_mcp.cluster.objects import Objects
from rlm_mcp.cluster.repls import HeldRepls
from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.contexts.store.text_cache import TextCache
from rlm_mcp.errors import UnknownContext
from rlm_mcp.workspace.map_work import MapWork
from tests.rlm_mcp.cluster.map_items import NEEDS, Items

pytestmark = [pytest.mark.cluster, pytest.mark.anyio]

VALUE: dict[str, object] = {"value": "gAVLAS4=", "stdout": ""}


class Work:
    """Takes the place of MapWork: says that it is done with each item at once, or stands still."""

    def __init__(self) -> None:
        self.owners: list[str] = []
        self.checkpoints: list[bytes | None] = []
        self.failure: Exception | None = None
        self.ended = 0
        self.stands_still = False

    async def work_for(self, owner: str, work: Callable[[MapWork], Awaitable[None]]) -> None:
        self.owners.append(owner)
        await work(self)  # type: ignore[arg-type] # has the method that is used

    async def work_on(
        self, needs: object, checkpoint: Callable[[], Awaitable[bytes | None]], supply: Any, **options: object
    ) -> None:
        assert (needs, options) == (NEEDS, {"workers": 2, "seconds": 30.0})
        if self.failure is not None:
            raise self.failure
        self.checkpoints.append(await checkpoint())
        with anyio.CancelScope(shield=True):  # as work on threads, which cancellation does not reach
            await run_in_thread(self._work, supply)

    def _work(self, supply: Any) -> None:
        items = supply.exchange({})
        while items is not None:
            time.sleep(0.02)
            items = supply.exchange({} if self.stands_still else dict.fromkeys(items, VALUE))
        self.ended += 1


@pytest.fixture
def held() -> HeldMaps:
    return HeldMaps()


@pytest.fixture
async def map_worker(
    database: Database, objects: Objects, held: HeldMaps, tmp_path: Path
) -> AsyncIterator[tuple[MapWorker, Work]]:
    """One that serves."""
    work = Work()
    with (
        Heartbeats(database, renewals=[held.renew]) as heartbeats,
        Notices(database) as notices,
        TextCache(tmp_path / "texts") as cache,
    ):
        cluster = Cluster(
            database=database,
            objects=objects,
            heartbeats=heartbeats,
            notices=notices,
            held_repls=HeldRepls(),
            held_maps=held,
            cache=cache,
            state_key=b"",
        )
        worker = MapWorker(cluster, work.work_for, processors=2)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.serve)
                yield worker, work
                tasks.cancel_scope.cancel()


@asynccontextmanager
async def offered(database: Database, objects: Objects, held: HeldMaps, items: Items) -> AsyncIterator[MapHome]:
    """A map of another process, whose lease is renewed."""
    home = MapHome(database, objects, items, owner=secrets.token_hex(6))
    with held.at_home(home.token), Heartbeats(database, renewals=[held.renew]):
        await run_in_thread(home.offer, NEEDS, "another")
        yield home
        await run_in_thread(home.withdraw)


async def step_until(home: MapHome, is_reached: Callable[[], bool]) -> None:
    while not is_reached():
        assert await run_in_thread(home.step)
        await anyio.sleep(0.01)


async def test_a_map_is_worked_on_for_its_owner_to_its_end_and_only_once(
    map_worker: tuple[MapWorker, Work], database: Database, objects: Objects
) -> None:
    _, work = map_worker
    items = Items(20)
    async with offered(database, objects, HeldMaps(), items) as home:
        await step_until(home, lambda: len(items.finished) == 20)
        assert work.checkpoints == [b"a checkpoint"]
        owner = home.owner
    while not work.ended:  # noqa: ASYNC110 - the work does not tell
        await anyio.sleep(0.01)
    assert work.owners == [owner]


async def test_a_worker_that_is_stopped_gives_its_items_back_at_once(
    map_worker: tuple[MapWorker, Work], database: Database, objects: Objects
) -> None:
    worker, work = map_worker
    work.stands_still = True
    items = Items(20)
    async with offered(database, objects, HeldMaps(), items) as home:
        await step_until(home, lambda: bool(items.elsewhere and work.checkpoints))
        worker.stop()
        await step_until(home, lambda: items.left == 20)
    assert work.ended == 1


async def test_what_prevents_the_work_is_a_sentence_in_the_log_and_the_next_map_is_worked_on(
    map_worker: tuple[MapWorker, Work], database: Database, objects: Objects, caplog: pytest.LogCaptureFixture
) -> None:
    _, work = map_worker
    work.failure = UnknownContext("there is no context 'c'")
    items = Items(4)
    async with offered(database, objects, HeldMaps(), items) as home:
        while not work.owners:
            assert await run_in_thread(home.step)
    work.failure = None
    async with offered(database, objects, HeldMaps(), items) as home:
        await step_until(home, lambda: len(items.finished) == 4)
    told = [record.getMessage() for record in caplog.records if record.name == "rlm_mcp.cluster.map_worker"]
    assert told == ["this process does not work on a map of another one: there is no context 'c'"]


async def test_a_process_that_offers_a_map_itself_works_on_no_other(
    map_worker: tuple[MapWorker, Work], database: Database, objects: Objects, held: HeldMaps
) -> None:
    _, work = map_worker
    items = Items(4)
    with held.at_home("one of its own"):
        async with offered(database, objects, HeldMaps(), items) as home:
            await anyio.sleep(0.3)
            assert await run_in_thread(home.step)
    assert work.owners == []

"""Maps whose items several processes work on, some of which die, stand still or are cut off."""

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")

from rlm_mcp.bucket_address import BucketAddress
from rlm_mcp.cluster.addresses import parse_database
from rlm_mcp.cluster.database import Database
from rlm_mcp.cluster.maps import (
    MOST_OUTCOME_BYTES,
    HeldMaps,
    MapHome,
    RowMaps,
    WorkerOfMap,
    find_map,
    sweep_maps,
)
from rlm_mcp.cluster.objects import BucketUnusable, ObjectMissing, Objects, owner_prefix
from rlm_mcp.cluster.schema import prepare_schema
from rlm_mcp.redact import Secret
from tests.peers.cluster import BUCKET, PostgresServer, access_to, postgres_server
from tests.rlm_mcp.cluster.map_items import NEEDS, Items

pytestmark = pytest.mark.cluster

VALUE: dict[str, object] = {"value": "gAVLAS4=", "stdout": "printed\n"}


class Offered:
    """A map of a home, and its workers, none of which has a process that renews its lease."""

    def __init__(self, database: Database, objects: Objects, items: Items, owner: str) -> None:
        self.database, self.objects, self.items = database, objects, items
        self.owner = owner
        self.home = MapHome(database, objects, items, owner=owner)
        self.home.offer(NEEDS, "home")

    def worker(self, processors: int = 1) -> WorkerOfMap:
        worker = WorkerOfMap(self.database, self.objects, self.home.token, node="other")
        assert worker.join(processors)
        return worker

    def expire(self, table: str) -> None:
        query = f"UPDATE {table} SET held_until = clock_timestamp() WHERE token = %s"  # noqa: S608 - of the tests
        self.database.rows(query, (self.home.token,))

    @property
    def object_keys(self) -> list[str]:
        return list(self.objects.keys(f"{owner_prefix(self.owner)}/maps/"))

    @property
    def row_counts(self) -> list[int]:
        counts = []
        for table in ("rlm_maps", "rlm_map_workers", "rlm_map_items"):
            query = f"SELECT count(*) FROM {table} WHERE token = %s"  # noqa: S608 - likewise
            ((count,),) = self.database.rows(query, (self.home.token,))
            counts.append(count)
        return counts


@pytest.fixture
def offer(database: Database, objects: Objects) -> Iterator[Callable[[Items], Offered]]:
    offered: list[Offered] = []

    def offer(items: Items) -> Offered:
        offered.append(Offered(database, objects, items, secrets.token_hex(6)))
        return offered[-1]

    yield offer
    for one in offered:
        one.home.withdraw()


def test_a_worker_gets_the_checkpoint_and_items_and_its_outcomes_reach_the_home(
    offer: Callable[[Items], Offered],
) -> None:
    items = Items(6)
    offered = offer(items)
    worker = offered.worker()
    assert (worker.exchange({}), items.saved) == ([], 0)
    assert offered.home.step()
    assert worker.checkpoint() == b"a checkpoint"
    assert sorted(worker.exchange({}) or ()) == [4, 5]
    assert worker.exchange({4: VALUE}) == [5]
    assert offered.home.step()
    assert items.finished == {4: VALUE}
    assert sorted(worker.exchange({5: VALUE}) or ()) == [3]
    assert offered.home.step()
    assert items.finished.keys() == {4, 5}
    offered.home.withdraw()
    assert (items.elsewhere, offered.row_counts, offered.object_keys) == (set(), [0, 0, 0], [])


def test_nothing_is_saved_until_a_worker_comes(offer: Callable[[Items], Offered]) -> None:
    items = Items(6)
    offered = offer(items)
    assert offered.home.step()
    assert (items.saved, items.elsewhere, offered.object_keys) == (0, set(), [])


def test_items_that_come_back_are_kept_at_home(offer: Callable[[Items], Offered]) -> None:
    items = Items(4)
    offered = offer(items)
    worker = offered.worker()
    offered.home.step()
    worker.exchange({3: None, 2: {"value": "x" * MOST_OUTCOME_BYTES}})
    offered.home.step()
    assert (sorted(items.kept), items.finished) == ([2, 3], {})


def test_the_items_of_a_dead_worker_go_to_another_and_what_it_writes_later_is_not_taken(
    offer: Callable[[Items], Offered],
) -> None:
    items = Items(2)
    offered = offer(items)
    dead = offered.worker()
    offered.home.step()
    assert dead.exchange({}) == [1]
    offered.expire("rlm_map_workers")
    offered.home.step()
    assert (items.came_back, items.left) == ([1], 2)
    living = offered.worker()
    offered.home.step()
    assert living.exchange({}) == [1]
    assert dead.exchange({1: {"value": "of a dead worker", "stdout": ""}}) is None
    offered.home.step()
    assert items.finished == {}
    living.exchange({1: VALUE})
    offered.home.step()
    assert items.finished == {1: VALUE}


def test_a_worker_that_leaves_gives_its_items_back(offer: Callable[[Items], Offered]) -> None:
    items = Items(4)
    offered = offer(items)
    worker = offered.worker()
    offered.home.step()
    assert items.elsewhere
    worker.leave()
    offered.home.step()
    assert (items.left, items.elsewhere) == (4, set())


def test_a_home_without_work_does_what_a_worker_has_not_begun(offer: Callable[[Items], Offered]) -> None:
    items = Items(4)
    offered = offer(items)
    worker = offered.worker()
    offered.home.step()
    items.take(2)
    items.elsewhere -= {0, 1}
    assert sorted(worker.exchange({}) or ()) == [2, 3]
    items.is_idle = True
    offered.home.step()
    offered.home.step()
    assert items.came_back == [2]
    assert worker.exchange({2: VALUE}) == [3]


def test_workers_leave_a_map_that_has_ended_and_one_whose_home_is_silent(offer: Callable[[Items], Offered]) -> None:
    ended, silent = offer(Items(4)), offer(Items(4))
    workers = [ended.worker(), silent.worker()]
    for one in (ended, silent):
        one.home.step()
    ended.home.withdraw()
    silent.expire("rlm_maps")
    assert [worker.exchange({}) for worker in workers] == [None, None]
    assert [worker.checkpoint() for worker in workers] == [None, None]
    late = WorkerOfMap(silent.database, silent.objects, silent.home.token, node="other")
    assert not late.join(1)


def test_only_maps_of_other_processes_are_found_first_those_with_few_workers(
    offer: Callable[[Items], Offered], database: Database
) -> None:
    crowded, lonely = offer(Items(4)), offer(Items(4))
    crowded.worker()
    found = find_map(database, node="other", known=())
    assert found is not None
    assert (found.token, found.owner, found.needs, found.seconds) == (lonely.home.token, lonely.owner, NEEDS, 30.0)
    found = find_map(database, node="other", known=[lonely.home.token])
    assert found is not None
    assert found.token == crowded.home.token
    assert find_map(database, node="home", known=()) is None


def test_a_map_that_cannot_be_saved_or_uploaded_goes_on_at_home(
    offer: Callable[[Items], Offered], database: Database
) -> None:
    items = Items(4, can_be_saved=False)
    offered = offer(items)
    offered.worker()
    assert not offered.home.step()
    nowhere = Objects(BucketAddress(bucket=BUCKET), access=access_to("http://127.0.0.1:1"), patience=0.2)
    offered = Offered(database, nowhere, Items(4), secrets.token_hex(6))
    offered.worker()
    with pytest.raises(BucketUnusable):
        offered.home.step()
    offered.home.withdraw()
    assert (offered.items.left, offered.items.elsewhere) == (4, set())


def test_a_checkpoint_that_is_missing_in_the_bucket_is_told_to_the_worker(offer: Callable[[Items], Offered]) -> None:
    offered = offer(Items(4))
    worker = offered.worker()
    offered.home.step()
    for key in offered.object_keys:
        offered.objects.delete(key)
    with pytest.raises(ObjectMissing, match=r"has no object of-.*/maps/"):
        worker.checkpoint()
    worker.leave()
    offered.home.step()
    assert offered.items.left == 4


def test_after_a_crash_of_the_database_all_items_are_at_home_and_workers_leave(
    postgres: PostgresServer, objects: Objects
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server(postgres.programs))
        database = stack.enter_context(Database(parse_database(Secret(server.url))))
        prepare_schema(database)
        items = Items(4)
        offered = Offered(database, objects, items, "a tenant")
        worker = offered.worker()
        offered.home.step()
        assert worker.exchange({}) is not None
        server.stop()
        assert sorted(worker.exchange({3: VALUE}) or ()) == [2]
        server.start()
        assert worker.exchange({}) is None
        assert offered.home.step()
        assert (items.left, items.elsewhere, items.finished) == (4, set(), {})


def test_the_rest_of_a_map_whose_home_died_is_swept(offer: Callable[[Items], Offered], database: Database) -> None:
    offered = offer(Items(4))
    offered.worker()
    offered.home.step()
    assert len(offered.object_keys) == 1
    sweep_maps(database, offered.objects)
    assert offered.row_counts == [1, 1, 2]
    offered.expire("rlm_maps")
    sweep_maps(database, offered.objects, left=0)
    assert (offered.row_counts, offered.object_keys) == ([0, 0, 0], [])


def test_leases_of_homes_and_workers_are_renewed_by_their_processes(
    offer: Callable[[Items], Offered], database: Database
) -> None:
    offered, held = offer(Items(4)), HeldMaps()
    worker = offered.worker()
    offered.expire("rlm_maps")
    offered.expire("rlm_map_workers")
    with held.at_home(offered.home.token), held.working(offered.home.token, worker.name):
        assert held.has_home
        held.renew(database)
    assert not held.has_home
    offered.home.step()
    assert worker.exchange({}) is not None


def test_a_map_that_ends_soon_is_not_offered_and_one_that_goes_on_is(database: Database, objects: Objects) -> None:
    owner = secrets.token_hex(6)

    def is_offered() -> bool:
        return bool(database.rows("SELECT 1 FROM rlm_maps WHERE owner = %s", (owner,)))

    with RowMaps(database, objects, HeldMaps(), owner=owner, node="home", offered_after=60.0)(Items(4), NEEDS):
        pass
    assert not is_offered()
    waiting = threading.Event()
    with RowMaps(database, objects, HeldMaps(), owner=owner, node="home", offered_after=0.01)(Items(4), NEEDS):
        while not is_offered():
            assert not waiting.wait(0.01)
    while is_offered():
        assert not waiting.wait(0.01)

"""Maps of `parallel_map` on which several processes work: rows in Postgres, and the waiting code as an object.

    OWNER/maps/TOKEN.state    the checkpoint of the session whose code waits

Theory of operation. The *home* of a map is the process whose code waits. When the code has computed for
OFFERED_AFTER_SECONDS and as much is left, the home offers the map: it makes a row under a token that is used once, and
goes on with its items. Processes that play runs look for such rows, at each notice and every few seconds, and become
*workers* of a map, each under a name that is used once. For the first of them, the home uploads the checkpoint. The
home alone decides which items a worker gets (allotments.py), by a row for each, into which the worker writes the
outcome.

    home     has a lease, renewed by the heartbeats of its process; when it expires, the workers leave
    worker   has a lease, too; when it expires, the home deletes its row, and with it those of its items

A worker whose row is gone, because it stood still or was cut off, writes nothing any more, as its statements find no
row. It asks no model and nobody else whatever it finds: host functions that do more than read the contexts are not
there (wasm_runtime/distributed.py). So there is nothing that could be paid twice.

All rows are needed only as long as the home lives. Those of workers and items are not logged, and gone after a crash of
the database: workers leave, and the home goes on alone.
"""

import json
import logging
import secrets
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlm_mcp.cluster.allotments import COMES_BACK, Allotments, MapRows, rest_seconds
from rlm_mcp.cluster.database import Cursor, Database, DatabaseUnusable, execute
from rlm_mcp.cluster.notices import notify
from rlm_mcp.cluster.objects import Objects, owner_prefix
from rlm_mcp.errors import StorageUnreachable
from rlm_mcp.records.lease import EXPIRY_SECONDS
from rlm_mcp.records.run import CHECKPOINT_MAX_BYTES
from rlm_mcp.repl.maps import MapItems, MapNeeds, MapOutcome

OFFERED_AFTER_SECONDS = 0.25
"""A map that is done sooner is not worth the copies."""

LOOK_SECONDS = 0.05

MOST_OUTCOME_BYTES = 16 << 20
"""An item with a longer outcome is worked on at home."""

LEFT_SECONDS = 3600.0
"""The rest of a map whose home died is deleted after this time."""

NOTICE_OWNER = ""
"""Notices of maps go to all processes, whichever tenant the map is of."""

_END_SECONDS = 2.0

_LEASED = "clock_timestamp() + %(expiry)s * interval '1 second'"

_OFFER = f"""
INSERT INTO rlm_maps (token, owner, node, image, packages, context_ids, seconds, checkpoint, held_until)
VALUES (%(token)s, %(owner)s, %(node)s, %(image)s, %(packages)s, %(context_ids)s, %(seconds)s, %(key)s, {_LEASED})
ON CONFLICT DO NOTHING
"""  # noqa: S608 - consists of constants

_FIND = """
SELECT token, owner, image, packages, context_ids, seconds FROM rlm_maps
WHERE held_until > clock_timestamp() AND node <> %(node)s AND token <> ALL(%(known)s)
ORDER BY (SELECT count(*) FROM rlm_map_workers WHERE rlm_map_workers.token = rlm_maps.token), token LIMIT 1
"""

_JOIN = f"""
INSERT INTO rlm_map_workers (token, worker, processors, held_until)
SELECT token, %(worker)s, %(processors)s, {_LEASED} FROM rlm_maps
WHERE token = %(token)s AND held_until > clock_timestamp() FOR KEY SHARE
ON CONFLICT (token, worker) DO UPDATE SET processors = excluded.processors RETURNING 1
"""  # noqa: S608 - consists of constants

_IS_WORKER = """
SELECT checkpoint, is_uploaded FROM rlm_maps JOIN rlm_map_workers USING (token)
WHERE token = %(token)s AND worker = %(worker)s AND rlm_maps.held_until > clock_timestamp()
"""

_REPORT = """
UPDATE rlm_map_items SET outcome = new.outcome
FROM unnest(%(items)s::integer[], %(outcomes)s::bytea[]) AS new (item, outcome)
WHERE token = %(token)s AND worker = %(worker)s AND rlm_map_items.item = new.item
"""

_DELETE_ITEMS = """
DELETE FROM rlm_map_items WHERE token = %(token)s
AND (item = ANY(%(useless)s) OR (item = ANY(%(recalled)s) AND outcome IS NULL))
"""

_ALLOT = """
INSERT INTO rlm_map_items (token, item, worker)
SELECT %(token)s, item, worker FROM unnest(%(items)s::integer[], %(workers)s::text[]) AS new (item, worker)
WHERE worker = ANY(%(living)s) ON CONFLICT DO NOTHING
"""

log = logging.getLogger(__name__)


class HeldMaps:
    """The leases of one process on maps, as their home and as a worker, which its heartbeats renew."""

    def __init__(self) -> None:
        self._homes: set[str] = set()
        self._workers: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<HeldMaps {len(self._homes)} offered, works on {len(self._workers)}>"

    @property
    def has_home(self) -> bool:
        """Whether this process offers a map, and so has enough to do."""
        return bool(self._homes)

    @contextmanager
    def at_home(self, token: str) -> Iterator[None]:
        """Renews the lease of a home during a block."""
        with self._lock:
            self._homes.add(token)
        try:
            yield
        finally:
            with self._lock:
                self._homes.discard(token)

    @contextmanager
    def working(self, token: str, worker: str) -> Iterator[None]:
        """Renews the lease of a worker during a block."""
        with self._lock:
            self._workers.add((token, worker))
        try:
            yield
        finally:
            with self._lock:
                self._workers.discard((token, worker))

    def renew(self, database: Database) -> None:
        """Renews all leases that are still there. Raises DatabaseUnusable."""
        with self._lock:
            homes, workers = list(self._homes), list(self._workers)
        if homes:
            query = f"UPDATE rlm_maps SET held_until = {_LEASED} WHERE token = ANY(%(tokens)s)"  # noqa: S608 - constants
            database.rows(query, {"tokens": homes, "expiry": EXPIRY_SECONDS}, patience=0)
        if workers:
            tokens, names = zip(*workers, strict=True)
            query = (
                f"UPDATE rlm_map_workers SET held_until = {_LEASED}"  # noqa: S608 - constants
                " FROM unnest(%(tokens)s::text[], %(workers)s::text[]) AS mine (token, worker)"
                " WHERE rlm_map_workers.token = mine.token AND rlm_map_workers.worker = mine.worker"
            )
            values = {"tokens": list(tokens), "workers": list(names), "expiry": EXPIRY_SECONDS}
            database.rows(query, values, patience=0)


class RowMaps:
    """Offers the maps of one owner to other processes. A `ShareMap`."""

    def __init__(
        self,
        database: Database,
        objects: Objects,
        held: HeldMaps,
        *,
        owner: str,
        node: str,
        offered_after: float = OFFERED_AFTER_SECONDS,
    ) -> None:
        """`objects` give up soon while the bucket is away; `node` names the process, which renews what is `held`."""
        self._database = database
        self._objects = objects
        self._held = held
        self._owner = owner
        self._node = node
        self._offered_after = offered_after

    def __repr__(self) -> str:
        return f"<RowMaps of {self._owner!r} in {self._database!r}>"

    @contextmanager
    def __call__(self, items: MapItems, needs: MapNeeds) -> Iterator[None]:
        """Offers the map if it takes long enough. What is left of it at the end is removed in the background."""
        ending = threading.Event()
        threading.Thread(target=self._offer, args=(items, needs, ending), name="map", daemon=True).start()
        try:
            yield
        finally:
            ending.set()

    def _offer(self, items: MapItems, needs: MapNeeds, ending: threading.Event) -> None:
        while not ending.wait(self._offered_after):
            rest = rest_seconds(items.left, item_seconds=items.item_seconds, processors=items.processors)
            if rest >= self._offered_after:
                break
        else:
            return
        home = MapHome(self._database, self._objects, items, owner=self._owner)
        try:
            with self._held.at_home(home.token):
                try:
                    home.offer(needs, self._node)
                    home.serve(ending)
                finally:
                    home.withdraw()
        except StorageUnreachable as error:
            log.debug("a map goes on without others: %s", error)
        except Exception:  # a bug here must not cost the map
            log.exception("a map goes on without others")


class MapHome:
    """One map that is offered to others. Belongs to one thread."""

    def __init__(self, database: Database, objects: Objects, items: MapItems, *, owner: str) -> None:
        self._database = database
        self._objects = objects
        self._items = items
        self.owner = owner
        self.token = secrets.token_hex(8)
        self._checkpoint = f"{owner_prefix(owner)}/maps/{self.token}.state"
        self._is_uploaded = False
        self._allotments = Allotments()
        self._key: dict[str, Any] = {"token": self.token, "expiry": EXPIRY_SECONDS}

    def __repr__(self) -> str:
        return f"<MapHome {self.token}, {len(self._allotments.items)} items elsewhere>"

    def offer(self, needs: MapNeeds, node: str) -> None:
        """Makes the row of the map, and tells all processes. Raises DatabaseUnusable."""
        values = self._key | {
            "owner": self.owner,
            "node": node,
            "image": needs.image,
            "packages": json.dumps(needs.packages),
            "context_ids": list(needs.context_ids),
            "seconds": self._items.seconds_left,
            "key": self._checkpoint,
        }

        def offer(cursor: Cursor) -> None:
            execute(cursor, _OFFER, values)
            notify(cursor, "map", NOTICE_OWNER, self.token)

        self._database.run(offer, patience=0)

    def serve(self, ending: threading.Event) -> None:
        """Gives items to workers and takes outcomes, until the map has ended or cannot be offered any more.

        Raises BucketUnusable, and DatabaseUnusable when the database has been away for as long as a lease lasts.
        """
        answered = time.monotonic()
        while not ending.wait(LOOK_SECONDS):
            try:
                if not self.step():
                    return
                answered = time.monotonic()
            except DatabaseUnusable:
                if time.monotonic() - answered > EXPIRY_SECONDS:
                    raise

    def step(self) -> bool:
        """Compares the items with their rows, and allots more; False when the map cannot be offered any more."""
        rows = self._database.run(self._look, patience=0)
        if rows is None or (rows.workers and not self._is_uploaded and not self._upload()):
            return False
        compared = self._allotments.compare(rows)
        for item, outcome in compared.finished.items():
            self._items.finish(item, json.loads(outcome))
        self._items.give_back(compared.refused, keep=True)
        self._items.give_back(compared.lost)
        recalled = self._allotments.surplus(rows.workers) if not self._items.left and self._items.is_idle else ()
        self._write(rows.workers, compared.useless, recalled)
        return True

    def _look(self, cursor: Cursor) -> MapRows | None:
        if execute(cursor, "SELECT 1 FROM rlm_maps WHERE token = %(token)s", self._key).fetchone() is None:
            return None
        expired = "DELETE FROM rlm_map_workers WHERE token = %(token)s AND held_until <= clock_timestamp()"
        execute(cursor, expired, self._key)
        query = "SELECT worker, processors FROM rlm_map_workers WHERE token = %(token)s ORDER BY worker"
        workers: dict[str, int] = dict(execute(cursor, query, self._key).fetchall())
        query = "SELECT item, worker, outcome FROM rlm_map_items WHERE token = %(token)s"
        items = {item: (worker, outcome) for item, worker, outcome in execute(cursor, query, self._key)}
        return MapRows(workers=workers, items=items)

    def _write(self, workers: Mapping[str, int], useless: Sequence[int], recalled: Sequence[int]) -> None:
        missing = self._allotments.missing(
            workers,
            left=self._items.left,
            item_seconds=self._items.item_seconds,
            home_processors=self._items.processors,
        )
        allotted = {worker: self._items.take(count) for worker, count in missing.items()}
        pairs = [(item, worker) for worker, items in allotted.items() for item in items]
        if not pairs and not useless and not recalled:
            return
        values = self._key | {
            "useless": list(useless),
            "recalled": list(recalled),
            "items": [item for item, _ in pairs],
            "workers": [worker for _, worker in pairs],
        }

        def write(cursor: Cursor) -> None:
            # First: workers lock their row before those of their items, too.
            query = "SELECT worker FROM rlm_map_workers WHERE token = %(token)s FOR KEY SHARE"
            living = [worker for (worker,) in execute(cursor, query, values)]
            execute(cursor, _DELETE_ITEMS, values)
            execute(cursor, _ALLOT, values | {"living": living})

        try:
            self._database.run(write, patience=0)
        except DatabaseUnusable:
            self._items.give_back([item for item, _ in pairs])
            raise
        for worker, items in allotted.items():  # those of a worker that has gone have no rows: they are lost
            self._allotments.add(worker, items)

    def _upload(self) -> bool:
        """Puts the checkpoint into the bucket, for the first worker. Raises BucketUnusable."""
        saved = self._items.checkpoint()
        data = b"" if saved is None else saved.to_bytes()
        if not 0 < len(data) <= CHECKPOINT_MAX_BYTES:
            return False
        self._is_uploaded = True
        self._objects.put(self._checkpoint, data)
        self._database.rows("UPDATE rlm_maps SET is_uploaded = true WHERE token = %(token)s", self._key, patience=0)
        return True

    def withdraw(self) -> None:
        """Takes all items back, and removes what the database and the bucket have of the map. Idempotent."""
        self._items.give_back(self._allotments.end())
        with suppress(StorageUnreachable):  # a sweep removes it
            if self._is_uploaded:
                query = "UPDATE rlm_maps SET held_until = clock_timestamp() WHERE token = %(token)s"
                self._database.rows(query, self._key, patience=_END_SECONDS)
                self._objects.delete(self._checkpoint)
            self._database.rows("DELETE FROM rlm_maps WHERE token = %(token)s", self._key, patience=_END_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedMap:
    """A map that another process offers."""

    token: str
    owner: str
    needs: MapNeeds
    seconds: float


def find_map(database: Database, *, node: str, known: Collection[str]) -> OfferedMap | None:
    """A map of another process with as few workers as possible, none of the `known` ones. Raises DatabaseUnusable."""
    rows = database.rows(_FIND, {"node": node, "known": list(known)}, patience=0)
    for token, owner, image, packages, context_ids, seconds in rows:
        needs = MapNeeds(context_ids=tuple(context_ids), image=image, packages=json.loads(packages))
        return OfferedMap(token=token, owner=owner, needs=needs, seconds=seconds)
    return None


class WorkerOfMap:
    """One worker of a map, by a name that is used once. A `MapSupply`."""

    def __init__(self, database: Database, objects: Objects, token: str, *, node: str) -> None:
        self._database = database
        self._objects = objects
        self.name = f"{node}/{secrets.token_hex(4)}"
        self._key: dict[str, Any] = {"token": token, "worker": self.name, "expiry": EXPIRY_SECONDS}
        self._ending = threading.Event()
        self._unreported: dict[int, bytes] = {}
        self._items: Sequence[int] = ()
        self._answered = time.monotonic()

    def __repr__(self) -> str:
        return f"<WorkerOfMap {self.name}, {len(self._items)} items>"

    def join(self, processors: int) -> bool:
        """Becomes a worker; False if the map is over. Raises DatabaseUnusable."""
        return bool(self._database.rows(_JOIN, self._key | {"processors": processors}, patience=0))

    def leave(self) -> None:
        """Gives up what has not been reported."""
        with suppress(DatabaseUnusable):  # the lease expires
            query = "DELETE FROM rlm_map_workers WHERE token = %(token)s AND worker = %(worker)s"
            self._database.rows(query, self._key, patience=_END_SECONDS)

    def end(self) -> None:
        """Ends the work soon. May be called from any thread."""
        self._ending.set()

    def checkpoint(self) -> bytes | None:
        """The state of the waiting code, for which it waits; None if the map is over.

        Raises ObjectMissing, DatabaseUnusable, BucketUnusable.
        """
        while not self._ending.wait(LOOK_SECONDS):
            rows = self._database.rows(_IS_WORKER, self._key, patience=EXPIRY_SECONDS)
            if not rows:
                return None
            ((key, is_uploaded),) = rows
            if is_uploaded:
                return self._objects.get(key)
        return None

    def exchange(self, finished: Mapping[int, MapOutcome | None]) -> Collection[int] | None:
        """Writes outcomes, which are kept for later while the database is away; the items that are allotted."""
        self._unreported |= {item: _encoded(outcome) for item, outcome in finished.items()}
        if self._ending.is_set():
            return None
        try:
            found = self._database.run(partial(self._exchange, self._unreported), patience=0)
        except DatabaseUnusable:
            if time.monotonic() - self._answered > EXPIRY_SECONDS:
                return None
            return [item for item in self._items if item not in self._unreported]
        self._answered = time.monotonic()
        self._unreported = {}
        self._items = found or ()
        return found

    def _exchange(self, outcomes: Mapping[int, bytes], cursor: Cursor) -> list[int] | None:
        if execute(cursor, _IS_WORKER, self._key).fetchone() is None:
            return None
        if outcomes:
            execute(cursor, _REPORT, self._key | {"items": list(outcomes), "outcomes": list(outcomes.values())})
        query = "SELECT item FROM rlm_map_items WHERE token = %(token)s AND worker = %(worker)s AND outcome IS NULL"
        return [item for (item,) in execute(cursor, query, self._key)]


def _encoded(outcome: MapOutcome | None) -> bytes:
    data = COMES_BACK if outcome is None else json.dumps(outcome).encode()
    return data if len(data) <= MOST_OUTCOME_BYTES else COMES_BACK


def sweep_maps(database: Database, objects: Objects, *, left: float = LEFT_SECONDS) -> None:
    """Deletes what is left of the maps of homes that died. Raises DatabaseUnusable, BucketUnusable."""
    query = "SELECT token, checkpoint FROM rlm_maps WHERE held_until <= clock_timestamp() - %s * interval '1 second'"
    rows = database.rows(query, (left,), patience=0)
    for _, key in rows:
        objects.delete(key)
    database.rows("DELETE FROM rlm_maps WHERE token = ANY(%s)", ([token for token, _ in rows],), patience=0)

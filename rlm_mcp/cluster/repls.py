"""The variables of the REPLs of `inspect_context`: rows in Postgres, and states as objects in the bucket.

    OWNER/repls/CONTEXT/EPOCH-….state    the variables after one cell

Theory of operation. A REPL has one row, and its holder is the process that has it open. Whoever takes the REPL gets a
new epoch, the fencing token: without it nothing is counted as a cell or becomes the state. A row is *busy* from when it
is taken, or a cell is counted, until a state with all of its cells is saved. One that is not busy is taken at once. Its
holder may have it open still; before its next cell, that one finds that its epoch has gone, and takes the REPL again.
For one that is busy, a process waits:

    wanted   it notes itself as the next, until WANTED_SECONDS after it last did, and tells the holder, which saves
    free     the holder has saved, or cannot: whoever is noted takes the REPL
    expired  the holder has not renewed its lease for EXPIRY_SECONDS: it is dead, or cut off from the database

So the successor of a process that lives has the variables of all cells, and that of a dead one knows how many cells are
missing. States are kept like texts (blobs.py), by rows that name their objects:

    begun     it is being uploaded, or will be: its row is made when a cell is counted
    kept      at most one for each image of the sandbox
    dropped   another one has replaced it, newer ones needed the room, or the REPL was dropped; it is being deleted
"""

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from rlm_mcp.cluster.database import Cursor, Database, DatabaseUnusable, execute
from rlm_mcp.cluster.notices import Notices, notify
from rlm_mcp.cluster.objects import BRIEFLY_SECONDS, ObjectMissing, Objects, owner_prefix
from rlm_mcp.errors import StorageUnreachable
from rlm_mcp.records.lease import EXPIRY_SECONDS
from rlm_mcp.workspace.repl_states import (
    FOREIGN,
    MOST_BYTES,
    NOT_SAVED,
    ReplNews,
    StorageAway,
    TakenState,
    check_size,
)

WANTED_SECONDS = 2.0
"""A process that waits notes itself anew before that."""

UNUSED_SECONDS = 30 * 24 * 3600.0
"""A state that nobody has replaced for this long is deleted."""

UPLOAD_SECONDS = 3600.0
"""A state that is still not uploaded after this time belongs to a process that died."""

READY_SECONDS = UPLOAD_SECONDS / 2
"""A key is used within this time after its row was made: its object has to be there before the row is deleted."""

GONE = "their saved state is not in the bucket any more"

_SWEPT_AT_ONCE = 1_000

_LOCK = 0x726C70
"""The first half of the keys of owners' locks; catalogue.py and limits.py have others."""

_OF_REPL = "owner = %(owner)s AND context_id = %(context_id)s"
_LEASED = "holder = %(node)s, held_until = clock_timestamp() + %(expiry)s * interval '1 second'"
_IS_HELD = f"{_OF_REPL} AND epoch = %(epoch)s"

_IS_WAITING = "(wanted_by IS NOT NULL AND wanted_by <> %(node)s AND wanted_until > clock_timestamp())"
"""Somebody else is the next."""

# A lease that expired while the database was away belongs to a process that lives, and renews it now.
_TAKE = f"""
UPDATE rlm_repls SET epoch = nextval('rlm_repl_epochs'), busy = true, {_LEASED}, wanted_by = NULL, wanted_until = NULL
WHERE {_OF_REPL} AND NOT {_IS_WAITING} AND (NOT busy OR holder = %(node)s
    OR greatest(held_until, pg_postmaster_start_time() + %(expiry)s * interval '1 second') <= clock_timestamp())
RETURNING epoch, begun
"""  # noqa: S608 - consists of constants

_WANT = f"""
UPDATE rlm_repls SET wanted_by = %(node)s, wanted_until = clock_timestamp() + %(wanted)s * interval '1 second'
WHERE {_OF_REPL} AND NOT {_IS_WAITING}
"""  # noqa: S608 - consists of constants

_STATES = f"SELECT image = %(image)s, key, cells FROM rlm_repl_states WHERE {_OF_REPL} AND state = 'kept'"  # noqa: S608 - likewise
_COUNT = f"UPDATE rlm_repls SET begun = %(begun)s, busy = true, {_LEASED} WHERE {_IS_HELD} RETURNING epoch"  # noqa: S608 - likewise
_RELEASE = f"UPDATE rlm_repls SET busy = false WHERE {_IS_HELD} RETURNING {_IS_WAITING}"  # noqa: S608 - likewise
_SAVED = f"UPDATE rlm_repls SET busy = begun <> %(cells)s WHERE {_IS_HELD} RETURNING busy, {_IS_WAITING}"  # noqa: S608 - likewise

_BEGIN = f"""
INSERT INTO rlm_repl_states (key, owner, context_id, image, cells, bytes, state)
SELECT %(key)s, owner, context_id, '', 0, 0, 'begun' FROM rlm_repls WHERE {_IS_HELD}
ON CONFLICT (key) DO UPDATE SET state = 'begun'
"""  # noqa: S608 - consists of constants

_REPLACE = f"""
UPDATE rlm_repl_states SET state = 'dropped'
WHERE {_OF_REPL} AND image = %(image)s AND state = 'kept' AND key <> %(key)s
"""  # noqa: S608 - likewise

_KEEP = """
UPDATE rlm_repl_states SET state = 'kept', image = %(image)s, cells = %(cells)s, bytes = %(bytes)s,
    changed_at = clock_timestamp()
WHERE key = %(key)s
"""

_DROP_KEY = "UPDATE rlm_repl_states SET state = 'dropped' WHERE key = %(key)s"

_DROP = f"UPDATE rlm_repl_states SET state = 'dropped' WHERE {_OF_REPL} AND state = 'kept'"  # noqa: S608 - likewise

_DROP_OLDEST = """
UPDATE rlm_repl_states SET state = 'dropped' WHERE key IN (SELECT key FROM (
    SELECT key, sum(bytes) OVER (ORDER BY changed_at DESC, key) AS total FROM rlm_repl_states
    WHERE owner = %(owner)s AND state = 'kept') AS newest WHERE total > %(most)s)
"""

_NEWS: dict[str, ReplNews] = {"wanted": "wanted", "free": "free", "dropped": "dropped"}

log = logging.getLogger(__name__)


class HeldRepls:
    """The REPLs that one process has open, whose leases its heartbeats renew while they are busy."""

    def __init__(self) -> None:
        self._held: set[tuple[str, str, int]] = set()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<HeldRepls {len(self._held)}>"

    def add(self, owner: str, context_id: str, epoch: int) -> None:
        """Renews a lease from now on."""
        with self._lock:
            self._held.add((owner, context_id, epoch))

    def discard(self, owner: str, context_id: str, epoch: int) -> None:
        """Renews it no more."""
        with self._lock:
            self._held.discard((owner, context_id, epoch))

    def renew(self, database: Database) -> None:
        """Renews the leases of those that are busy. Raises DatabaseUnusable."""
        with self._lock:
            held = list(self._held)
        if held:
            owners, context_ids, epochs = zip(*held, strict=True)
            database.rows(
                "UPDATE rlm_repls SET held_until = clock_timestamp() + %s * interval '1 second'"
                " FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS mine (owner, context_id, epoch)"
                " WHERE rlm_repls.owner = mine.owner AND rlm_repls.context_id = mine.context_id"
                " AND rlm_repls.epoch = mine.epoch AND busy",
                (EXPIRY_SECONDS, list(owners), list(context_ids), list(epochs)),
                patience=0,
            )


class RowReplStates:
    """The states of one owner, as one process sees them. Any thread may use them."""

    def __init__(
        self,
        database: Database,
        objects: Objects,
        notices: Notices,
        held: HeldRepls,
        *,
        owner: str,
        node: str,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """`objects` give up soon while the bucket is away; `node` names the process, which renews what is `held`."""
        self.database = database
        self._objects = objects
        self._notices = notices
        self._held = held
        self.owner = owner
        self._node = node
        self._most_bytes = most_bytes
        self._ready: dict[str, _ReadyKey] = {}
        """for the next state of each context"""

    def __repr__(self) -> str:
        return f"<RowReplStates of {self.owner!r} in {self.database!r}>"

    # --- leases

    def take(self, context_id: str, image: str) -> TakenState | None:
        """Gives the state to the caller, or asks the process that uses the REPL to let it go."""
        values = self._of(context_id) | {"image": image, "wanted": WANTED_SECONDS}
        with _told():
            found = self.database.run(partial(self._take, values), patience=BRIEFLY_SECONDS)
        if found is None:
            return None
        epoch, begun, state, others = found
        self._held.add(self.owner, context_id, epoch)
        data, cells, lost = None, 0, FOREIGN if others else NOT_SAVED
        if state is not None:
            key, cells = state
            try:
                data = self._objects.get(key)
            except ObjectMissing:
                cells, lost = 0, GONE
            except StorageUnreachable as error:
                cells, lost = 0, _shortly(error)
            except BaseException:  # nobody would release a lease that the caller never got
                self._held.discard(self.owner, context_id, epoch)
                raise
        begun = max(begun, cells)
        if not begun or data is not None:
            lost = ""
        return TakenState(lease=str(epoch), begun=begun, data=data, cells=cells, lost=lost, is_usual=True)

    def _take(self, values: dict[str, object], cursor: Cursor) -> tuple[int, int, tuple[str, int] | None, bool] | None:
        """The epoch, the number of cells, the key and cells of the state, and whether there are any states.

        None where another process has to let the REPL go first.
        """
        insert = "INSERT INTO rlm_repls (owner, context_id) VALUES (%(owner)s, %(context_id)s) ON CONFLICT DO NOTHING"
        execute(cursor, insert, values)
        taken = execute(cursor, _TAKE, values).fetchone()
        if taken is None:
            execute(cursor, _WANT, values)
            self._tell(cursor, "wanted", values)
            return None
        states = execute(cursor, _STATES, values).fetchall()
        own = next(((key, cells) for is_own, key, cells in states if is_own), None)
        epoch, begun = taken
        return epoch, begun, own, bool(states)

    def count_cell(self, context_id: str, lease: str, begun: int) -> bool:
        """Notes the number of cells of the holder of the lease."""
        ready = self._take_ready(context_id, lease) or self._new_key(context_id, lease)
        values = self._of(context_id, lease) | {"begun": begun, "key": ready.key}

        def count(cursor: Cursor) -> bool:
            is_counted = execute(cursor, _COUNT, values).fetchone() is not None
            if is_counted:
                execute(cursor, _BEGIN, values)  # here, as a transaction of its own would make saving take longer
            return is_counted

        with _told():
            is_counted = self.database.run(count, patience=BRIEFLY_SECONDS)
        if is_counted:
            self._ready[context_id] = ready
        change = self._held.add if is_counted else self._held.discard
        change(self.owner, context_id, int(lease))
        return is_counted

    def is_held(self, context_id: str, lease: str) -> bool:
        """Whether nobody has taken or dropped the REPL."""
        query = f"SELECT 1 FROM rlm_repls WHERE {_IS_HELD}"  # noqa: S608 - constants
        with _told():
            return bool(self.database.rows(query, self._of(context_id, lease), patience=BRIEFLY_SECONDS))

    def release(self, context_id: str, lease: str) -> None:
        """Lets others take the REPL."""
        self._held.discard(self.owner, context_id, int(lease))
        values = self._of(context_id, lease)

        def release(cursor: Cursor) -> None:
            if execute(cursor, _RELEASE, values).fetchone() == (True,):
                self._tell(cursor, "free", values)

        with _told():
            self.database.run(release, patience=BRIEFLY_SECONDS)

    @contextmanager
    def listening(self, context_id: str, hear: Callable[[ReplNews], None]) -> Iterator[None]:
        """Calls `hear` on the event loop with what other processes tell."""
        loop = asyncio.get_running_loop()

        def tell(told: str | None) -> None:
            sender, news, named = (told or "  ").split(" ", 2)
            if sender != self._node and named == context_id:
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(hear, _NEWS.get(news, "free"))

        with self._notices.listening("repl", self.owner, tell):
            yield

    def _tell(self, cursor: Cursor, news: ReplNews, values: dict[str, object]) -> None:
        notify(cursor, "repl", self.owner, f"{self._node} {news} {values['context_id']}")

    def _of(self, context_id: str, lease: str = "0") -> dict[str, object]:
        """The values that statements about a REPL have."""
        return {
            "owner": self.owner,
            "context_id": context_id,
            "node": self._node,
            "expiry": EXPIRY_SECONDS,
            "epoch": int(lease),
        }

    # --- states

    def save(self, context_id: str, lease: str, image: str, cells: int, data: bytes) -> bool:
        """Uploads the state and makes it that of the REPL."""
        check_size(data)
        ready = self._take_ready(context_id, lease)
        key = (ready or self._new_key(context_id, lease)).key
        values = self._of(context_id, lease)
        values |= {"key": key, "image": image, "cells": cells, "bytes": len(data), "most": self._most_bytes}
        with _told():
            if ready is None and not self.database.run(partial(self._begin, values), patience=BRIEFLY_SECONDS):
                return False
            self._objects.put(key, data)
            return self.database.run(partial(self._keep, values), patience=BRIEFLY_SECONDS)

    def _take_ready(self, context_id: str, lease: str) -> "_ReadyKey | None":
        """A key that has a row and was not used, which nobody else gets."""
        ready = self._ready.pop(context_id, None)
        is_usable = ready is not None and ready.lease == lease and time.monotonic() < ready.made_at + READY_SECONDS
        return ready if is_usable else None

    def _new_key(self, context_id: str, lease: str) -> "_ReadyKey":
        key = f"{owner_prefix(self.owner)}/repls/{context_id}/{lease}-{secrets.token_hex(6)}.state"
        return _ReadyKey(key=key, lease=lease, made_at=time.monotonic())

    def delete_replaced(self) -> None:
        """Deletes the objects of this owner that newer ones have replaced."""
        with suppress(StorageUnreachable):
            delete_dropped(self.database, self._objects, owner=self.owner)

    def _begin(self, values: dict[str, object], cursor: Cursor) -> bool:
        """Notes an object that will be written, so that none is forgotten; False if another has taken the REPL."""
        return execute(cursor, _BEGIN, values).rowcount == 1

    def _keep(self, values: dict[str, object], cursor: Cursor) -> bool:
        """Makes an object the state of the REPL; False if another has taken the REPL."""
        _lock(cursor, self.owner)
        found = execute(cursor, _SAVED, values).fetchone()
        if found is None:
            execute(cursor, _DROP_KEY, values)
            return False
        execute(cursor, _REPLACE, values)
        execute(cursor, _KEEP, values)
        execute(cursor, _DROP_OLDEST, values)
        if found == (False, True):
            self._tell(cursor, "free", values)
        return True

    def drop(self, context_id: str) -> None:
        """Forgets the REPL; what is in the bucket is deleted with the next state of this owner, or within an hour."""
        values = self._of(context_id)

        def drop(cursor: Cursor) -> None:
            _lock(cursor, self.owner)
            execute(cursor, f"DELETE FROM rlm_repls WHERE {_OF_REPL}", values)  # noqa: S608 - constants
            execute(cursor, _DROP, values)  # not what is being uploaded: its upload finds that it is not needed
            self._tell(cursor, "dropped", values)

        with _told():
            self.database.run(drop, patience=BRIEFLY_SECONDS)

    def context_ids(self) -> set[str]:
        """The contexts whose REPLs have been taken and not dropped."""
        query = "SELECT context_id FROM rlm_repls WHERE owner = %s"
        with _told():
            return {context_id for (context_id,) in self.database.rows(query, (self.owner,), patience=BRIEFLY_SECONDS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReadyKey:
    """The key of a state to come."""

    key: str
    lease: str
    made_at: float


def delete_dropped(database: Database, objects: Objects, *, owner: str | None = None) -> int:
    """Deletes the objects of states that were dropped, those of one owner or of all; returns their number.

    Raises DatabaseUnusable, BucketUnusable.
    """
    rows = database.rows(
        "SELECT key FROM rlm_repl_states WHERE state = 'dropped' AND (%(owner)s::text IS NULL OR owner = %(owner)s)"
        " LIMIT %(most)s",
        {"owner": owner, "most": _SWEPT_AT_ONCE},
        patience=0,
    )
    keys = [key for (key,) in rows]
    for key in keys:
        objects.delete(key)
    if keys:
        database.run(partial(_forget, keys), patience=0)
    return len(keys)


def _forget(keys: Sequence[str], cursor: Cursor) -> None:
    """Deletes rows without waiting for the disk: objects of rows that come back are deleted again."""
    execute(cursor, "SET LOCAL synchronous_commit = off")
    execute(cursor, "DELETE FROM rlm_repl_states WHERE key = ANY(%s) AND state = 'dropped'", (keys,))


def sweep_states(
    database: Database, objects: Objects, *, unused: float = UNUSED_SECONDS, owner: str | None = None
) -> None:
    """Deletes the states that were not used for long, and what dead processes and failures have left.

    By default those of all owners. Raises DatabaseUnusable, BucketUnusable: the next sweep deletes the rest.
    """
    database.rows(
        "UPDATE rlm_repl_states SET state = 'dropped' WHERE changed_at <= clock_timestamp() - interval '1 second'"
        " * CASE state WHEN 'kept' THEN %(unused)s WHEN 'begun' THEN %(upload)s END"
        " AND (%(owner)s::text IS NULL OR owner = %(owner)s)",
        {"unused": unused, "upload": UPLOAD_SECONDS, "owner": owner},
        patience=0,
    )
    while delete_dropped(database, objects, owner=owner) == _SWEPT_AT_ONCE:
        pass


def _lock(cursor: Cursor, owner: str) -> None:
    """The states of an owner are counted, and dropped, by one transaction at a time."""
    execute(cursor, "SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, owner))


@contextmanager
def _told() -> Iterator[None]:
    """Makes an error of the storage one that the client of a REPL is told."""
    try:
        yield
    except StorageUnreachable as error:
        log.warning("variables of a REPL are not kept: %s", error)
        raise StorageAway(_shortly(error)) from error


def _shortly(error: StorageUnreachable) -> str:
    what = "database" if isinstance(error, DatabaseUnusable) else "bucket"
    return f"the {what} of the server cannot be used now"

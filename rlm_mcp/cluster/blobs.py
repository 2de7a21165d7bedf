"""Texts of contexts as objects in the bucket, read through a cache of files.

    OWNER/texts/ab/ab….TOKEN      one text
    OWNER/indexes/ab/ab….TOKEN    the ETag of a large text, and its line index

Theory of operation. The rows of `rlm_texts` are the truth, and each names an object whose key was never used before:

    begun      somebody uploads it
    placed     it is there
    kept       contexts have it; at most one for each text
    lost       kept, but it was missing or damaged when it was read; read again if nothing better is there
    dropped    no context has it any more
    swept      nothing takes it up any more; it is being deleted

A text becomes kept in the transaction that adds its context, and dropped in one that has found that no context has it.
Both hold the owner's lock (catalogue.py). So a text that one process drops while another registers it is kept in the
end, and is uploaded again at most. An object is deleted a day after it was begun, placed or dropped for the last time:
until then a registration may take it up, and a reader may still need it.

A text is registered again by uploading it under another key, so one that was lost is replaced by that. A text that is
fetched is indexed on the way, and its hash is verified. Of a large one that is not in the cache, lines are read by
ranges with the help of the index in the bucket; then the ETag of each answer is compared with that of the upload.
"""

import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from rlm_mcp.cluster.catalogue import RowCatalogue
from rlm_mcp.cluster.database import Database, execute
from rlm_mcp.cluster.objects import ObjectDiffers, ObjectMissing, Objects, owner_prefix
from rlm_mcp.contexts.store.blobs import INDEXES_KEPT, LocalText, StagedText
from rlm_mcp.contexts.store.text_cache import OBJECTS, TextCache, TextDiffers
from rlm_mcp.contexts.text.line_index import LineIndex, read_index
from rlm_mcp.contexts.text.reading import ReadBytes, read_bytes
from rlm_mcp.errors import StoreDamaged

READ_BY_RANGES_ABOVE = 4 << 20
"""Smaller texts are fetched whole: that takes hardly longer than one range of them."""

REQUESTS_AT_ONCE = 16
"""Of one registration or search: a request is mostly waiting."""

GRACE_SECONDS = 24 * 3600.0
_AT_ONCE = 1_000
"""Texts of which one statement is about."""


class ObjectBlobs:
    """The texts of one owner. Any thread may use them."""

    looked_for_at_once = REQUESTS_AT_ONCE

    def __init__(self, catalogue: RowCatalogue, objects: Objects, cache: TextCache) -> None:
        self._catalogue = catalogue
        self._database, self._owner = catalogue.database, catalogue.owner
        self._objects = objects
        self._cache = cache
        self._prefix = owner_prefix(catalogue.owner)
        self._known: dict[str, _Indexed] = {}
        self._places: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<ObjectBlobs of {self._owner!r} in {self._objects!r}>"

    # --- registering

    def link_to(self, link: Path, blob: str, *, size: int) -> bool:
        """Links a text of the cache, which survives its deletion; False if it is not there."""
        return self._cache.files(self._prefix).link_to(link, blob, size=size)

    def place(self, texts: Sequence[StagedText], *, check: Callable[[], object]) -> None:
        """Uploads texts of which there is no object. Raises BucketUnusable, DatabaseUnusable."""
        check()
        there = self._blobs_with([text.blob for text in texts], "kept", "placed", "dropped")
        for some in _batches(list({text.blob: text for text in texts if text.blob not in there}.values())):
            self._upload(some, check)

    def publish(self, texts: Sequence[StagedText], *, check: Callable[[], object]) -> None:
        """Makes texts kept that were placed, and leaves them in the cache. The caller holds the write lock."""
        for some in _batches(texts):  # the database ends a transaction that waits for file systems too long
            blobs = [text.blob for text in some]
            there = self._blobs_with(blobs, "kept") | self._take_up(blobs)
            missing = list({text.blob: text for text in some if text.blob not in there}.values())
            if missing:  # they were swept since they were placed, or found to be lost
                self._upload(missing, check)
                self._take_up([text.blob for text in missing])
            self._leave("lost", "swept", blobs)
            for text in some:
                check()
                self._cache.keep(self._prefix, text)

    def _upload(self, texts: Sequence[StagedText], check: Callable[[], object]) -> None:
        """Writes objects, which the database knows before they are there, so that none is forgotten."""
        keys = [f"{self._prefix}/texts/{text.blob[:2]}/{text.blob}.{secrets.token_hex(6)}" for text in texts]
        self._database.rows(
            "INSERT INTO rlm_texts (key, owner, blob, bytes, state) SELECT key, %s, blob, bytes, 'begun'"
            " FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS new (key, blob, bytes) ON CONFLICT DO NOTHING",
            (self._owner, keys, [text.blob for text in texts], [text.counts.bytes for text in texts]),
        )
        threads = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="upload")
        try:
            for _ in threads.map(self._put, keys, texts):
                check()
        finally:  # those under way are waited for: their files are deleted next
            threads.shutdown(cancel_futures=True)
        self._database.rows(
            "UPDATE rlm_texts SET state = 'placed', changed_at = clock_timestamp()"
            " WHERE key = ANY(%s) AND state = 'begun'",
            (keys,),
        )

    def _put(self, key: str, text: StagedText) -> None:
        etag = self._objects.put(key, text.path)
        if text.counts.bytes > READ_BY_RANGES_ABOVE:
            index = text.path.with_suffix(".index").read_bytes()
            self._objects.put(_index_key(key), etag.encode() + b"\n" + index)

    def _take_up(self, blobs: Collection[str]) -> set[str]:
        """Makes texts kept of which there is an object, but none that is kept."""
        rows = execute(
            self._catalogue.cursor,
            "UPDATE rlm_texts SET state = 'kept', changed_at = clock_timestamp() WHERE state IN ('placed', 'dropped')"
            " AND key IN (SELECT DISTINCT ON (blob) key FROM rlm_texts AS one WHERE owner = %(owner)s"
            " AND blob = ANY(%(blobs)s) AND state IN ('placed', 'dropped') AND NOT EXISTS (SELECT FROM rlm_texts"
            " WHERE owner = one.owner AND blob = one.blob AND state = 'kept')"
            " ORDER BY blob, changed_at DESC) RETURNING blob",
            {"owner": self._owner, "blobs": list(blobs)},
        ).fetchall()
        return {blob for (blob,) in rows}

    def _blobs_with(self, blobs: Collection[str], *states: str) -> set[str]:
        rows = self._catalogue.rows(
            "SELECT blob FROM rlm_texts WHERE owner = %s AND blob = ANY(%s) AND state = ANY(%s)",
            (self._owner, list(blobs), list(states)),
        )
        return {blob for (blob,) in rows}

    # --- reading

    def prepare(self, blobs: Collection[str]) -> None:
        """Asks the database once where many texts lie; each answer is used once."""
        missing = [blob for blob in blobs if blob not in self._places and not self._cache.has((self._prefix, blob))]
        if len(missing) > 1:
            self._places = {}  # of texts that nobody looked for after all
        for some in _batches(missing):
            rows = self._catalogue.rows(
                "SELECT DISTINCT ON (blob) blob, key FROM rlm_texts WHERE owner = %s AND blob = ANY(%s)"
                " AND state IN ('kept', 'lost') ORDER BY blob, state = 'kept' DESC, changed_at DESC",
                (self._owner, list(some)),
            )
            self._places.update(rows)

    def local_text(self, blob: str, size: int) -> LocalText:
        """The text in a file of the cache. Raises StoreDamaged, StoreFull, BucketUnusable, DatabaseUnusable."""
        name, key = (self._prefix, blob), ""
        if prepared := self._places.pop(blob, ""):
            with suppress(ObjectMissing, TextDiffers):  # it was registered again meanwhile, under another key
                return self._cache.hold(name, size, lambda: self._objects.pieces(prepared))

        def fetch() -> Iterator[bytes]:
            nonlocal key
            key, _ = self._kept(blob)
            return self._objects.pieces(key)

        try:
            return self._cache.hold(name, size, fetch)
        except (ObjectMissing, TextDiffers) as error:
            self._database.rows("UPDATE rlm_texts SET state = 'lost' WHERE key = %s AND state = 'kept'", (key,))
            reason = "is missing" if isinstance(error, ObjectMissing) else "holds another text than was stored"
            raise StoreDamaged(
                f"the object {key} in {self._objects.address.shown} {reason}: restore it from a backup, or register it"
                " again"
            ) from error

    def part_reader(self, blob: str, size: int) -> ReadBytes | None:
        """Reads parts of a large text that is not in the cache by ranges, if its index is in the bucket."""
        if size <= READ_BY_RANGES_ABOVE or self._cache.hold_if_there((self._prefix, blob), size) is not None:
            return None
        return None if self._indexed(blob) is None else partial(self._read_part, blob, size)

    def _read_part(self, blob: str, size: int, start: int, end: int) -> bytes:
        start, end = max(start, 0), min(end, size)
        tried = ""
        while (known := self._indexed(blob)) is not None and known.key != tried:
            try:
                return self._objects.get_range(known.key, start, end, etag=known.etag)
            except (ObjectMissing, ObjectDiffers):  # perhaps it was registered again, and has another key
                tried = known.key
                self._known.pop(blob, None)
        return read_bytes(self.local_text(blob, size).path, start, end)  # which says what is wrong with it

    def _indexed(self, blob: str) -> "_Indexed | None":
        """The index of a large text as it is in the bucket. Raises StoreDamaged for a text that is not kept."""
        if (known := self._known.get(blob)) is None:
            key, _ = self._kept(blob)
            try:
                etag, _, index = self._objects.get(_index_key(key)).partition(b"\n")
                known = _Indexed(key=key, etag=etag.decode(), index=read_index(index, key))
            except (ObjectMissing, ValueError):  # of an earlier version, or damaged: the text itself is fetched
                return None
            if len(self._known) >= INDEXES_KEPT:
                self._known.clear()
            self._known[blob] = known
        return known

    def index(self, blob: str) -> LineIndex:
        """The line index of a text, which is fetched if neither is there."""
        files = self._cache.files(self._prefix)
        try:
            return files.index(blob)
        except StoreDamaged:
            _, size = self._kept(blob)
            if size > READ_BY_RANGES_ABOVE and (known := self._indexed(blob)) is not None:
                return known.index
            text = self.local_text(blob, size)
            index = files.index(blob)
            del text  # until here its file had to stay
            return index

    def _kept(self, blob: str) -> tuple[str, int]:
        """The key of the object with a text, and its size. Raises StoreDamaged."""
        rows = self._catalogue.rows(
            "SELECT key, bytes FROM rlm_texts WHERE owner = %s AND blob = %s AND state IN ('kept', 'lost')"
            " ORDER BY state = 'kept' DESC, changed_at DESC LIMIT 1",
            (self._owner, blob),
        )
        if not rows:
            raise StoreDamaged(f"{self._objects.address.shown} has no text {blob}: register it again")
        ((key, size),) = rows
        return key, size

    # --- removing

    def delete(self, blobs: Sequence[str]) -> int:
        """Drops texts and returns their size together. The caller holds the write lock.

        Objects stay for a day, and files in caches until the next `forget_dropped`.
        """
        sizes: dict[str, int] = {}
        for some in _batches(blobs):
            sizes |= self._leave("kept", "dropped", some) | self._leave("lost", "swept", some)
        return sum(sizes.values())

    def names(self) -> Iterator[str]:
        """The hashes of all texts that contexts have, or had when they were removed."""
        query = "SELECT DISTINCT blob FROM rlm_texts WHERE owner = %s AND state IN ('kept', 'lost')"
        for (blob,) in self._catalogue.rows(query, (self._owner,)):
            yield blob

    def _leave(self, state: str, following: str, blobs: Collection[str]) -> dict[str, int]:
        """Moves texts from one state to the one that follows when no context has them; returns their sizes."""
        rows = execute(
            self._catalogue.cursor,
            "UPDATE rlm_texts SET state = %s, changed_at = clock_timestamp()"
            " WHERE owner = %s AND blob = ANY(%s) AND state = %s RETURNING blob, bytes",
            (following, self._owner, list(blobs), state),
        ).fetchall()
        return dict(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Indexed:
    """A large text of the bucket that can be read by ranges."""

    key: str
    etag: str
    index: LineIndex


def _index_key(key: str) -> str:
    """The key of the index of the text with this key."""
    owner, _, name = key.partition("/texts/")
    return f"{owner}/indexes/{name}"


_T = TypeVar("_T")


def _batches(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]


def sweep_texts(database: Database, objects: Objects, *, grace: float = GRACE_SECONDS) -> int:
    """Deletes the objects of all owners that nothing will take up any more; returns their number.

    Raises DatabaseUnusable, BucketUnusable: the next sweep deletes the rest.
    """
    swept = 0
    while True:
        rows = database.rows(
            "UPDATE rlm_texts SET state = 'swept' WHERE key IN (SELECT key FROM rlm_texts WHERE state = 'swept'"
            " OR (state IN ('begun', 'placed', 'dropped')"
            " AND changed_at <= clock_timestamp() - %s * interval '1 second')"
            " LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING key, bytes",
            (grace, _AT_ONCE),
            patience=0,
        )
        keys = [key for key, _ in rows]
        for key, size in rows:
            objects.delete(key)
            if size > READ_BY_RANGES_ABOVE:
                objects.delete(_index_key(key))
        database.rows("DELETE FROM rlm_texts WHERE key = ANY(%s) AND state = 'swept'", (keys,), patience=0)
        swept += len(keys)
        if len(keys) < _AT_ONCE:
            return swept


def forget_dropped(database: Database, cache: TextCache) -> None:
    """Deletes what the cache has of texts that no context has any more. Raises DatabaseUnusable."""
    for some in _batches([key for key in cache.keys() if key[0] != OBJECTS]):  # noqa: SIM118 - not a mapping
        rows = database.rows(
            "SELECT split_part(key, '/', 1), blob FROM rlm_texts WHERE blob = ANY(%s) AND state IN ('kept', 'lost')",
            ([blob for _, blob in some],),
            patience=0,
        )
        cache.forget(set(some).difference(rows))

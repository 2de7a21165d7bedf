"""Texts of objects that contexts reference: read by ranges, or fetched whole into the cache of this process.

A search and code need files, so they fetch what they read; a small text is always fetched. Of a large one that is not
in the cache, lines and characters are read by ranges, for which its index is built as far as needed. The sizes of a
text are known once it was read to its end; they replace the estimates of its registration in the catalogue.

Each request compares the ETag of what it gets with that of the registration. What is in the cache was compared when it
was fetched: it remains the text that the context means, even if the object changes. Whether an object may be read is
checked each time, also for what is in the cache.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rlm_mcp.contexts.sources.bucket_access import BucketAccess
from rlm_mcp.contexts.store.blobs import INDEXED_ABOVE_BYTES, LocalText
from rlm_mcp.contexts.store.references import ObjectReference, ReferenceIndexes
from rlm_mcp.contexts.store.text_cache import OBJECTS, LateTextCache, OpenTextCache
from rlm_mcp.contexts.text.line_index import Counts, LineIndex
from rlm_mcp.contexts.text.reading import ReadBytes
from rlm_mcp.errors import SourceUnreachable

SMALL_BYTES = 4 << 20
"""A text up to this size is fetched whole: that takes hardly longer than one range of it."""

NOTED_AT_ONCE = 1_000
"""Texts whose sizes are known and not in the catalogue yet: a transaction for each would take longer than fetching."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSources:
    """Which objects may be sources, and the cache of their texts, by default one of the store alone."""

    access: BucketAccess
    cache: OpenTextCache | None = None


class ObjectTexts:
    """The texts of all objects that contexts of one store reference. Any thread may use it."""

    def __init__(
        self,
        sources: ObjectSources,
        indexes: ReferenceIndexes,
        *,
        cache_dir: Path,
        note: Callable[[Mapping[str, Counts]], None],
    ) -> None:
        """`cache_dir` is that of the store. `note` is called with exact counts by the keys of texts."""
        self._sources = sources
        self._indexes = indexes
        self._own_cache = LateTextCache(cache_dir)
        self._cache = sources.cache or self._own_cache
        self._note = note
        self._counted: dict[str, Counts] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def __repr__(self) -> str:
        return f"<ObjectTexts of {self._sources.access.allowed}>"

    def close(self) -> None:
        """Ends what is being fetched in the background, and leaves the cache to the next process."""
        self._closed.set()
        self.note_counts()
        self._own_cache.close()

    @property
    def access(self) -> BucketAccess:
        """Which objects may be read."""
        return self._sources.access

    def local_text(self, reference: ObjectReference, *, is_counted: bool) -> LocalText:
        """The text in a file, which is fetched if it is not in the cache. `is_counted` says that its sizes are exact.

        Raises SourceChanged, SourceRefused, SourceUnreachable, StoreFull.
        """
        self.access.check(reference.address)
        cache, name = self._cache(), reference.index_name
        text = cache.hold((OBJECTS, name), reference.size, lambda: self._pieces(reference), is_hash=False)
        if not is_counted:
            index = cache.files(OBJECTS).index(name)
            if reference.size > INDEXED_ABOVE_BYTES:
                self._indexes.keep(reference.key, name, index)
            self._count(reference, index.counts)
        return text

    def part_reader(self, reference: ObjectReference) -> ReadBytes | None:
        """Reads parts of a text by requests for them alone; None if it is in the cache or small."""
        self.access.check(reference.address)
        is_small = reference.size <= SMALL_BYTES
        return None if is_small or self._held(reference) is not None else partial(self._read, reference)

    def _read(self, reference: ObjectReference, start: int, end: int) -> bytes:
        start, end = max(start, 0), min(end, reference.size)
        if start >= end:
            return b""
        found, data = self._sources.access.bucket(reference.address).read(reference.object, start, end)
        reference.check(found)
        return data

    def index(self, reference: ObjectReference, far_enough: Callable[[Counts], bool], *, is_counted: bool) -> LineIndex:
        """The line index of a text: complete, or one whose counts satisfy `far_enough`."""
        read = self.part_reader(reference)
        if read is not None:
            index = self._indexes.index(_ReadObject(reference, read), far_enough)
            if not is_counted and index.counts.bytes == reference.size:
                self._count(reference, index.counts)
            return index
        text = self.local_text(reference, is_counted=is_counted)
        index = self._cache().files(OBJECTS).index(reference.index_name)
        del text  # until here its file had to stay
        return index

    def note_counts(self) -> None:
        """Brings what is known of the sizes of texts into the catalogue."""
        with self._lock:
            counted, self._counted = self._counted, {}
        if counted:
            self._note(counted)

    def _held(self, reference: ObjectReference) -> LocalText | None:
        """The text if it is in the cache."""
        return self._cache().hold_if_there((OBJECTS, reference.index_name), reference.size)

    def _pieces(self, reference: ObjectReference) -> Iterator[bytes]:
        for found, data in self._sources.access.bucket(reference.address).pieces(reference.object, reference.size):
            reference.check(found)
            if self._closed.is_set():
                raise SourceUnreachable(f"{reference.address.shown} was not fetched: rlm-mcp ends; try again")
            yield data

    def _count(self, reference: ObjectReference, counts: Counts) -> None:
        with self._lock:
            self._counted[reference.key] = counts
            is_much = len(self._counted) >= NOTED_AT_ONCE
        if is_much:
            self.note_counts()


@dataclass(frozen=True, slots=True)
class _ReadObject:
    """A referenced object as an index reads it."""

    reference: ObjectReference
    read: ReadBytes

    @property
    def key(self) -> str:
        return self.reference.key

    @property
    def index_name(self) -> str:
        return self.reference.index_name

    @property
    def size(self) -> int:
        return self.reference.size

"""Where the texts of contexts are, and how they are read: copies, files that are referenced, and objects of buckets."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from rlm_mcp.contexts.store.addressed_file import AddressedFile
from rlm_mcp.contexts.store.blobs import LocalText
from rlm_mcp.contexts.store.catalogue import FileRow
from rlm_mcp.contexts.store.object_texts import ObjectTexts
from rlm_mcp.contexts.store.protocols import Blobs
from rlm_mcp.contexts.store.references import (
    ObjectReference,
    Reference,
    ReferenceIndexes,
    is_object,
    is_reference,
    object_of,
    reference_of,
)
from rlm_mcp.contexts.text.line_index import Counts, LineIndex
from rlm_mcp.contexts.text.reading import ReadBytes, read_bytes
from rlm_mcp.contexts.types import FileEntry
from rlm_mcp.errors import StoreDamaged


class ContextTexts:
    """The texts of one store. Any thread may use it."""

    def __init__(self, blobs: Blobs, objects: ObjectTexts, indexes: ReferenceIndexes) -> None:
        self._blobs = blobs
        self._objects = objects
        self._indexes = indexes

    def __repr__(self) -> str:
        return f"<ContextTexts in {self._blobs!r}>"

    def addressed(self, row: FileRow) -> AddressedFile:
        """The text, to be read by lines and characters."""
        location = self._location(row)
        by_requests = location.part_reader()
        return AddressedFile(
            row=row,
            read=by_requests or location.read,
            index=lambda far_enough: self.index(row, far_enough),
            is_request=by_requests is not None,
        )

    def _location(self, row: FileRow) -> "_TextLocation":
        return _TextLocation(partial(self.local_text, row), partial(self._part_reader, row))

    def _part_reader(self, row: FileRow) -> ReadBytes | None:
        """Reads parts of a text by requests for them alone, where that is better than fetching it."""
        if is_object(row.blob):
            return self._objects.part_reader(object_of(row.blob))
        return None if is_reference(row.blob) else self._blobs.part_reader(row.blob, row.bytes)

    def entry(self, row: FileRow) -> FileEntry:
        """The text as sources of code and searches see it: it is looked for when it is read."""
        location = self._location(row)
        return FileEntry(
            path=row.path,
            key=row.blob,
            locate=location,
            read=location.read,
            exact=row.exact,
            bytes=row.bytes,
            chars=row.chars,
            lines=row.lines,
            longest_line=row.longest_line,
            pages=row.pages,
        )

    def local_text(self, row: FileRow) -> LocalText:
        """The file that holds a text, checked against the catalogue. Raises SourceChanged, StoreDamaged."""
        if is_reference(row.blob):
            reference = reference_of(row.blob)
            if isinstance(reference, Reference):
                return LocalText(reference.check())
            return self._objects.local_text(reference, is_counted=row.exact)
        try:
            return self._blobs.local_text(row.blob, row.bytes)
        except StoreDamaged as error:
            raise StoreDamaged(f"{row.path} cannot be read: {error}") from error

    def index(self, row: FileRow, far_enough: Callable[[Counts], bool]) -> LineIndex:
        """The line index of a text: complete, or one whose counts satisfy `far_enough`."""
        if not is_reference(row.blob):
            if self._blobs.part_reader(row.blob, row.bytes) is None:
                self.local_text(row)
            return self._blobs.index(row.blob)
        reference = reference_of(row.blob)
        if isinstance(reference, ObjectReference):
            return self._objects.index(reference, far_enough, is_counted=row.exact)
        reference.check()
        return self._indexes.index(reference, far_enough)


class _TextLocation:
    """Where a text lies, which is looked for once. Its file stays there for the life of this object."""

    __slots__ = ("_find", "_find_part_reader", "_found")

    def __init__(self, find: Callable[[], LocalText], find_part_reader: Callable[[], ReadBytes | None]) -> None:
        self._find = find
        self._find_part_reader = find_part_reader
        self._found: LocalText | None = None

    def __call__(self) -> Path:
        if self._found is None:
            self._found = self._find()
        return self._found.path

    def part_reader(self) -> ReadBytes | None:
        """Reads parts of the text by requests; None if its file is better."""
        return None if self._found is not None else self._find_part_reader()

    def read(self, start: int, end: int) -> bytes:
        """The bytes `[start:end]`, by a request for them alone where that is better."""
        by_request = self.part_reader()
        return read_bytes(self(), start, end) if by_request is None else by_request(start, end)

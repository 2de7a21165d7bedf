"""The texts of one context, of which a session with code keeps many for long."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import overload

from rlm_mcp.contexts.store.catalogue import FileRow
from rlm_mcp.contexts.types import FileEntry

_NAMES = tuple(field.name for field in fields(FileRow))
_values = attrgetter(*_NAMES)


class ContextEntries(Sequence[FileEntry]):
    """The entries of a context by path, each made when it is first asked for."""

    def __init__(self, rows: Sequence[FileRow], make_entry: Callable[[FileRow], FileEntry]) -> None:
        self._rows: Sequence[FileRow | tuple[object, ...]] = rows
        self._make_entry = make_entry
        self._made: dict[int, FileEntry] = {}

    def __repr__(self) -> str:
        return f"<ContextEntries {len(self._made)} of {len(self._rows)} made>"

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> FileEntry: ...

    @overload
    def __getitem__(self, index: slice) -> list[FileEntry]: ...

    def __getitem__(self, index: int | slice) -> FileEntry | list[FileEntry]:
        """The same entry each time: it may hold what was found for it."""
        positions = range(len(self._rows))[index]
        return self._entry(positions) if isinstance(positions, int) else [self._entry(at) for at in positions]

    def _entry(self, position: int) -> FileEntry:
        entry = self._made.get(position)
        if entry is None:  # of two threads that make one, both get the same
            entry = self._made.setdefault(position, self._make_entry(_row(self._rows[position])))
        return entry

    def rows(self) -> Iterator[FileRow]:
        """What the catalogue has of each, without making its entry."""
        return map(_row, self._rows)

    def keep_long(self) -> None:
        """Keeps tuples of texts and numbers in the place of rows: a context may have 200,000 files.

        No garbage collection visits them, and each visit of rows would stop the process. Making entries takes longer.
        """
        self._rows = [_values(_row(row)) for row in self._rows]


def _row(row: FileRow | tuple[object, ...]) -> FileRow:
    return row if isinstance(row, FileRow) else FileRow(**dict(zip(_NAMES, row, strict=True)))  # type: ignore[arg-type] # its own values

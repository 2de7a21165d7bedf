"""The entries of a context: made when they are asked for, and kept."""

import gc
from pathlib import Path

from rlm_mcp.contexts.store.catalogue import FileRow
from rlm_mcp.contexts.store.entries import ContextEntries
from rlm_mcp.contexts.types import FileEntry, PageMark

MANY = 5_000
PAGES = (PageMark(line=1, label="Page 1"),)


def row_of(number: int) -> FileRow:
    return FileRow(path=f"{number}.txt", blob=f"{number}", bytes=number, chars=1, lines=1, longest_line=1, pages=PAGES)


def entry_of(row: FileRow) -> FileEntry:
    return FileEntry(
        path=row.path,
        key=row.blob,
        bytes=row.bytes,
        chars=row.chars,
        lines=row.lines,
        pages=row.pages,
        locate=Path,
        read=lambda *_: b"",
    )


def test_an_entry_is_made_when_it_is_first_asked_for_and_stays_the_same() -> None:
    made: list[str] = []

    def make(row: FileRow) -> FileEntry:
        made.append(row.path)
        return entry_of(row)

    entries = ContextEntries([row_of(number) for number in range(5)], make)
    assert entries[-1] is entries[4]
    assert entries[3:] == [entries[3], entries[4]]
    entries.keep_long()
    assert list(entries.rows()) == [row_of(number) for number in range(5)]
    assert made == ["4.txt", "3.txt"]
    assert entries[0] == entry_of(row_of(0))
    assert list(entries)[4] is entries[4]
    assert made == ["4.txt", "3.txt", "0.txt", "1.txt", "2.txt"]


def test_entries_that_are_kept_long_are_no_objects_for_the_garbage_collector_until_they_are_made() -> None:
    gc.collect()
    before = len(gc.get_objects())
    entries = ContextEntries(
        [FileRow(path=f"{n}", blob="", bytes=n, chars=1, lines=1, longest_line=1) for n in range(MANY)], entry_of
    )
    entries.keep_long()
    gc.collect()
    assert len(entries) == MANY
    assert len(gc.get_objects()) - before < MANY // 50

"""Which files are fetched before code reads them."""

from collections.abc import Iterable
from pathlib import Path

from rlm_mcp.contexts.types import FileEntry
from rlm_mcp.repl.read_ahead import AHEAD_BYTES, AHEAD_FILES, ReadAhead


def entries(sizes: Iterable[int]) -> list[FileEntry]:
    return [
        FileEntry(
            path=f"{number:04}.txt",
            key=str(number),
            bytes=size,
            chars=size,
            lines=1,
            locate=Path,
            read=lambda *_: b"",
        )
        for number, size in enumerate(sizes)
    ]


def read(files: list[FileEntry], positions: Iterable[int]) -> list[list[int]]:
    """The files that are fetched ahead while those at these positions are read."""
    fetched: list[list[int]] = []
    ahead = ReadAhead(files, lambda some: fetched.append([int(entry.key) for entry in some]))
    for position in positions:
        ahead.note(position)
    return fetched


def test_the_next_files_are_fetched_once_two_were_read_in_order() -> None:
    files = entries([1] * 1_000)
    assert read(files, [0]) == []
    assert read(files, [7, 8]) == [list(range(9, 8 + AHEAD_FILES))]


def test_reading_all_files_fetches_each_once_in_few_batches() -> None:
    fetched = read(entries([1] * 1_000), range(1_000))
    assert [number for batch in fetched for number in batch] == list(range(2, 1_000))
    assert len(fetched) <= 1_000 // (AHEAD_FILES // 2) + 1


def test_files_read_in_no_order_are_not_fetched_ahead() -> None:
    assert read(entries([1] * 1_000), [5, 3, 900, 1, 7, 2]) == []


def test_no_more_is_fetched_ahead_than_may_be_for_nothing() -> None:
    files = entries([AHEAD_BYTES // 4] * 100)
    assert read(files, [0, 1])[0] == [2, 3, 4, 5]
    assert read(entries([1, 1, AHEAD_BYTES + 1, 1]), [0, 1]) == []

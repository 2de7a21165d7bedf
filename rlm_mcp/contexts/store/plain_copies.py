"""Copies of texts without terminal colours, in which searches look, so that a pattern need not expect the codes.

They are made at the first search, kept for the life of the process, and hold the same lines.
"""

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from rlm_mcp.contexts.text.colours import ESCAPE, plain_pieces
from rlm_mcp.contexts.text.reading import read_bytes
from rlm_mcp.contexts.text.ripgrep import MAPPED_ABOVE_LINE_BYTES, Pattern, count_lines
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.contexts.types import FileEntry

COPIED_BYTES = 256 << 20
"""A larger text is searched as it is stored: copying it would take seconds."""

KEPT_BYTES = 1 << 30
"""Copies beyond this size in all are deleted, those used longest ago first."""

MOST_KNOWN = 1_000_000
"""Texts of which a process remembers that they have no colours."""


class PlainCopies:
    """The copies of one process, in a directory that is deleted with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._copies: OrderedDict[str, tuple[Path, int]] = OrderedDict()
        """by the keys of texts, as in what follows"""
        self._uncoloured: set[str] = set()
        self._numbers = count(1)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<PlainCopies {len(self._copies)} of {self._directory}>"

    def entries(self, files: Sequence[FileEntry], timeout: Timeout) -> list[FileEntry]:
        """The files, where those with colours are replaced by their copies as far as there is time to make them."""
        unknown = {
            entry.key: entry for entry in files if entry.key not in self._uncoloured and entry.key not in self._copies
        }
        uncoloured = self._without_colours(unknown.values(), timeout) if unknown else set()
        if not timeout.expired:
            with self._lock:
                if len(self._uncoloured) > MOST_KNOWN:
                    self._uncoloured.clear()
                self._uncoloured.update(uncoloured)
        return [
            entry if entry.key in self._uncoloured or entry.key in uncoloured else self._copied(entry)
            for entry in files
        ]

    def _without_colours(self, files: Collection[FileEntry], timeout: Timeout) -> set[str]:
        sought = {entry.blob: entry.longest_line > MAPPED_ABOVE_LINE_BYTES for entry in files}
        coloured = count_lines(Pattern(text=ESCAPE, literal=True), sought, timeout)
        return {entry.key for entry in files if entry.blob not in coloured}

    def _copied(self, entry: FileEntry) -> FileEntry:
        if entry.bytes > COPIED_BYTES:
            return entry
        with self._lock:
            if entry.key not in self._copies:
                try:
                    self._copies[entry.key] = self._copy(entry)
                except OSError:  # a full disk: the text is searched as it is stored
                    return entry
                self._make_room()
            self._copies.move_to_end(entry.key)
            copy, size = self._copies[entry.key]
        return replace(entry, locate=lambda: copy, read=partial(read_bytes, copy), bytes=size)

    def _copy(self, entry: FileEntry) -> tuple[Path, int]:
        self._directory.mkdir(parents=True, exist_ok=True)
        copy = self._directory / f"{next(self._numbers)}.txt"
        with entry.blob.open("rb") as source, copy.open("xb") as target:
            return copy, sum(map(target.write, plain_pieces(source)))

    def _make_room(self) -> None:
        while len(self._copies) > 1 and sum(size for _, size in self._copies.values()) > KEPT_BYTES:
            _, (copy, _) = self._copies.popitem(last=False)
            copy.unlink(missing_ok=True)

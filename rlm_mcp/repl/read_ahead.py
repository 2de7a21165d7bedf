"""Fetches texts before code reads them: code that goes through a context reads its files in order, one by one."""

from collections.abc import Callable, Iterator, Sequence

from rlm_mcp.contexts.types import FileEntry

AHEAD_FILES = 128
AHEAD_BYTES = 64 << 20
"""The most that is fetched before it is read, and so perhaps for nothing."""


class ReadAhead:
    """The reads of the files of one context. Threads may share it: what they miss is fetched when it is read."""

    def __init__(self, files: Sequence[FileEntry], fetch: Callable[[Sequence[FileEntry]], None]) -> None:
        """`fetch` starts to fetch files, and does not wait for them."""
        self._fetch = fetch
        self._files = files
        self._last = -2
        self._begun = 0

    def __repr__(self) -> str:
        return f"<ReadAhead {self._begun} of {len(self._files)} begun>"

    def note(self, position: int) -> None:
        """Notes that the file at this position is read. If the one before it was read last, the next are fetched."""
        is_next = position == self._last + 1
        self._last = position
        if not is_next:
            self._begun = position + 1
        elif self._begun - position <= AHEAD_FILES // 2:
            start = max(self._begun, position + 1)
            wanted = list(self._next(start, position + AHEAD_FILES))
            self._begun = start + len(wanted)
            if wanted:
                self._fetch(wanted)

    def _next(self, start: int, end: int) -> Iterator[FileEntry]:
        room = AHEAD_BYTES
        for entry in self._files[start:end]:
            room -= entry.bytes
            if room < 0:
                return
            yield entry

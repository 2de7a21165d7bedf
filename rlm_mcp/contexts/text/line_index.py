r"""The line index of a UTF-8 file: counts of lines and characters before every block.

Theory of operation. A file is divided into blocks of 64 KiB. For each block the index holds how many line ends and how
many characters come before it; a character belongs to the block of its first byte. Finding a line is then a bisection
and a scan of one block, whatever the lengths of the lines, and the index is 1/4096 of the size of the file. A line ends
with `\n`; `\r` stays in the text; a last line without a line end counts.

On disk: the header `HEADER`, then `lines_before` and `chars_before`, unsigned 64-bit, all in native byte order. The
file is mapped, so the index of 10 GB (2.5 MB) costs nothing until it is used.
"""

import mmap
import re
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

BLOCK_BYTES = 1 << 16
"""Small enough to scan in 20 microseconds, large enough to keep the index of any file small."""

HEADER = struct.Struct("=8sIIQQQQQ")
MAGIC = b"rlmlines"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Sizes of a text. `longest_line` is in bytes, without its line end."""

    bytes: int
    chars: int
    lines: int
    longest_line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineIndex:
    """The index of one file; both sequences have one entry for each block."""

    counts: Counts
    lines_before: Sequence[int]
    chars_before: Sequence[int]

    def block_of_line(self, line: int) -> int:
        """The block in which the 1-based `line` begins, or whose last byte is the line end before it."""
        return max(bisect_left(self.lines_before, line - 1) - 1, 0)

    def block_of_char(self, char: int) -> int:
        """The block that holds the first byte of the 0-based `char`."""
        return max(bisect_right(self.chars_before, char) - 1, 0)


class IndexBuilder:
    """Builds the index of a file that is fed in order, in pieces of any size."""

    def __init__(self) -> None:
        self._lines_before = array("Q")
        self._chars_before = array("Q")
        self._bytes = self._chars = self._line_ends = 0
        self._longest = 0
        self._line_start = 0

    def __repr__(self) -> str:
        return f"<IndexBuilder {self._bytes} bytes, {self._line_ends} line ends>"

    def feed(self, data: bytes) -> None:
        """Counts the next bytes of the file."""
        ascii_only = data.isascii()
        start = 0
        while start < len(data):
            room = -self._bytes % BLOCK_BYTES
            if room == 0:
                self._lines_before.append(self._line_ends)
                self._chars_before.append(self._chars)
                room = BLOCK_BYTES
            end = min(start + room, len(data))
            self._line_ends += data.count(b"\n", start, end)
            self._chars += end - start if ascii_only else characters_begun(data[start:end])
            self._bytes += end - start
            start = end
        self._measure_lines(data)

    def _measure_lines(self, data: bytes) -> None:
        """Finds lines longer than the longest so far; a regex skips the others, at 1 GB/s."""
        base = self._bytes - len(data)
        start = 0
        if self._line_start < base:
            line_end = data.find(b"\n")
            if line_end < 0:
                return
            self._longest = max(self._longest, base + line_end - self._line_start)
            start = line_end + 1
        while passed := re.compile(rb"(?:[^\n]{0,%d}+\n)*+" % self._longest).match(data, start):
            start = passed.end()
            line_end = data.find(b"\n", start)
            if line_end < 0:
                break
            self._longest = line_end - start
            start = line_end + 1
        self._line_start = base + start

    @property
    def bytes_seen(self) -> int:
        """How many bytes have been fed."""
        return self._bytes

    def counts(self) -> Counts:
        """Sizes of the text that has been fed, as if the file ended there."""
        rest = self._bytes - self._line_start
        return Counts(
            bytes=self._bytes,
            chars=self._chars,
            lines=self._line_ends + (1 if rest else 0),
            longest_line=max(self._longest, rest),
        )

    def index(self) -> LineIndex:
        """The index of the text that has been fed; feeding more does not change it."""
        return LineIndex(counts=self.counts(), lines_before=self._lines_before[:], chars_before=self._chars_before[:])


def build_index(data: bytes) -> LineIndex:
    """The index of a file that is held in memory."""
    builder = IndexBuilder()
    builder.feed(data)
    return builder.index()


def write_index(index: LineIndex, file: IO[bytes]) -> None:
    """Writes an index file; the caller makes it appear atomically."""
    counts = index.counts
    header = HEADER.pack(
        MAGIC,
        VERSION,
        BLOCK_BYTES,
        counts.bytes,
        counts.chars,
        counts.lines,
        counts.longest_line,
        len(index.lines_before),
    )
    file.write(header)
    array("Q", index.lines_before).tofile(file)
    array("Q", index.chars_before).tofile(file)


def map_index(path: Path) -> LineIndex:
    """Maps an index file. Raises ValueError when it is truncated or of another version."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return read_index(mapped, str(path))


def read_index(data: bytes | mmap.mmap, name: str) -> LineIndex:
    """The index in the bytes of an index file, whose name is for errors. Raises ValueError likewise."""
    if len(data) < HEADER.size:
        raise ValueError(f"{name} is too short to be a line index")
    magic, version, block, size, chars, lines, longest, blocks = HEADER.unpack_from(data)
    if (magic, version, block) != (MAGIC, VERSION, BLOCK_BYTES) or len(data) != HEADER.size + 16 * blocks:
        raise ValueError(f"{name} is not a line index of version {VERSION}")
    numbers = memoryview(data)[HEADER.size :].cast("Q")
    return LineIndex(
        counts=Counts(bytes=size, chars=chars, lines=lines, longest_line=longest),
        lines_before=numbers[:blocks],
        chars_before=numbers[blocks:],
    )


def characters_begun(block: bytes) -> int:
    """Counts the characters whose first byte is in `block`; in invalid UTF-8, all bytes but continuation bytes."""
    try:
        return len(block.lstrip(CONTINUATION_BYTES).decode())
    except UnicodeDecodeError:  # the last character continues in the next block, or the file is not valid UTF-8
        return len(block.translate(None, CONTINUATION_BYTES))


CONTINUATION_BYTES = bytes(range(0x80, 0xC0))

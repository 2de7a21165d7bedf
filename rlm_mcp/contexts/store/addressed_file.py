"""One file of a context, read by address: lines up to a number of characters, character ranges, offsets of lines."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from rlm_mcp.contexts.store.catalogue import FileRow
from rlm_mcp.contexts.text import reading
from rlm_mcp.contexts.text.line_index import BLOCK_BYTES, Counts, LineIndex
from rlm_mcp.contexts.text.reading import ReadBytes
from rlm_mcp.contexts.types import LineAddress, LineRange
from rlm_mcp.errors import OutOfRange


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressedFile:
    """A file that can be read by address.

    `index` is called with a predicate on the counts of the indexed part and returns an index that satisfies it, or a
    complete one. Where each read `is_request`, as little as possible is read, by one request.
    """

    row: FileRow
    read: ReadBytes
    index: Callable[[Callable[[Counts], bool]], LineIndex]
    is_request: bool = False

    def read_lines(self, start_line: int, end_line: int | None, *, max_chars: int) -> LineRange:
        """Reads lines; negative numbers count from the end. Raises OutOfRange."""
        if max_chars < 1:
            raise OutOfRange(f"max_chars {max_chars} leaves no room for text: ask for 1 or more")
        last_wanted = end_line if end_line is not None else -1 if start_line < 0 else start_line + max_chars
        counted_from_end = start_line < 0 or last_wanted < 0
        index = self.index(lambda counts: not counted_from_end and counts.lines > last_wanted)
        total = index.counts.lines
        first = start_line if start_line >= 0 else max(total + 1 + start_line, 1)
        last = min(total, last_wanted if last_wanted >= 0 else total + 1 + last_wanted)
        if not 1 <= first <= total or last < first:
            asked = f"{start_line:,} to {'the end' if end_line is None else f'{end_line:,}'}"
            raise OutOfRange(
                f"{self.row.path} has lines 1 to {total:,}, not {asked}: lines are counted from 1, the end is included"
            )
        return self._lines(index, first, last, max_chars)

    def _lines(self, index: LineIndex, first: int, last: int, max_chars: int) -> LineRange:
        """Cuts a text that is too long after a line, or within its first line if that alone is too long."""
        begins = index.block_of_line(first) * BLOCK_BYTES
        ends = index.block_of_line(last + 1) * BLOCK_BYTES
        most = begins + BLOCK_BYTES + 4 * (max_chars + 1)
        read = self._read_ahead(begins, ends + BLOCK_BYTES if ends < most else most)
        start = reading.byte_of_line(read, index, first)
        # If the lines end beyond all that can be returned, it does not matter where.
        end = reading.byte_of_line(read, index, last + 1) if ends < most else ends
        text = reading.head_of_bytes(read, start, end, max_chars=max_chars + 1)
        whole = len(text) <= max_chars
        if not whole:
            lines, line_end, _ = text[:max_chars].rpartition("\n")
            text = lines + line_end or text[:max_chars]
            last = first + max(text.count("\n") - 1, 0)
        return LineRange(
            path=self.row.path,
            start_line=first,
            end_line=last,
            text=text,
            truncated=not whole,
            next_start_line=last + 1 if last < index.counts.lines else None,
        )

    def read_chars(self, start: int, end: int) -> str:
        """Reads the characters `[start:end]`. Raises OutOfRange for negative bounds."""
        if start < 0 or end < 0:
            raise OutOfRange(f"characters {start:,} to {end:,} cannot be read: both are counted from 0")
        index = self.index(lambda counts: counts.chars > end)
        ends = (index.block_of_char(end) + 1) * BLOCK_BYTES
        read = self._read_ahead(index.block_of_char(start) * BLOCK_BYTES, ends)
        first = reading.byte_of_char(read, index, start)
        return reading.read_text(read, first, max(reading.byte_of_char(read, index, end), first))

    def locate_line(self, line: int) -> LineAddress:
        """The offsets and the page of the beginning of a line. Raises OutOfRange."""
        index = self.index(lambda counts: counts.lines > line)
        if not 1 <= line <= index.counts.lines:
            raise OutOfRange(f"{self.row.path} has lines 1 to {index.counts.lines:,}, not {line:,}")
        begins = index.block_of_line(line) * BLOCK_BYTES
        read = self._read_ahead(begins, begins + BLOCK_BYTES)
        byte = reading.byte_of_line(read, index, line)
        page = bisect_right([mark.line for mark in self.row.pages], line)
        return LineAddress(
            path=self.row.path,
            line=line,
            byte=byte,
            char=reading.char_of_byte(read, index, byte),
            page=self.row.pages[page - 1].label if page else None,
        )

    def _read_ahead(self, start: int, end: int) -> ReadBytes:
        return reading.held(self.read, start, min(end, self.row.bytes)) if self.is_request else self.read

"""One file of a context, read by address: lines up to a number of characters, character ranges, offsets of lines."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rlm_mcp.contexts.store.blobs import LocalText
from rlm_mcp.contexts.store.catalogue import FileRow
from rlm_mcp.contexts.text import reading
from rlm_mcp.contexts.text.line_index import Counts, LineIndex
from rlm_mcp.contexts.types import LineAddress, LineRange
from rlm_mcp.errors import OutOfRange


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressedFile:
    """A file that can be read by address.

    `index` is called with a predicate on the counts of the indexed part and returns an index that satisfies it, or a
    complete one.
    """

    row: FileRow
    text: LocalText
    index: Callable[[Callable[[Counts], bool]], LineIndex]

    @property
    def blob(self) -> Path:
        """The file with the text."""
        return self.text.path

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
        start = reading.byte_of_line(self.blob, index, first)
        end = reading.byte_of_line(self.blob, index, last + 1)
        text = reading.head_of_bytes(self.blob, start, end, max_chars=max_chars)
        whole = len(text) < max_chars or start + len(text.encode()) >= end
        if not whole:
            lines, line_end, _ = text.rpartition("\n")
            text = lines + line_end or text
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
        first = reading.byte_of_char(self.blob, index, start)
        return reading.read_text(self.blob, first, max(reading.byte_of_char(self.blob, index, end), first))

    def locate_line(self, line: int) -> LineAddress:
        """The offsets and the page of the beginning of a line. Raises OutOfRange."""
        index = self.index(lambda counts: counts.lines > line)
        if not 1 <= line <= index.counts.lines:
            raise OutOfRange(f"{self.row.path} has lines 1 to {index.counts.lines:,}, not {line:,}")
        byte = reading.byte_of_line(self.blob, index, line)
        page = bisect_right([mark.line for mark in self.row.pages], line)
        return LineAddress(
            path=self.row.path,
            line=line,
            byte=byte,
            char=reading.char_of_byte(self.blob, index, byte),
            page=self.row.pages[page - 1].label if page else None,
        )

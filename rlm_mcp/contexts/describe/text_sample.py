"""A sample of a text of any size: the whole text when it is small, else its beginning, its end and parts in between."""

from dataclasses import dataclass

from rlm_mcp.contexts.text.colours import ESCAPE, without_colours
from rlm_mcp.contexts.types import FileEntry

WHOLE_BYTES = 4 << 20
WHOLE_LINES = 30_000
"""A text up to this size is sampled whole; describing it then takes some tenths of a second."""

PLACES = 16
PLACE_BYTES = 1 << 16
PLACE_LINES = 1_000
"""A larger text is sampled at this many places, up to this size at each; its head and tail up to four times that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSample:
    """Whole lines of a text, without line ends and terminal colours; `is_coloured` says whether it has any.

    Line numbers are known only for `head`, which begins at line 1.
    """

    whole: bool
    is_coloured: bool
    head: tuple[str, ...]
    middle: tuple[str, ...]
    tail: tuple[str, ...]
    longest_line: int

    @property
    def lines(self) -> tuple[str, ...]:
        """All sampled lines in their order."""
        return self.head + self.middle + self.tail

    @property
    def text(self) -> str | None:
        """The whole text, if it was read whole."""
        return "\n".join(self.head) if self.whole else None


def take_sample(entry: FileEntry) -> TextSample:
    """Samples a text. Raises SourceChanged, StoreDamaged."""
    read, size = entry.read, entry.bytes
    if size <= WHOLE_BYTES and entry.lines <= WHOLE_LINES:
        whole = _lines(read(0, size), begins=True, ends=True)
        return _sample(whole, (), (), whole=True)
    edge = min(4 * PLACE_BYTES, size)
    head = _lines(read(0, edge), begins=True, ends=False)[: 4 * PLACE_LINES]
    tail = _lines(read(size - edge, size), begins=False, ends=True)[-4 * PLACE_LINES :]
    middle: list[str] = []
    for place in range(1, PLACES):
        start = size * place // PLACES
        found = _lines(read(start, min(start + PLACE_BYTES, size)), begins=False, ends=False)
        middle.extend(found[:PLACE_LINES])
    return _sample(head, tuple(middle), tail, whole=False)


def _sample(head: tuple[str, ...], middle: tuple[str, ...], tail: tuple[str, ...], *, whole: bool) -> TextSample:
    stored = head + middle + tail
    is_coloured = any(ESCAPE in line for line in stored)
    if is_coloured:
        head, middle, tail = (tuple(map(without_colours, lines)) for lines in (head, middle, tail))
    return TextSample(
        whole=whole, is_coloured=is_coloured, head=head, middle=middle, tail=tail, longest_line=_longest(stored)
    )


def _lines(data: bytes, *, begins: bool, ends: bool) -> tuple[str, ...]:
    """The lines that lie completely in a piece of a file; a piece without a line end is returned as it is."""
    lines = data.split(b"\n")
    if (ends and not lines[-1]) or (not ends and len(lines) > 1):
        lines = lines[:-1]
    if not begins and len(lines) > 1:
        lines = lines[1:]
    return tuple(line.decode(errors="replace").removesuffix("\r") for line in lines)


def _longest(lines: tuple[str, ...]) -> int:
    return max(map(len, lines), default=0)

"""A bounded look at a text of any size: whole when it is small, else its beginning, its end and places in between."""

from dataclasses import dataclass
from pathlib import Path

from rlm_mcp.contexts import reading

WHOLE_BYTES = 4 << 20
"""Up to here a text is looked at whole; that takes some tenths of a second."""

PLACES = 16
PLACE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Whole lines of a text, without line ends. Line numbers are known only for `head`, which begins at line 1."""

    size: int
    whole: bool
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


def take_sample(path: Path, size: int, *, whole_bytes: int = WHOLE_BYTES) -> Sample:
    """Look at a UTF-8 file of so many bytes."""
    if size <= whole_bytes:
        lines = _lines(reading.read_bytes(path, 0, size), begins=True, ends=True)
        return Sample(size=size, whole=True, head=lines, middle=(), tail=(), longest_line=_longest(lines))
    head = _lines(reading.read_bytes(path, 0, 4 * PLACE_BYTES), begins=True, ends=False)
    tail = _lines(reading.read_bytes(path, size - 4 * PLACE_BYTES, size), begins=False, ends=True)
    middle: list[str] = []
    for place in range(1, PLACES):
        start = size * place // PLACES
        middle.extend(_lines(reading.read_bytes(path, start, start + PLACE_BYTES), begins=False, ends=False))
    longest = max(_longest(head), _longest(tail), _longest(tuple(middle)))
    return Sample(size=size, whole=False, head=head, middle=tuple(middle), tail=tail, longest_line=longest)


def _lines(data: bytes, *, begins: bool, ends: bool) -> tuple[str, ...]:
    """Give the lines that lie whole in a piece of a file; a piece with no line end gives itself, cut."""
    lines = data.split(b"\n")
    if (ends and not lines[-1]) or (not ends and len(lines) > 1):
        lines = lines[:-1]
    if not begins and len(lines) > 1:
        lines = lines[1:]
    return tuple(line.decode(errors="replace").removesuffix("\r") for line in lines)


def _longest(lines: tuple[str, ...]) -> int:
    return max(map(len, lines), default=0)

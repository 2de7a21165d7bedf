"""What the three editors of texts share: their error, line ends, and cutting and pasting by position."""

from collections.abc import Iterable


class NotEditable(ValueError):
    """The text cannot be read, or not changed without risk; str() says why, as the end of a sentence."""


def line_end(text: str) -> str:
    """The line end that the text uses; that of Unix where it has none."""
    return "\r\n" if "\r\n" in text else "\n"


def position(text: str, at: int) -> str:
    """Where the character `at` stands, for people."""
    before = text.count("\n", 0, at)
    return f"line {before + 1}, column {at - text.rfind(chr(10), 0, at)}"


def splice(text: str, pieces: Iterable[tuple[int, int, str]]) -> str:
    """The text with each (start, end) replaced; the pieces do not overlap."""
    for start, end, new in sorted(pieces, reverse=True):
        text = text[:start] + new + text[end:]
    return text

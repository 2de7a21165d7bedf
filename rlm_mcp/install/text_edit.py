"""Shared parts of the JSON, TOML and YAML editors: their error, line ends, positions and replacement by position."""

from collections.abc import Iterable


class NotEditable(ValueError):
    """The text cannot be read, or cannot be changed safely; str() completes a sentence that begins with the file."""


def line_end(text: str) -> str:
    """The line end that the text uses, or that of Unix if it has none."""
    return "\r\n" if "\r\n" in text else "\n"


def position(text: str, at: int) -> str:
    """The line and column of a character, counted from 1."""
    before = text.count("\n", 0, at)
    return f"line {before + 1}, column {at - text.rfind(chr(10), 0, at)}"


def splice(text: str, pieces: Iterable[tuple[int, int, str]]) -> str:
    """The text with the part of each (start, end, replacement) replaced; the parts do not overlap."""
    for start, end, new in sorted(pieces, reverse=True):
        text = text[:start] + new + text[end:]
    return text

"""The part of a text that a terminal shows, and how much is left out."""

from dataclasses import dataclass

from rlm_mcp.redact import ellipsize, escape_controls

LINE_CHARS = 400
"""Shown of one line; a longer one is data and not meant to be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """The first and the last lines of a text of `total_lines` and `total_chars`, with control characters escaped."""

    first: tuple[str, ...]
    last: tuple[str, ...] = ()
    total_lines: int = 0
    total_chars: int = 0

    @property
    def left_out(self) -> int:
        """The number of lines that are not shown."""
        return self.total_lines - len(self.first) - len(self.last)


def excerpt(
    text: str, *, first: int, last: int = 0, total_chars: int | None = None, line_chars: int = LINE_CHARS
) -> Excerpt:
    """The `first` and `last` lines of a text. `total_chars` is its true length if it has been cut already."""
    lines = text.rstrip("\n").split("\n") if text.strip("\n") else []
    if len(lines) <= first + last + 1:  # the note that one line is left out takes a line too
        first, last = len(lines), 0
    return Excerpt(
        first=tuple(_line(line, line_chars) for line in lines[:first]),
        last=tuple(_line(line, line_chars) for line in lines[len(lines) - last :]) if last else (),
        total_lines=len(lines),
        total_chars=len(text) if total_chars is None else total_chars,
    )


def one_line(text: str, *, chars: int = LINE_CHARS) -> str:
    """A text as one line of at most `chars` characters, with control characters escaped."""
    words = " ".join(text[: chars * 4].split())
    return escape_controls(ellipsize(words, chars))


def _line(line: str, chars: int) -> str:
    cut = line.rstrip("\r")
    told = cut if len(cut) <= chars else f"{cut[:chars]}… ({len(cut):,} characters)"
    return escape_controls(told.expandtabs(4))

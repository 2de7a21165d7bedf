"""Terminal colours in a text: escape sequences that a reader of a log does not see, left out of what is described.

The stored text keeps them. No sequence holds a line end, so lines have the same numbers with and without them.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

ESCAPE = "\x1b"

_SEQUENCE = (
    r"\x1b(?:"
    r"\[[0-?]*[ -/]*[@-~]"  # control sequence: colours, movements of the cursor
    r"|\][^\x07\x1b\n]*(?:\x07|\x1b\\)"  # operating system command: links and titles
    r"|[()][0-9A-Za-z]"  # choice of a character set
    r"|[=>78DEHMNOZc])"
)
_IN_TEXT = re.compile(_SEQUENCE)
_IN_BYTES = re.compile(_SEQUENCE.encode())

PIECE_BYTES = 4 << 20
_LONGEST = 1 << 12
"""Bytes at the end of a piece in which a sequence may begin that does not end there."""


def without_colours(text: str) -> str:
    """The text as a terminal shows it."""
    return _IN_TEXT.sub("", text) if ESCAPE in text else text


def plain_pieces(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of a file without colours, in pieces; a sequence that a piece would cut is kept for the next one."""
    rest = b""
    while data := file.read(PIECE_BYTES):
        data = rest + data
        cut = data.rfind(b"\x1b", max(len(data) - _LONGEST, 0))
        rest = data[cut:] if cut >= 0 else b""
        yield _IN_BYTES.sub(b"", data[: len(data) - len(rest)])
    yield _IN_BYTES.sub(b"", rest)

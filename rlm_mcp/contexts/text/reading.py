"""Reading by address: lines, characters and bytes of a UTF-8 text with the help of its line index.

A text is anything that gives its bytes by ranges: a file of this machine, or an object of a bucket. No function holds
more than one block besides its result. Files are read, not mapped: a mapped file that another process truncates would
crash this one.
"""

from collections.abc import Callable
from pathlib import Path

from rlm_mcp.contexts.text.line_index import BLOCK_BYTES, CONTINUATION_BYTES, LineIndex, characters_begun
from rlm_mcp.errors import StoreDamaged

ReadBytes = Callable[[int, int], bytes]
"""Gives the bytes `[start:end]` of a text, fewer at its end."""


def read_bytes(path: Path, start: int, end: int) -> bytes:
    """Reads the bytes `[start:end]`. Raises StoreDamaged when the file cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            data = bytearray()
            while len(data) < end - start and (more := file.read(end - start - len(data))):
                data += more
    except OSError as error:
        raise StoreDamaged(f"{path} cannot be read ({error.strerror}): register it again") from error
    return bytes(data)


def held(read: ReadBytes, start: int, end: int) -> ReadBytes:
    """Reads `[start:end]` at once, and gives what reads these bytes from memory and all others as before."""
    data = read(start, end)

    def read_held(first: int, last: int) -> bytes:
        if start <= first and last <= start + len(data):
            return data[first - start : last - start]
        return read(first, last)

    return read_held


def byte_of_line(read: ReadBytes, index: LineIndex, line: int) -> int:
    """The byte offset of a 1-based line; the size of the file for the line after the last."""
    if line <= 1:
        return 0
    if line > index.counts.lines:
        return index.counts.bytes
    block = index.block_of_line(line)
    start = block * BLOCK_BYTES
    line_ends = line - 1 - index.lines_before[block]
    data = read(start, min(start + BLOCK_BYTES, index.counts.bytes))
    rest = data.split(b"\n", line_ends)[-1]
    return start + len(data) - len(rest)


def char_of_byte(read: ReadBytes, index: LineIndex, byte: int) -> int:
    """The 0-based number of the character that begins at a byte offset."""
    if byte >= index.counts.bytes:
        return index.counts.chars
    block = byte // BLOCK_BYTES
    data = read(block * BLOCK_BYTES, byte)
    return index.chars_before[block] + characters_begun(data)


def byte_of_char(read: ReadBytes, index: LineIndex, char: int) -> int:
    """The byte offset of a 0-based character; the size of the file for the one after the last."""
    if char >= index.counts.chars:
        return index.counts.bytes
    block = index.block_of_char(char)
    start = block * BLOCK_BYTES
    wanted = char - index.chars_before[block]
    data = read(start, min(start + BLOCK_BYTES, index.counts.bytes))
    if data.isascii():
        return start + wanted
    skipped = len(data) - len(data.lstrip(CONTINUATION_BYTES))
    text = data[skipped:].decode(errors="replace")[:wanted]
    if "\ufffd" not in text:
        return start + skipped + len(text.encode())
    begun = [at for at, byte in enumerate(data) if byte not in CONTINUATION_BYTES]  # as the index counts invalid UTF-8
    return start + (begun[wanted] if wanted < len(begun) else len(data))


def read_text(read: ReadBytes, start: int, end: int) -> str:
    """Reads the bytes `[start:end]`, which begin and end with whole characters, as text."""
    return read(start, end).decode(errors="replace")


def head_of_bytes(read: ReadBytes, start: int, end: int, *, max_chars: int) -> str:
    """Reads at most `max_chars` characters from `[start:end]`."""
    # So many bytes are at least so many characters, also if the last one is cut.
    return read(start, min(end, start + 4 * max_chars)).decode(errors="replace")[:max_chars]

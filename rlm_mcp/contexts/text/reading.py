"""Reading by address: lines, characters and bytes of a UTF-8 file with the help of its line index.

No function holds more than one block besides its result. Files are read, not mapped: a mapped file that another
process truncates would crash this one.
"""

from pathlib import Path

from rlm_mcp.contexts.text.line_index import BLOCK_BYTES, CONTINUATION_BYTES, LineIndex, characters_begun
from rlm_mcp.errors import StoreDamaged


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


def byte_of_line(path: Path, index: LineIndex, line: int) -> int:
    """The byte offset of a 1-based line; the size of the file for the line after the last."""
    if line <= 1:
        return 0
    if line > index.counts.lines:
        return index.counts.bytes
    block = index.block_of_line(line)
    start = block * BLOCK_BYTES
    line_ends = line - 1 - index.lines_before[block]
    data = read_bytes(path, start, start + BLOCK_BYTES)
    rest = data.split(b"\n", line_ends)[-1]
    return start + len(data) - len(rest)


def char_of_byte(path: Path, index: LineIndex, byte: int) -> int:
    """The 0-based number of the character that begins at a byte offset."""
    if byte >= index.counts.bytes:
        return index.counts.chars
    block = byte // BLOCK_BYTES
    data = read_bytes(path, block * BLOCK_BYTES, byte)
    return index.chars_before[block] + characters_begun(data)


def byte_of_char(path: Path, index: LineIndex, char: int) -> int:
    """The byte offset of a 0-based character; the size of the file for the one after the last."""
    if char >= index.counts.chars:
        return index.counts.bytes
    block = index.block_of_char(char)
    start = block * BLOCK_BYTES
    wanted = char - index.chars_before[block]
    data = read_bytes(path, start, start + BLOCK_BYTES)
    if data.isascii():
        return start + wanted
    skipped = len(data) - len(data.lstrip(CONTINUATION_BYTES))
    text = data[skipped:].decode(errors="replace")
    return start + skipped + len(text[:wanted].encode())


def read_text(path: Path, start: int, end: int) -> str:
    """Reads the bytes `[start:end]`, which begin and end with whole characters, as text."""
    return read_bytes(path, start, end).decode(errors="replace")


def head_of_bytes(path: Path, start: int, end: int, *, max_chars: int) -> str:
    """Reads at most `max_chars` characters from `[start:end]`."""
    data = read_bytes(path, start, min(end, start + 4 * max_chars))
    return data.decode(errors="ignore" if end > start + len(data) else "replace")[:max_chars]

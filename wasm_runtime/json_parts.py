"""Counting the values in a JSON text before it is read: its length says little about the objects that it becomes."""

from collections.abc import Iterable, Iterator, Sequence

# Long texts are looked through in slices, between which other threads may run.
_SLICE_BYTES = 1 << 16
_LISTS = (b"[", b"{")
_PARTS = (b",", *_LISTS)


def parts_beyond(line: bytes, limit: int) -> bool:
    """Whether a JSON text has more than `limit` commas and opening brackets outside strings."""
    return _beyond(line, _PARTS, limit)


def lists_beyond(line: bytes, limit: int) -> bool:
    """Whether a JSON text has more than `limit` lists and objects."""
    return _beyond(line, _LISTS, limit)


def _beyond(line: bytes, marks: Sequence[bytes], limit: int) -> bool:
    slices = [line[start : start + _SLICE_BYTES] for start in range(0, len(line), _SLICE_BYTES)]
    return _counts_beyond(slices, marks, limit) and _counts_beyond(_outside_strings(slices), marks, limit)


def _counts_beyond(slices: Iterable[bytes], marks: Sequence[bytes], limit: int) -> bool:
    count = 0
    for part in slices:
        count += sum(map(part.count, marks))
        if count > limit:
            return True
    return False


def _outside_strings(slices: Iterable[bytes]) -> Iterator[bytes]:
    """The parts of a JSON text in slices that are in no string. The last string may lack its end."""
    rest, is_inside = b"", False
    for part in slices:
        text = (rest + part).replace(b"\\\\", b"").replace(b'\\"', b"")
        rest = b"\\" if text.endswith(b"\\") else b""  # it escapes what the next slice begins with
        pieces = text.split(b'"')
        yield b'"'.join(pieces[1::2] if is_inside else pieces[::2])
        is_inside ^= len(pieces) % 2 == 0

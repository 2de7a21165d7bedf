"""Captured output of a guest: its beginning, its end, and its full length."""

from collections import deque

_NOTE = "\n… {count} bytes of output left out …\n"
# Every UTF-8 character has exactly one byte that is not in this set. Counting those bytes is ten times as fast as
# decoding, and works for output that is not UTF-8.
_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))


class Capture:
    """A `Device` that keeps about `limit` bytes at most: half from the beginning, half from the end."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self.clear()

    def clear(self) -> None:
        """Forget everything, for the next cell."""
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._dropped = 0
        self.chars = 0  # the full length, including what was dropped

    @property
    def truncated(self) -> bool:
        """Whether something in the middle was dropped."""
        return self._dropped > 0

    def text(self) -> str:
        """Return what was kept, with a note in the middle when something was dropped."""
        tail = b"".join(self._tail)
        if not self._dropped:
            return (bytes(self._head) + tail).decode("utf-8", "replace")
        excess = max(0, len(tail) - self._half)
        note = _NOTE.format(count=self._dropped + excess)
        return self._head.decode("utf-8", "ignore") + note + tail[excess:].decode("utf-8", "ignore")

    def read(self, n: int) -> bytes:  # noqa: ARG002 - Device's signature
        """Return nothing: output cannot be read back."""
        return b""

    def write(self, data: memoryview) -> int:
        """Take all of it."""
        self.add(bytes(data))
        return len(data)

    def add(self, piece: bytes) -> None:
        """Add a piece of output."""
        self.chars += len(piece.translate(None, _CONTINUATION_BYTES))
        room = self._half - len(self._head)
        if room > 0:
            self._head += piece[:room]
            piece = piece[room:]
        if not piece:
            return
        if len(piece) > self._half:
            self._dropped += len(piece) - self._half
            piece = piece[-self._half :]
        self._tail.append(piece)
        self._tail_bytes += len(piece)
        # Only whole pieces are dropped, so up to one piece more than half the limit is held; `text` cuts it.
        while self._tail_bytes - len(self._tail[0]) >= self._half:
            gone = len(self._tail.popleft())
            self._tail_bytes -= gone
            self._dropped += gone

"""Standard output and error: text is gathered in a buffer whose place the host knows.

The host reads what is still in the buffer when a cell is stopped by a trap, so nothing printed is lost, and
a print costs no host call. Layout: four bytes that count what follows them, then the text.
"""

import io
import os

_CAPACITY = 1 << 14
_HEADER = 4
_write = os.write


class Stream(io.TextIOBase):
    """A text stream to a descriptor, flushed when its buffer is full and after each cell."""

    encoding = "utf-8"
    errors = "backslashreplace"  # a lone surrogate is shown, not raised

    def __init__(self, fd, name):
        self._fd = fd
        self.name = name
        self.pending = bytearray(_HEADER + _CAPACITY)
        self._end = _HEADER

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        data = text.encode("utf-8", "backslashreplace")
        start = self._end
        end = start + len(data)
        if end > _HEADER + _CAPACITY:
            self.flush()
            start, end = _HEADER, _HEADER + len(data)
            if len(data) > _CAPACITY:
                while data:
                    data = data[_write(self._fd, data) :]
                return len(text)
        self.pending[start:end] = data
        self._end = end
        self.pending[:_HEADER] = (end - _HEADER).to_bytes(_HEADER, "little")
        return len(text)

    def flush(self):
        data = bytes(self.pending[_HEADER : self._end])
        self.drop()
        while data:
            data = data[_write(self._fd, data) :]

    def drop(self):
        """Forget what is pending."""
        self._end = _HEADER
        self.pending[:_HEADER] = bytes(_HEADER)

    def writable(self):
        return True

    def fileno(self):
        return self._fd

    def isatty(self):
        return False

    @property
    def buffer(self):
        """The binary stream underneath, for the few that write bytes."""
        return _Binary(self)


class _Binary(io.RawIOBase):
    def __init__(self, stream):
        self._stream = stream

    def write(self, data):
        self._stream.flush()
        return _write(self._stream.fileno(), data)

    def writable(self):
        return True

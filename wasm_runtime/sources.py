"""Where the bytes of a read-only mounted file come from.

A host file is read with positioned reads straight into guest memory: one copy, done by the kernel. A mapping
would need the same copy, and a file truncated by another process would then kill the host with SIGBUS; a
positioned read comes back short, which is EIO for the guest. The guest never sees the host's path.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from wasm_runtime.errno import Errno

# Linux moves at most 0x7ffff000 bytes in one call.
LONGEST_READ = 1 << 30


class Handle(Protocol):
    """One opening of a source, owned by one open file."""

    def read_into(self, offset: int, target: memoryview) -> int:
        """Fill target, which lies wholly inside the file, from offset; return 0 or a negated `Errno`."""

    def close(self) -> None:
        """Give back what the opening holds."""


class Source(Protocol):
    """The bytes of one mounted file. Immutable, so clones of a tree share it."""

    size: int
    mtime_ns: int | None

    def open(self) -> Handle | int:
        """Return a handle, or a negated `Errno`."""


class BytesSource:
    """Bytes that the host already holds. It is its own handle: there is nothing to open."""

    mtime_ns: int | None = None

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data).toreadonly().cast("B")
        self.size = len(self._data)

    def open(self) -> Handle:
        return self

    def read_into(self, offset: int, target: memoryview) -> int:
        target[:] = self._data[offset : offset + len(target)]
        return 0

    def close(self) -> None:
        pass


class MissingSource:
    """A file that was mounted when a dump was made and is not mounted now: it has a size and cannot be read."""

    mtime_ns: int | None = None

    def __init__(self, size: int) -> None:
        self.size = size

    def open(self) -> int:
        return -Errno.EIO


class HostFile:
    """A regular file of the host, opened at the guest's first read.

    Size and identity are taken when it is mounted. A file that has since vanished, shrunk or been replaced by
    another is EIO; one that grew keeps the size it had. Raises OSError when the path cannot be read now, and
    ValueError when it is no regular file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve(strict=True)
        if not self._path.is_file():
            raise ValueError(f"{path} is not a regular file: only regular files can be mounted")
        facts = self._path.stat()
        self.size = facts.st_size
        self.mtime_ns: int | None = facts.st_mtime_ns
        self._identity = (facts.st_dev, facts.st_ino)

    def open(self) -> Handle | int:
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            fd = os.open(self._path, flags)
        except OSError:
            return -Errno.EIO
        facts = os.fstat(fd)
        if (facts.st_dev, facts.st_ino) != self._identity or facts.st_size < self.size:
            os.close(fd)
            return -Errno.EIO
        return _HostHandle(fd)


class _HostHandle:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read_into(self, offset: int, target: memoryview) -> int:
        done = 0
        while done < len(target):
            try:
                n = _read_at(self._fd, offset + done, target[done : done + LONGEST_READ])
            except OSError:
                return -Errno.EIO
            if n == 0:  # the file has shrunk since it was opened
                return -Errno.EIO
            done += n
        return 0

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        with suppress(OSError):
            self.close()


def _read_at(fd: int, offset: int, target: memoryview) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [target], offset)
    os.lseek(fd, offset, os.SEEK_SET)  # Windows; the handle belongs to one open file, so the position is ours
    data = os.read(fd, min(len(target), 1 << 24))
    target[: len(data)] = data
    return len(data)

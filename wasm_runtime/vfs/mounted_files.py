"""The sources of read-only mounted files.

A host file is opened, checked and read for every read of the guest, directly into guest memory: one copy, made by the
kernel, and about 6 us for the rest. A mapping would need the same copy, and a file truncated by another process would
kill the host with SIGBUS. With descriptors that stay open, a guest that opens many files could use up the host's. The
guest never sees the host's path.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from wasm_runtime.errno import Errno

# Linux moves at most 0x7ffff000 bytes in one call.
_LONGEST_READ = 1 << 30

_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)


class MountSource(Protocol):
    """The bytes of one mounted file. Clones of a tree share it, so it keeps no state of a reader."""

    size: int
    mtime_ns: int | None

    def read_into(self, offset: int, target: memoryview) -> int:
        """Fill target from offset; the span must lie inside the file. Return 0 or a negated `Errno`."""


class BytesSource:
    """Bytes that the host already holds."""

    mtime_ns: int | None = None

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data).toreadonly().cast("B")
        self.size = len(self._data)

    def read_into(self, offset: int, target: memoryview) -> int:
        """Copy the bytes."""
        target[:] = self._data[offset : offset + len(target)]
        return 0


class MissingSource:
    """A file that was open when a dump was made, and is not mounted in the tree that loads the dump."""

    mtime_ns: int | None = None

    def __init__(self, size: int) -> None:
        self.size = size

    def read_into(self, offset: int, target: memoryview) -> int:  # noqa: ARG002 - Source's signature
        """Fail with EIO."""
        return -Errno.EIO


class HostFile:
    """A regular file of the host.

    Its size and identity are recorded when it is mounted. If it vanishes, shrinks or is replaced, reads give EIO; if
    it grows, the guest sees the recorded size. Raises OSError if the path does not exist, and ValueError if it is
    not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        facts = self._path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError(f"{path} is not a regular file: only regular files can be mounted")
        self.size = facts.st_size
        self.mtime_ns: int | None = facts.st_mtime_ns
        self._identity = (facts.st_dev, facts.st_ino)

    def read_into(self, offset: int, target: memoryview) -> int:
        """Read from the file; EIO if it has changed as described above."""
        try:
            fd = os.open(self._path, _OPEN_FLAGS)
        except OSError:
            return -Errno.EIO
        try:
            facts = os.fstat(fd)
            if (facts.st_dev, facts.st_ino) != self._identity or facts.st_size < self.size:
                return -Errno.EIO
            done = 0
            while done < len(target):
                n = _read_at(fd, offset + done, target[done : done + _LONGEST_READ])
                if n == 0:  # it shrank between the check and the read
                    return -Errno.EIO
                done += n
        except OSError:
            return -Errno.EIO
        finally:
            os.close(fd)
        return 0


class LateFile:
    """A regular file of the host whose size is known, and which is looked for when the guest first reads it.

    `find(*args)` returns its path, or raises OSError if it cannot be had; then, or if it has another size, reads give
    EIO, and the next read looks again. What holds for a `HostFile` holds from then on. Where many files share a `find`,
    and `args` are numbers and texts, each is one object for the garbage collector.
    """

    __slots__ = ("_args", "_file", "_find", "mtime_ns", "size")

    def __init__(self, find: Callable[..., Path], *args: object, size: int, mtime_ns: int | None = None) -> None:
        self.size = size
        self.mtime_ns = mtime_ns
        self._find = find
        self._args = args
        self._file: HostFile | None = None

    def read_into(self, offset: int, target: memoryview) -> int:
        """Read from the file."""
        if self._file is None:
            try:
                file = HostFile(self._find(*self._args))
            except (OSError, ValueError):
                return -Errno.EIO
            if file.size != self.size:
                return -Errno.EIO
            self._file = file
        return self._file.read_into(offset, target)


def _read_at(fd: int, offset: int, target: memoryview) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [target], offset)
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, min(len(target), 1 << 24))  # Windows has no positioned read into a buffer
    target[: len(data)] = data
    return len(data)

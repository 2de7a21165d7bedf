"""The descriptor table: small numbers that refer to open files.

An open file holds an offset and status flags; descriptors made by `dup` share one open file.
"""

from __future__ import annotations

from wasm_runtime.errno import Errno
from wasm_runtime.vfs.flags import O_ACCMODE, O_RDWR, O_WRONLY

MOST_DESCRIPTORS = 1024


class OpenFile:
    """A node that was opened. `flags` holds the access mode and the status flags that F_GETFL returns."""

    __slots__ = ("flags", "ino", "offset")

    def __init__(self, ino: int, flags: int, offset: int = 0) -> None:
        self.ino = ino
        self.flags = flags
        self.offset = offset

    @property
    def readable(self) -> bool:
        """Whether it was opened for reading."""
        return self.flags & O_ACCMODE != O_WRONLY

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self.flags & O_ACCMODE in (O_WRONLY, O_RDWR)


class Descriptors:
    """Open files by number. A new one gets the lowest free number, as POSIX requires."""

    def __init__(self) -> None:
        self.files: dict[int, OpenFile] = {}
        self.close_on_exec: set[int] = set()
        self._lowest = 0  # no number below this one is free

    def add(self, file: OpenFile, *, lowest: int = 0, close_on_exec: bool = False) -> int:
        """Assign the lowest free number from `lowest` on to file, and return it; or return -EMFILE."""
        fd = max(lowest, self._lowest)
        while fd in self.files:
            fd += 1
        if fd >= MOST_DESCRIPTORS:
            return -Errno.EMFILE
        if lowest <= self._lowest:
            self._lowest = fd + 1
        self.put(fd, file, close_on_exec=close_on_exec)
        return fd

    def put(self, fd: int, file: OpenFile, *, close_on_exec: bool = False) -> None:
        """Assign a free number to file."""
        self.files[fd] = file
        if close_on_exec:
            self.close_on_exec.add(fd)

    def remove(self, fd: int) -> OpenFile | None:
        """Free a number and return its file, or None if it had none."""
        file = self.files.pop(fd, None)
        if file is not None:
            self.close_on_exec.discard(fd)
            self._lowest = min(self._lowest, fd)
        return file

    def copy(self) -> Descriptors:
        """Return a copy with open files of its own. Numbers that shared an open file share its copy."""
        copies = {id(file): OpenFile(file.ino, file.flags, file.offset) for file in self.files.values()}
        other = Descriptors()
        other.files = {fd: copies[id(file)] for fd, file in self.files.items()}
        other.close_on_exec = self.close_on_exec.copy()
        other._lowest = self._lowest
        return other

"""The guest's file system calls, decided without I/O of their own (see vfs_tree for what lies beneath).

Every call returns a result or a negated `Errno`: an int >= 0 or < 0 where the result is a number, otherwise a
value or a negative int. None raises for anything a guest can do. Paths and names are bytes as the guest wrote
them, without the NUL; flags, commands and `AT_` constants have Linux's numbers, which Emscripten shares.
The guest is user 0 and its files have no other owner. Times are nanoseconds of the clock given to the constructor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from wasm_runtime.devices import Device
from wasm_runtime.quota import Quota
from wasm_runtime.vfs_nodes import DirEntry, Stat, StatFs

AT_FDCWD = -100


class Mark:
    """A state of the tree and its descriptors that `undo` can put back."""


class Vfs:
    """The tree of one guest, its open files and its working directory. Used by one thread at a time."""

    def __init__(
        self,
        *,
        clock: Callable[[], int],
        quota: Quota,
        devices: Mapping[str, Device] | None = None,
        random: Callable[[int], bytes] = os.urandom,
        node_limit: int = 100_000,
    ) -> None:
        """clock: ns. devices: path -> Device, /dev/stdin, /dev/stdout, /dev/stderr become descriptors 0, 1, 2."""
        raise NotImplementedError

    # the host's side: these may raise

    def mount(self, path: str, source: bytes | memoryview | Path) -> None:
        """Show a read-only file at an absolute path, with its parents. OSError, ValueError as from `HostFile`."""
        raise NotImplementedError

    def bind(self, path: str, device: Device) -> None:
        """Put a character device at an absolute path, or another device in the place of the one there."""
        raise NotImplementedError

    def mark(self) -> Mark:
        """Remember this state. The earlier mark, if any, is forgotten."""
        raise NotImplementedError

    def undo(self, mark: Mark) -> None:
        """Put back tree, descriptors, offsets and working directory. The mark stays good."""
        raise NotImplementedError

    def forget(self, mark: Mark) -> None:
        """Give back what is kept for the mark's sake."""
        raise NotImplementedError

    def clone(self, *, quota: Quota, devices: Mapping[str, Device] | None = None) -> Vfs:
        """An independent copy that shares bytes until either writes. MemoryError when quota refuses."""
        raise NotImplementedError

    def dump(self) -> bytes:
        """Everything the guest changed, its open descriptors and its working directory, as plain data."""
        raise NotImplementedError

    def load(self, data: bytes) -> None:
        """Put back a dump over this tree's mounts and devices. ValueError for a bad dump."""
        raise NotImplementedError

    def close(self) -> None:
        """Close host files and give the whole charge back to the quota."""
        raise NotImplementedError

    # descriptors

    def openat(self, dirfd: int, path: bytes, flags: int, mode: int = 0) -> int: raise NotImplementedError
    def close_fd(self, fd: int) -> int: raise NotImplementedError
    def read(self, fd: int, n: int) -> bytes | int: raise NotImplementedError
    def read_into(self, fd: int, target: memoryview) -> int: raise NotImplementedError
    def pread(self, fd: int, n: int, offset: int) -> bytes | int: raise NotImplementedError
    def pread_into(self, fd: int, target: memoryview, offset: int) -> int: raise NotImplementedError
    def write(self, fd: int, data: bytes | bytearray | memoryview) -> int: raise NotImplementedError
    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int: raise NotImplementedError
    def lseek(self, fd: int, offset: int, whence: int) -> int: raise NotImplementedError
    def dup(self, fd: int) -> int: raise NotImplementedError
    def dup3(self, fd: int, new_fd: int, flags: int) -> int: raise NotImplementedError
    def fcntl(self, fd: int, command: int, argument: int) -> int: raise NotImplementedError
    def ioctl(self, fd: int, request: int) -> int: raise NotImplementedError
    def fsync(self, fd: int) -> int: raise NotImplementedError
    def fstat(self, fd: int) -> Stat | int: raise NotImplementedError
    def ftruncate(self, fd: int, size: int) -> int: raise NotImplementedError
    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> int: raise NotImplementedError
    def fchmod(self, fd: int, mode: int) -> int: raise NotImplementedError
    def fchown(self, fd: int, uid: int, gid: int) -> int: raise NotImplementedError
    def fchdir(self, fd: int) -> int: raise NotImplementedError
    def fstatfs(self, fd: int) -> StatFs | int: raise NotImplementedError
    def getdents(self, fd: int, count: int) -> list[DirEntry] | int:
        """At most count entries from the descriptor's position on, which moves past them."""
        raise NotImplementedError

    # paths

    def stat(self, path: bytes) -> Stat | int: raise NotImplementedError
    def lstat(self, path: bytes) -> Stat | int: raise NotImplementedError
    def fstatat(self, dirfd: int, path: bytes, flags: int = 0) -> Stat | int: raise NotImplementedError
    def statfs(self, path: bytes) -> StatFs | int: raise NotImplementedError
    def faccessat(self, dirfd: int, path: bytes, mode: int, flags: int = 0) -> int: raise NotImplementedError
    def mkdirat(self, dirfd: int, path: bytes, mode: int) -> int: raise NotImplementedError
    def mknodat(self, dirfd: int, path: bytes, mode: int) -> int: raise NotImplementedError
    def rmdir(self, path: bytes) -> int: raise NotImplementedError
    def unlinkat(self, dirfd: int, path: bytes, flags: int = 0) -> int: raise NotImplementedError
    def renameat(self, old_dirfd: int, old: bytes, new_dirfd: int, new: bytes) -> int: raise NotImplementedError
    def linkat(self, old_dirfd: int, old: bytes, new_dirfd: int, new: bytes, flags: int = 0) -> int: raise NotImplementedError
    def symlinkat(self, target: bytes, dirfd: int, path: bytes) -> int: raise NotImplementedError
    def readlinkat(self, dirfd: int, path: bytes) -> bytes | int: raise NotImplementedError
    def truncate(self, path: bytes, size: int) -> int: raise NotImplementedError
    def chmod(self, path: bytes, mode: int) -> int: raise NotImplementedError
    def fchmodat(self, dirfd: int, path: bytes, mode: int, flags: int = 0) -> int: raise NotImplementedError
    def fchownat(self, dirfd: int, path: bytes, uid: int, gid: int, flags: int = 0) -> int: raise NotImplementedError
    def utimensat(self, dirfd: int, path: bytes | None, atime_ns: int | None, mtime_ns: int | None, flags: int = 0) -> int:
        """None leaves a time as it is; UTIME_NOW (-1) takes the clock. path None means dirfd itself."""
        raise NotImplementedError
    def chdir(self, path: bytes) -> int: raise NotImplementedError
    def getcwd(self) -> bytes | int: raise NotImplementedError
    def umask(self, mask: int) -> int: raise NotImplementedError

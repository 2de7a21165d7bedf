"""Opening a path without following any link, so that what is opened lies where the path says.

A path is resolved and checked against the roots before it is opened, and somebody who may write below a root can put a
link in its place in between. So a resolved path is opened with every component taken literally: one system call on
Linux (openat2), elsewhere one directory after the other. Where directories cannot be opened (Windows), the file is
opened by name, and must then be the one that the path without links leads to.
"""

import ctypes
import errno
import os
import stat
import struct
import sys
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

FILE_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""Non-blocking, because opening a FIFO would otherwise wait for a writer forever."""

_DIRECTORY_FLAGS = FILE_FLAGS | getattr(os, "O_DIRECTORY", 0)
_PASSED_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)

_SYS_OPENAT2 = 437
"""The same on all architectures."""
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS = 0x02, 0x04
_AT_FDCWD = -100
_NOT_HERE = frozenset({errno.ENOSYS, errno.EPERM, errno.EAGAIN, errno.E2BIG, errno.EINVAL})
"""Errors of a kernel or a container without openat2."""


def open_file(path: Path) -> int:
    """A descriptor of the file at this absolute path, none of whose components may be a link. Raises OSError."""
    return _open(path, FILE_FLAGS)


def open_directory(path: Path) -> int:
    """A descriptor of the directory at this absolute path, none of whose components may be a link. Raises OSError."""
    return _open(path, _DIRECTORY_FLAGS)


def can_open_directories() -> bool:
    """Whether directories have descriptors here, which can be listed."""
    return os.scandir in os.supports_fd and os.open in os.supports_dir_fd


def _open(path: Path, flags: int) -> int:
    if (descriptor := _open_by_openat2(path, flags)) is not None:
        return descriptor
    return _open_by_components(path, flags) if can_open_directories() else _open_and_compare(path, flags)


@cache
def _syscall() -> Any:
    if sys.platform != "linux":
        return None
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
    syscall.restype = ctypes.c_long
    return syscall


def _open_by_openat2(path: Path, flags: int) -> int | None:
    """None where the system call does not exist."""
    if (syscall := _syscall()) is None:
        return None
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    how = struct.pack("=QQQ", flags, 0, _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS)
    while (descriptor := syscall(_SYS_OPENAT2, _AT_FDCWD, name, how, len(how))) < 0:
        code = ctypes.get_errno()
        if code in _NOT_HERE:
            return None
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), str(path))
    return int(descriptor)


def _open_by_components(path: Path, flags: int) -> int:
    *directories, name = path.parts[1:] or (".",)
    at = os.open(path.anchor, _PASSED_FLAGS)
    try:
        for directory in directories:
            above, at = at, os.open(directory, _PASSED_FLAGS | _NO_FOLLOW, dir_fd=at)
            os.close(above)
        return os.open(name, flags | _NO_FOLLOW, dir_fd=at)
    finally:
        os.close(at)


def _open_and_compare(path: Path, flags: int) -> int:
    with ExitStack() as opened:
        descriptor = os.open(path, flags | _NO_FOLLOW)
        opened.callback(os.close, descriptor)
        if not _is_at(path, descriptor):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        opened.pop_all()
    return descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one that the path leads to, and the path has no links."""
    named = path.lstat()
    return (
        not stat.S_ISLNK(named.st_mode)
        and os.path.samestat(os.fstat(descriptor), named)
        and os.path.normcase(os.path.realpath(path)) == os.path.normcase(path)
    )

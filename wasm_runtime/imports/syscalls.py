"""Emscripten's Linux syscalls: they decode their arguments for the file system, and encode its results.

A syscall returns a result or a negated `Errno`. Layouts are those of Emscripten's musl for wasm32: `struct stat` has
96 bytes, `statfs` 72, a directory entry 280.
"""

import struct
from collections.abc import Callable

from wasm_runtime.errno import Errno
from wasm_runtime.imports.guest import Guest
from wasm_runtime.machine.callbacks import ImportFunction
from wasm_runtime.vfs.nodes import Stat, StatFs

_STAT = struct.Struct("<6Iq2iqI4xqI4xqI4xQ")
_MOST_BLOCKS = 0x7FFFFFFF  # the field is an i32, and a file may be longer
_DIRENT_BYTES = 280
_DIRENT = struct.Struct("<QqHB256s")
_NS = 1_000_000_000
_UTIME_NOW, _UTIME_OMIT = 0x3FFFFFFF, 0x3FFFFFFE
_PATH_BYTES = 4097  # PATH_MAX and its NUL


def _path(guest: Guest, address: int) -> bytes:
    return guest.memory.c_string(address, _PATH_BYTES)


def _variadic(guest: Guest, address: int) -> int:
    """Return the one int behind a syscall's `...`, or 0 if the caller passed none."""
    return struct.unpack("<i", guest.memory.view(address, 4))[0] if address else 0


def _write_stat(guest: Guest, address: int, stat: Stat | int) -> int:
    if isinstance(stat, int):
        return stat
    times = [part for ns in (stat.atime_ns, stat.mtime_ns, stat.ctime_ns) for part in divmod(ns, _NS)]
    _STAT.pack_into(
        guest.memory.view(address, _STAT.size), 0,
        stat.dev, stat.mode, stat.nlink, stat.uid, stat.gid, stat.rdev, stat.size, stat.blksize,
        min(stat.blocks, _MOST_BLOCKS), *times, stat.ino,
    )  # fmt: skip
    return 0


def _write_statfs(guest: Guest, address: int, facts: StatFs | int) -> int:
    if isinstance(facts, int):
        return facts
    blocks = (facts.blocks, facts.bfree, facts.bfree, facts.files, facts.ffree)
    packed = struct.pack("<IIqqqqqIIIII", 0, facts.bsize, *blocks, 42, 0, facts.namelen, facts.bsize, 0)
    guest.memory.view(address, len(packed))[:] = packed
    return 0


def openat(guest: Guest, dirfd: int, path: int, flags: int, variadic: int) -> int:
    return guest.vfs.openat(dirfd, _path(guest, path), flags, _variadic(guest, variadic))


def fcntl64(guest: Guest, fd: int, command: int, variadic: int) -> int:
    return guest.vfs.fcntl(fd, command, _variadic(guest, variadic))


def ioctl(guest: Guest, fd: int, request: int, _variadic_address: int) -> int:
    return guest.vfs.ioctl(fd, request)


def faccessat(guest: Guest, dirfd: int, path: int, mode: int, flags: int) -> int:
    return guest.vfs.faccessat(dirfd, _path(guest, path), mode, flags)


def chdir(guest: Guest, path: int) -> int:
    return guest.vfs.chdir(_path(guest, path))


def fchdir(guest: Guest, fd: int) -> int:
    return guest.vfs.fchdir(fd)


def getcwd(guest: Guest, buffer: int, size: int) -> int:
    cwd = guest.vfs.getcwd()
    if isinstance(cwd, int):
        return cwd
    if size == 0:
        return -Errno.EINVAL
    if size < len(cwd) + 1:
        return -Errno.ERANGE
    guest.memory.view(buffer, len(cwd) + 1)[:] = cwd + b"\0"
    return len(cwd) + 1


def chmod(guest: Guest, path: int, mode: int) -> int:
    return guest.vfs.chmod(_path(guest, path), mode)


def fchmod(guest: Guest, fd: int, mode: int) -> int:
    return guest.vfs.fchmod(fd, mode)


def fchmodat2(guest: Guest, dirfd: int, path: int, mode: int, flags: int) -> int:
    return guest.vfs.fchmodat(dirfd, _path(guest, path), mode, flags)


def fchownat(guest: Guest, dirfd: int, path: int, uid: int, gid: int, flags: int) -> int:
    return guest.vfs.fchownat(dirfd, _path(guest, path), uid, gid, flags)


def fchown32(guest: Guest, fd: int, uid: int, gid: int) -> int:
    return guest.vfs.fchown(fd, uid, gid)


def dup(guest: Guest, fd: int) -> int:
    return guest.vfs.dup(fd)


def dup3(guest: Guest, fd: int, new_fd: int, flags: int) -> int:
    return guest.vfs.dup3(fd, new_fd, flags)


def fdatasync(guest: Guest, fd: int) -> int:
    return guest.vfs.fsync(fd)


def fstat64(guest: Guest, fd: int, result: int) -> int:
    return _write_stat(guest, result, guest.vfs.fstat(fd))


def stat64(guest: Guest, path: int, result: int) -> int:
    return _write_stat(guest, result, guest.vfs.stat(_path(guest, path)))


def lstat64(guest: Guest, path: int, result: int) -> int:
    return _write_stat(guest, result, guest.vfs.lstat(_path(guest, path)))


def newfstatat(guest: Guest, dirfd: int, path: int, result: int, flags: int) -> int:
    return _write_stat(guest, result, guest.vfs.fstatat(dirfd, _path(guest, path), flags))


def ftruncate64(guest: Guest, fd: int, size: int) -> int:
    return guest.vfs.ftruncate(fd, size)


def truncate64(guest: Guest, path: int, size: int) -> int:
    return guest.vfs.truncate(_path(guest, path), size)


def fallocate(guest: Guest, fd: int, mode: int, offset: int, length: int) -> int:
    return guest.vfs.fallocate(fd, mode, offset, length)


def getdents64(guest: Guest, fd: int, buffer: int, size: int) -> int:
    size &= 0xFFFFFFFF
    view = guest.memory.view(buffer, size)
    entries = guest.vfs.getdents(fd, size // _DIRENT_BYTES)
    if isinstance(entries, int):
        return entries
    for number, entry in enumerate(entries):
        _DIRENT.pack_into(view, number * _DIRENT_BYTES, entry.ino, entry.cookie, _DIRENT_BYTES, entry.type, entry.name)
    return len(entries) * _DIRENT_BYTES


def mkdirat(guest: Guest, dirfd: int, path: int, mode: int) -> int:
    return guest.vfs.mkdirat(dirfd, _path(guest, path), mode)


def readlinkat(guest: Guest, dirfd: int, path: int, buffer: int, size: int) -> int:
    if size <= 0:
        return -Errno.EINVAL
    target = guest.vfs.readlinkat(dirfd, _path(guest, path))
    if isinstance(target, int):
        return target
    target = target[:size]
    guest.memory.view(buffer, len(target))[:] = target
    return len(target)


def unlinkat(guest: Guest, dirfd: int, path: int, flags: int) -> int:
    return guest.vfs.unlinkat(dirfd, _path(guest, path), flags)


def rmdir(guest: Guest, path: int) -> int:
    return guest.vfs.rmdir(_path(guest, path))


def renameat(guest: Guest, old_dirfd: int, old: int, new_dirfd: int, new: int) -> int:
    return guest.vfs.renameat(old_dirfd, _path(guest, old), new_dirfd, _path(guest, new))


def symlinkat(guest: Guest, target: int, dirfd: int, path: int) -> int:
    return guest.vfs.symlinkat(_path(guest, target), dirfd, _path(guest, path))


def statfs64(guest: Guest, path: int, _size: int, result: int) -> int:
    return _write_statfs(guest, result, guest.vfs.statfs(_path(guest, path)))


def fstatfs64(guest: Guest, fd: int, _size: int, result: int) -> int:
    return _write_statfs(guest, result, guest.vfs.fstatfs(fd))


def utimensat(guest: Guest, dirfd: int, path: int, times: int, flags: int) -> int:
    atime: int | None = -1
    mtime: int | None = -1
    if times:
        values = struct.unpack("<qI4xqI4x", guest.memory.view(times, 32))
        if any(ns >= _NS and ns not in (_UTIME_NOW, _UTIME_OMIT) for ns in values[1::2]):
            return -Errno.EINVAL
        atime, mtime = _time(*values[:2]), _time(*values[2:])
    return guest.vfs.utimensat(dirfd, _path(guest, path) if path else None, atime, mtime, flags)


def _time(seconds: int, nanoseconds: int) -> int | None:
    if nanoseconds == _UTIME_OMIT:
        return None
    return -1 if nanoseconds == _UTIME_NOW else seconds * _NS + nanoseconds


ERRNO_SIGN = -1  # syscalls return the negated errno

_CALLS: list[Callable[..., int]] = [
    openat, fcntl64, ioctl, faccessat, chdir, fchdir, getcwd, chmod, fchmod, fchmodat2, fchownat, fchown32, dup,
    dup3, fdatasync, fstat64, stat64, lstat64, newfstatat, ftruncate64, truncate64, fallocate, getdents64, mkdirat,
    readlinkat, unlinkat, rmdir, renameat, symlinkat, statfs64, fstatfs64, utimensat,
]  # fmt: skip

FUNCTIONS: dict[str, ImportFunction] = {f"__syscall_{call.__name__}": call for call in _CALLS}

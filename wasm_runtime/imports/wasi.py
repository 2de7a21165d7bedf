"""The WASI imports: descriptors, clocks, randomness. They return an `Errno`, not its negative."""

import struct
from collections.abc import Callable

from wasm_runtime.errno import Errno
from wasm_runtime.imports.guest import Guest
from wasm_runtime.machine.callbacks import ImportFunction

_IOVEC_BYTES = 8
_IOVECS_AT_MOST = 1024  # Linux's IOV_MAX
_RANDOM_BYTES_AT_MOST = 1 << 20
# After this many bytes no further buffer is started: during a thousand large ones the host could not stop the guest.
_TRANSFER_BYTES_AT_MOST = 128 << 20
# The guest's clocks have a resolution of one microsecond: finer ones would only serve to measure the host.
_CLOCK_STEP_NS = 1000
_FILE_TYPE_CHARACTER_DEVICE, _FILE_TYPE_DIRECTORY, _FILE_TYPE_REGULAR = 2, 3, 4
_S_IFMT, _S_IFCHR, _S_IFDIR = 0o170000, 0o020000, 0o040000
_REALTIME, _MONOTONIC, _PROCESS_CPU, _THREAD_CPU = range(4)


def _buffers(guest: Guest, iovs: int, count: int) -> list[memoryview]:
    table = guest.memory.view(iovs, count * _IOVEC_BYTES)
    return [guest.memory.view(address, length) for address, length in struct.iter_unpack("<II", table)]


def _transfer(guest: Guest, iovs: int, count: int, done: int, move: Callable[[memoryview, int], int]) -> int:
    """Call `move(buffer, bytes so far)` for each buffer until one is not filled; store the total at `done`."""
    if not 0 <= count <= _IOVECS_AT_MOST:
        return Errno.EINVAL
    total = 0
    for buffer in _buffers(guest, iovs, count):
        moved = move(buffer, total)
        if moved < 0:
            if total == 0:
                return -moved
            break
        total += moved
        if moved < len(buffer) or total >= _TRANSFER_BYTES_AT_MOST:
            break
    guest.memory.write_u32(done, total)
    return Errno.SUCCESS


def fd_read(guest: Guest, fd: int, iovs: int, count: int, done: int) -> int:
    return _transfer(guest, iovs, count, done, lambda buffer, _: guest.vfs.read_into(fd, buffer))


def fd_write(guest: Guest, fd: int, iovs: int, count: int, done: int) -> int:
    return _transfer(guest, iovs, count, done, lambda buffer, _: guest.vfs.write(fd, buffer))


def fd_pread(guest: Guest, fd: int, iovs: int, count: int, offset: int, done: int) -> int:
    return _transfer(guest, iovs, count, done, lambda buffer, far: guest.vfs.pread_into(fd, buffer, offset + far))


def fd_pwrite(guest: Guest, fd: int, iovs: int, count: int, offset: int, done: int) -> int:
    return _transfer(guest, iovs, count, done, lambda buffer, far: guest.vfs.pwrite(fd, buffer, offset + far))


def fd_close(guest: Guest, fd: int) -> int:
    return -guest.vfs.close_fd(fd)


def fd_sync(guest: Guest, fd: int) -> int:
    return -guest.vfs.fsync(fd)


def fd_seek(guest: Guest, fd: int, offset: int, whence: int, result: int) -> int:
    position = guest.vfs.lseek(fd, offset, whence)
    if position < 0:
        return -position
    guest.memory.write_u64(result, position)
    return Errno.SUCCESS


def fd_fdstat_get(guest: Guest, fd: int, result: int) -> int:
    stat = guest.vfs.fstat(fd)
    if isinstance(stat, int):
        return -stat
    kind = {_S_IFCHR: _FILE_TYPE_CHARACTER_DEVICE, _S_IFDIR: _FILE_TYPE_DIRECTORY}.get(stat.mode & _S_IFMT)
    guest.memory.view(result, 24)[:] = struct.pack("<BxHxxxxQQ", kind or _FILE_TYPE_REGULAR, 0, 0, 0)
    return Errno.SUCCESS


def clock_time_get(guest: Guest, clock: int, _precision: int, result: int) -> int:
    if clock == _REALTIME:
        now = guest.clock_ns() + guest.ahead_ns()
    elif clock == _MONOTONIC:
        now = guest.monotonic_ns() + guest.ahead_ns()
    elif clock in (_PROCESS_CPU, _THREAD_CPU):
        now = guest.cpu_ns()
    else:
        return Errno.EINVAL
    guest.memory.write_u64(result, now - now % _CLOCK_STEP_NS)
    return Errno.SUCCESS


def random_get(guest: Guest, buffer: int, length: int) -> int:
    length &= 0xFFFFFFFF
    view = guest.memory.view(buffer, length)
    for start in range(0, length, _RANDOM_BYTES_AT_MOST):
        part = view[start : start + _RANDOM_BYTES_AT_MOST]
        part[:] = guest.random(len(part))
    return Errno.SUCCESS


ERRNO_SIGN = 1  # WASI functions return the errno itself

FUNCTIONS: dict[str, ImportFunction] = {
    "fd_read": fd_read,
    "fd_write": fd_write,
    "fd_pread": fd_pread,
    "fd_pwrite": fd_pwrite,
    "fd_close": fd_close,
    "fd_sync": fd_sync,
    "fd_seek": fd_seek,
    "fd_fdstat_get": fd_fdstat_get,
    "clock_time_get": clock_time_get,
    "random_get": random_get,
}

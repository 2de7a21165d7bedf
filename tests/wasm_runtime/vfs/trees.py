"""A file system of the guest, and calls that a test makes of it in one line."""

from wasm_runtime.vfs.filesystem import Vfs
from wasm_runtime.vfs.flags import (
    AT_FDCWD,
    O_CREAT,
    O_DIRECTORY,
    O_RDONLY,
    O_TRUNC,
    O_WRONLY,
)
from wasm_runtime.vfs.nodes import Stat
from wasm_runtime.vfs.quota import FixedQuota

NOW = 1_000_000_000


def new_vfs(limit: int = 1 << 24, *, node_limit: int = 1000) -> Vfs:
    return Vfs(clock=lambda: NOW, quota=FixedQuota(limit), node_limit=node_limit)


def write_file(vfs: Vfs, path: bytes, data: bytes) -> None:
    fd = vfs.openat(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, 0o666)
    assert fd >= 0
    assert vfs.write(fd, data) == len(data)
    assert vfs.close_fd(fd) == 0


def read_file(vfs: Vfs, path: bytes) -> bytes | int:
    fd = vfs.openat(AT_FDCWD, path, O_RDONLY)
    if fd < 0:
        return fd
    data = vfs.pread(fd, 1 << 30, 0)
    assert vfs.close_fd(fd) == 0
    return data


def names(vfs: Vfs, path: bytes) -> list[bytes]:
    fd = vfs.openat(AT_FDCWD, path, O_DIRECTORY)
    entries = vfs.getdents(fd, 10_000)
    assert not isinstance(entries, int)
    assert vfs.close_fd(fd) == 0
    return [entry.name for entry in entries]


def facts(found: Stat | int) -> Stat:
    assert not isinstance(found, int)
    return found

"""What the tree is made of: directories, files, links, devices, and the pieces of a file.

Ownership by epoch. Nodes and chunks are shared between a tree, its marks and its clones. Each carries the epoch
in which it was made; a tree changes one in place only when that is the tree's own current epoch, and otherwise
replaces it by a copy. `mark` and `clone` draw a new epoch, and with that everything older is frozen.
Epochs come from one counter of the process, so those of two trees never meet.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import NamedTuple

from wasm_runtime.sources import Source

# A changed file is copied by the chunk, so an append to a large file after a mark copies at most this much.
CHUNK = 1 << 16

S_IFCHR, S_IFDIR, S_IFREG, S_IFLNK = stat.S_IFCHR, stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK


class Stat(NamedTuple):
    """What `stat` tells. A named tuple, because a frozen dataclass takes 1.5 us to make and imports stat a lot."""

    ino: int
    mode: int
    nlink: int
    size: int
    blocks: int
    rdev: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    dev: int = 1
    uid: int = 0
    gid: int = 0
    blksize: int = 4096


class StatFs(NamedTuple):
    """What `statfs` tells, in blocks of `bsize` bytes and in nodes."""

    bsize: int
    blocks: int
    bfree: int
    files: int
    ffree: int
    namelen: int = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class DirEntry:
    """One entry of `getdents64`. Reading on from offset `cookie` gives the entries after this one."""

    ino: int
    cookie: int
    type: int  # DT_CHR 2, DT_DIR 4, DT_REG 8, DT_LNK 10
    name: bytes


class Chunk:
    """Up to CHUNK bytes of a file; what the file has beyond `data` within the chunk's span is zeros."""

    __slots__ = ("data", "epoch")

    def __init__(self, epoch: int, data: bytearray) -> None:
        self.epoch = epoch
        self.data = data


class Node:
    """What all nodes have: a number, a mode with type bits, and times in nanoseconds.

    `readonly` nodes belong to the host: the guest can change neither them nor, for directories, their entries.
    """

    __slots__ = ("atime", "ctime", "epoch", "ino", "mode", "mtime", "nlink", "readonly")

    def __init__(self, ino: int, epoch: int, mode: int, now: int, *, readonly: bool) -> None:
        self.ino = ino
        self.epoch = epoch
        self.mode = mode
        self.nlink = 1
        self.readonly = readonly
        self.atime = self.mtime = self.ctime = now


class Directory(Node):
    """Entries by name, in the order in which they were made.

    Each entry is (ino, cookie). Cookies only grow, so a position in a listing means the same after any change.
    `listing` caches (cookie, name) in order; names that have gone are passed over when it is read.
    """

    __slots__ = ("entries", "listing", "next_cookie", "parent")


class MemoryFile(Node):
    """A file of the guest: chunks by index, holes absent, and a size."""

    __slots__ = ("chunks", "size")


class MountedFile(Node):
    """A read-only file of the host, known to dumps by the path at which it was mounted."""

    __slots__ = ("mounted_at", "source")


class Symlink(Node):
    """A symbolic link; its target is resolved inside the tree only."""

    __slots__ = ("target",)


class DeviceNode(Node):
    """A character device, found by this name among the devices of the tree that is asked."""

    __slots__ = ("device",)

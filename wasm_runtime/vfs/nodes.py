"""The nodes of the tree: directories, files, links, devices; and the chunks of a file.

Ownership by epoch. Nodes and chunks are shared between a tree, its mark and its clones. Each records the epoch in
which it was made. A tree changes one in place only if that is the tree's current epoch, and otherwise replaces it by a
copy. `mark` and `clone` start a new epoch, which freezes everything older. Epochs are numbered by one counter per
process, so no two trees have the same.
"""

from __future__ import annotations

import stat
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from wasm_runtime.vfs.mounted_files import MountSource

# Files are copied chunk by chunk, so an append to a large file after a mark copies at most this much.
CHUNK = 1 << 16

# Host-made nodes are numbered from 1, guest-made ones from here, so that a dump's numbers are free in every tree.
FIRST_GUEST_INO = 1 << 32
ROOT = 1


class Stat(NamedTuple):
    """The result of `stat`. A named tuple, because a frozen dataclass takes 1.5 us to make and imports stat a lot."""

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
    """The result of `statfs`, in blocks of `bsize` bytes and in nodes."""

    bsize: int
    blocks: int
    bfree: int
    files: int
    ffree: int
    namelen: int = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class DirEntry:
    """One entry of `getdents64`. Reading from offset `cookie` continues with the entries after this one."""

    ino: int
    cookie: int
    type: int  # DT_CHR 2, DT_DIR 4, DT_REG 8, DT_LNK 10: the type bits of the mode, shifted right by 12
    name: bytes


class Chunk:
    """Up to CHUNK bytes of a file. The part of the chunk's span beyond `data` reads as zeros."""

    __slots__ = ("data", "epoch")

    def __init__(self, epoch: int, data: bytearray) -> None:
        self.epoch = epoch
        self.data = data


class Inode:
    """Base of all nodes: a number, a mode with type bits, and times in nanoseconds.

    `readonly` nodes belong to the host: the guest can change neither them nor, for directories, their entries.
    """

    __slots__ = ("atime", "ctime", "epoch", "ino", "mode", "mtime", "nlink", "readonly")

    def __init__(self, ino: int, epoch: int, mode: int, now: int) -> None:
        self.ino = ino
        self.epoch = epoch
        self.mode = mode
        self.nlink = 1
        self.readonly = ino < FIRST_GUEST_INO
        self.atime = self.mtime = self.ctime = now

    @property
    def size(self) -> int:
        """The size in bytes that `stat` reports."""
        return 0

    def _copy_to(self, other: Inode) -> None:
        other.nlink = self.nlink
        other.atime, other.mtime, other.ctime = self.atime, self.mtime, self.ctime

    def copy(self, epoch: int) -> Inode:
        """Return a copy of the node for another epoch."""
        raise NotImplementedError


class Directory(Inode):
    """Entries by name, in the order in which they were made.

    Each entry is (ino, cookie). Cookies only grow, so a position in a listing keeps its meaning after any change;
    1 and 2 are "." and "..". `listing` caches (cookie, name) in order; names that were removed are skipped when it
    is read.
    """

    __slots__ = ("entries", "listing", "next_cookie", "parent")

    def __init__(self, ino: int, epoch: int, mode: int, now: int, parent: int) -> None:
        super().__init__(ino, epoch, stat.S_IFDIR | mode, now)
        self.nlink = 2
        self.parent = parent
        self.entries: dict[bytes, tuple[int, int]] = {}
        self.next_cookie = 3
        self.listing: list[tuple[int, bytes]] | None = None

    @property
    def size(self) -> int:
        """The same size for every directory, as on many file systems."""
        return 4096

    def copy(self, epoch: int) -> Directory:
        """Return a copy with a table of entries of its own."""
        other = Directory(self.ino, epoch, self.mode, 0, self.parent)
        self._copy_to(other)
        other.entries = self.entries.copy()
        other.next_cookie = self.next_cookie
        return other

    def insert(self, name: bytes, ino: int) -> None:
        """Add an entry for a name that has none."""
        cookie = self.next_cookie
        self.next_cookie = cookie + 1
        self.entries[name] = (ino, cookie)
        if self.listing is not None:
            if len(self.listing) > 2 * len(self.entries) + 64:
                self.listing = None
            else:
                self.listing.append((cookie, name))

    def after(self, cookie: int) -> Iterator[tuple[int, bytes, int]]:
        """Yield (cookie, name, ino) of the entries after this cookie, in order."""
        if cookie < 1:
            yield 1, b".", self.ino
        if cookie < 2:
            yield 2, b"..", self.parent
        listing = self.listing
        if listing is None:
            listing = self.listing = [(entry[1], name) for name, entry in self.entries.items()]
        for place in range(bisect_right(listing, cookie, key=itemgetter(0)), len(listing)):
            found, name = listing[place]
            entry = self.entries.get(name)
            if entry is not None and entry[1] == found:
                yield found, name, entry[0]


class MemoryFile(Inode):
    """A file of the guest: chunks by index, holes absent, and a length."""

    __slots__ = ("chunks", "length")

    def __init__(self, ino: int, epoch: int, mode: int, now: int) -> None:
        super().__init__(ino, epoch, stat.S_IFREG | mode, now)
        self.chunks: dict[int, Chunk] = {}
        self.length = 0

    @property
    def size(self) -> int:
        """The length of the file."""
        return self.length

    def copy(self, epoch: int) -> MemoryFile:
        """Return a copy with a table of chunks of its own; the chunks are shared."""
        other = MemoryFile(self.ino, epoch, self.mode, 0)
        self._copy_to(other)
        other.chunks = self.chunks.copy()
        other.length = self.length
        return other


class MountedFile(Inode):
    """A read-only file of the host, known to dumps by the path at which it was mounted."""

    __slots__ = ("mounted_at", "source")

    def __init__(self, ino: int, epoch: int, now: int, mounted_at: bytes, source: MountSource) -> None:
        super().__init__(ino, epoch, stat.S_IFREG | 0o444, now if source.mtime_ns is None else source.mtime_ns)
        self.mounted_at = mounted_at
        self.source = source

    @property
    def size(self) -> int:
        """The size of the source, fixed when it was mounted."""
        return self.source.size

    def copy(self, epoch: int) -> MountedFile:
        """Return a copy that shares the source."""
        other = MountedFile(self.ino, epoch, 0, self.mounted_at, self.source)
        self._copy_to(other)
        return other


class Symlink(Inode):
    """A symbolic link; its target is resolved inside the tree only."""

    __slots__ = ("target",)

    def __init__(self, ino: int, epoch: int, now: int, target: bytes) -> None:
        super().__init__(ino, epoch, stat.S_IFLNK | 0o777, now)
        self.target = target

    @property
    def size(self) -> int:
        """The length of the target."""
        return len(self.target)

    def copy(self, epoch: int) -> Symlink:
        """Return a copy."""
        other = Symlink(self.ino, epoch, 0, self.target)
        self._copy_to(other)
        return other


class DeviceNode(Inode):
    """A character device; `device` is its path, under which each tree looks up its own device."""

    __slots__ = ("device",)

    def __init__(self, ino: int, epoch: int, now: int, device: bytes) -> None:
        super().__init__(ino, epoch, stat.S_IFCHR | 0o666, now)
        self.device = device

    def copy(self, epoch: int) -> DeviceNode:
        """Return a copy with the same path."""
        other = DeviceNode(self.ino, epoch, 0, self.device)
        self._copy_to(other)
        return other

"""The guest's file system calls: what each one returns is decided here, and nothing else happens.

Every call returns a result or a negated `Errno`: an int, negative for an error, where the result is a number,
otherwise a value or a negative int. None raises for anything a guest can do. Paths and names are bytes as the
guest wrote them, without the NUL; flags, commands and `AT_` constants have Linux's numbers, which Emscripten
shares. The guest is user 0 and there is no other. Times are nanoseconds of the clock given to the constructor;
reading a file does not change its access time.

What lies beneath: `vfs_tree` (ownership, charges, undo, paths), `vfs_content` (bytes of files), `descriptors`,
`vfs_dump` (saving), `sources` (mounted files), `devices`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wasm_runtime.descriptors import (
    MOST_DESCRIPTORS,
    O_ACCMODE,
    O_APPEND,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_TRUNC,
    O_WRONLY,
    Descriptors,
    OpenFile,
)
from wasm_runtime.devices import LONGEST_READ, Device, NullDevice, RandomDevice, ZeroDevice
from wasm_runtime.errno import Errno
from wasm_runtime.quota import Quota
from wasm_runtime.sources import BytesSource, HostFile, Source
from wasm_runtime.vfs_content import discard, read_at, set_length, write_at
from wasm_runtime.vfs_dump import dump, load
from wasm_runtime.vfs_nodes import (
    ROOT,
    DeviceNode,
    Directory,
    DirEntry,
    MemoryFile,
    MountedFile,
    Node,
    Stat,
    StatFs,
    Symlink,
)
from wasm_runtime.vfs_tree import LONGEST_PATH, NODE_COST, Tree, TreeMark

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_REMOVEDIR = 0x200  # for unlinkat; for faccessat the same bit is AT_EACCESS
AT_EMPTY_PATH = 0x1000

F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL = 0, 1, 2, 3, 4
F_LOCKS = frozenset({5, 6, 7, 12, 13, 14})  # F_GETLK, F_SETLK, F_SETLKW, and musl's numbers for 64-bit offsets
F_DUPFD_CLOEXEC = 1030
FD_CLOEXEC = 1

UTIME_NOW = 1 << 80  # in the place of a time: no file can have this one

BLOCK = 4096
LARGEST_OFFSET = (1 << 63) - 1

# Only what the guest may change; the root and everything else in it belongs to the host.
WRITABLE = (b"tmp", b"home")
HOST_DIRECTORIES = (b"lib", b"dev", b"context")
SEEKABLE = frozenset({b"/dev/null", b"/dev/zero", b"/dev/urandom"})  # lseek gives 0, as on Linux
STREAMS = (b"/dev/stdin", b"/dev/stdout", b"/dev/stderr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A state of the tree, the descriptors and the working directory that `Vfs.undo` can put back."""

    tree: TreeMark
    descriptors: Descriptors
    cwd: int
    mask: int


class Vfs:
    """The files of one guest: its tree, its open files, its working directory. Used by one thread at a time.

    `devices` maps absolute paths to devices; /dev/stdin, /dev/stdout and /dev/stderr, where given, are open as
    descriptors 0, 1 and 2. `random` feeds /dev/urandom. The tree starts with /tmp and /home (the working
    directory), which the guest may change, and /lib, /dev and /context, which it may not.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int],
        quota: Quota,
        devices: Mapping[str, Device] | None = None,
        random: Callable[[int], bytes] = os.urandom,
        node_limit: int = 100_000,
    ) -> None:
        self.tree = Tree(clock=clock, quota=quota, node_limit=node_limit)
        self.descriptors = Descriptors()
        self.mask = 0o022
        self._mark: Mark | None = None
        self._devices: dict[bytes, Device] = {}
        for name in WRITABLE:
            self._make_top(name, 0o1777 if name == b"tmp" else 0o755, host=False)
        for name in HOST_DIRECTORIES:
            self._make_top(name, 0o555, host=True)
        self.cwd = ROOT
        self.chdir(b"/home")
        always = {"/dev/null": NullDevice(), "/dev/zero": ZeroDevice(), "/dev/urandom": RandomDevice(random)}
        for path, device in {**always, **(devices or {})}.items():
            self.bind(path, device)
        for fd, stream in enumerate(STREAMS):
            if stream in self._devices:
                self.descriptors.put(fd, OpenFile(self._find(AT_FDCWD, stream), O_WRONLY if fd else 0))

    # The host's side: these may raise.

    def mount(self, path: str, source: bytes | memoryview | Path) -> None:
        """Show a read-only file at an absolute path, with its parents, or another source for one mounted there.

        ValueError when the path cannot be used; OSError and ValueError of `HostFile` for a Path.
        """
        opened: Source = HostFile(source) if isinstance(source, Path) else BytesSource(source)
        at = os.fsencode(path)
        ino = self.tree.mounts.get(at)
        if ino is not None:
            self.tree.nodes[ino] = MountedFile(ino, self.tree.epoch, self.tree.clock(), at, opened)
            return
        node = self.tree.install(at, lambda ino, epoch, now: MountedFile(ino, epoch, now, at, opened))
        self.tree.mounts[at] = node.ino

    def bind(self, path: str, device: Device) -> None:
        """Put a character device at a path under /dev, or in the place of the device there."""
        at = os.fsencode(path)
        if not at.startswith(b"/dev/"):
            raise ValueError(f"{path!r} is no place for a device: give a path under /dev")
        if at not in self._devices:
            self.tree.install(at, lambda ino, epoch, now: DeviceNode(ino, epoch, now, at))
        self._devices[at] = device

    def mark(self) -> Mark:
        """Remember this state. An earlier mark is forgotten."""
        self._mark = Mark(tree=self.tree.mark(), descriptors=self.descriptors.copy(), cwd=self.cwd, mask=self.mask)
        return self._mark

    def undo(self, mark: Mark) -> None:
        """Put back the tree, the descriptors with their offsets, and the working directory. The mark stays good."""
        if mark is not self._mark:
            raise ValueError("this mark is no longer the live one: only the latest mark can be undone")
        self.tree.undo()
        self.descriptors = mark.descriptors.copy()
        self.cwd = mark.cwd
        self.mask = mark.mask

    def forget(self, mark: Mark) -> None:
        """Give back what is held only so that this mark can be undone."""
        if mark is self._mark:
            self._mark = None
            self.tree.forget()

    def clone(self, *, quota: Quota, devices: Mapping[str, Device] | None = None) -> Vfs:
        """Return an independent copy, without a mark, that shares bytes until one of the two writes.

        Devices that are not given anew are shared. MemoryError when the quota refuses what the files hold.
        """
        other = Vfs.__new__(Vfs)
        other.tree = self.tree.clone(quota)
        other.descriptors = self.descriptors.copy()
        other.cwd = self.cwd
        other.mask = self.mask
        other._mark = None
        other._devices = self._devices.copy()
        for path, device in (devices or {}).items():
            other.bind(path, device)
        return other

    def dump(self) -> bytes:
        """Return all that the guest made, its descriptors and its working directory, as plain data."""
        return dump(self.tree, self.descriptors, self.cwd, self.mask)

    def load(self, data: bytes) -> None:
        """Replace what the guest made by a dump, over the mounts and devices of this tree.

        Raises `BadDump`, or MemoryError when the quota refuses; then nothing has changed. A live mark is forgotten.
        A mount that the dump knows and this tree does not have is gone; a descriptor that led to it gives EIO.
        """
        self.tree.forget()
        self._mark = None
        self.descriptors, self.cwd, self.mask = load(self.tree, data)

    def close(self) -> None:
        """Give everything back to the quota; the tree is empty afterwards."""
        self.descriptors = Descriptors()
        self._mark = None
        self.tree.forget()
        self.tree.clear()
        self.cwd = ROOT

    def __repr__(self) -> str:
        return (
            f"<Vfs {self.tree.guest_nodes} guest nodes, {self.tree.charged} bytes, {len(self.descriptors.files)} open>"
        )

    # Opening, closing and the descriptor table.

    def openat(self, dirfd: int, path: bytes, flags: int, mode: int = 0) -> int:
        if len(self.descriptors.files) >= MOST_DESCRIPTORS:
            return -Errno.EMFILE
        access = flags & O_ACCMODE
        create = flags & O_CREAT
        if access == O_ACCMODE or (create and flags & O_DIRECTORY):
            return -Errno.EINVAL
        if create and path[-1:] == b"/":
            parent, *_ = self._entry(dirfd, path)
            return parent if parent < 0 else -Errno.EISDIR
        start = self._start(dirfd, path)
        if start < 0:
            return start
        exclusive = create and flags & O_EXCL
        parent, name, ino, slash = self.tree.walk(start, path, follow=not (flags & O_NOFOLLOW or exclusive))
        if parent < 0:
            return parent
        if ino:
            error = self._may_open(self.tree.nodes[ino], access, flags) if not exclusive else -Errno.EEXIST
            if error:
                return error
            if flags & O_TRUNC and type(self.tree.nodes[ino]) is MemoryFile:
                self._resize(ino, 0)
        else:
            if not create:
                return -Errno.ENOENT
            if slash:
                return -Errno.EISDIR
            error = self._may_add(parent) or self.tree.reserve_node()
            if error:
                return error
            ino = self.tree.number(host=False)
            file = MemoryFile(ino, self.tree.epoch, mode & 0o7777 & ~self.mask, self.tree.clock())
            self.tree.add(file, parent, name)
        status = flags & (O_ACCMODE | O_APPEND | O_NONBLOCK)
        return self.descriptors.add(OpenFile(ino, status), close_on_exec=bool(flags & O_CLOEXEC))

    def close_fd(self, fd: int) -> int:
        file = self.descriptors.remove(fd)
        if file is None:
            return -Errno.EBADF
        self._reap(file.ino)
        return 0

    def dup(self, fd: int) -> int:
        return self.fcntl(fd, F_DUPFD, 0)

    def dup3(self, fd: int, new_fd: int, flags: int) -> int:
        file = self.descriptors.files.get(fd)
        if fd == new_fd or flags & ~O_CLOEXEC:
            return -Errno.EINVAL
        if file is None or not 0 <= new_fd < MOST_DESCRIPTORS:
            return -Errno.EBADF
        replaced = self.descriptors.remove(new_fd)
        self.descriptors.put(new_fd, file, close_on_exec=bool(flags & O_CLOEXEC))
        if replaced is not None:
            self._reap(replaced.ino)
        return new_fd

    def fcntl(self, fd: int, command: int, argument: int) -> int:
        """Locks succeed: there is no other process. For F_GETLK the caller writes F_UNLCK into the guest's struct."""
        file = self.descriptors.files.get(fd)
        if file is None:
            return -Errno.EBADF
        if command in (F_DUPFD, F_DUPFD_CLOEXEC):
            if not 0 <= argument < MOST_DESCRIPTORS:
                return -Errno.EINVAL
            return self.descriptors.add(file, lowest=argument, close_on_exec=command == F_DUPFD_CLOEXEC)
        if command == F_GETFD:
            return FD_CLOEXEC if fd in self.descriptors.close_on_exec else 0
        if command == F_SETFD:
            (self.descriptors.close_on_exec.add if argument & FD_CLOEXEC else self.descriptors.close_on_exec.discard)(
                fd
            )
            return 0
        if command == F_GETFL:
            return file.flags
        if command == F_SETFL:
            file.flags = file.flags & O_ACCMODE | argument & (O_APPEND | O_NONBLOCK)
            return 0
        return 0 if command in F_LOCKS else -Errno.EINVAL

    def ioctl(self, fd: int, request: int) -> int:  # noqa: ARG002 - nothing here has controls
        return -Errno.ENOTTY if fd in self.descriptors.files else -Errno.EBADF

    def fsync(self, fd: int) -> int:
        """Serve fsync and fdatasync: there is nothing slower to write to."""
        return 0 if fd in self.descriptors.files else -Errno.EBADF

    # Reading and writing.

    def read(self, fd: int, n: int) -> bytes | int:
        file = self.descriptors.files.get(fd)
        if file is None or n < 0:
            return -Errno.EBADF if file is None else -Errno.EINVAL
        buffer = bytearray(self._readable_bytes(file, n, file.offset))
        got = self.read_into(fd, memoryview(buffer))
        return got if got < 0 else bytes(buffer[:got])

    def pread(self, fd: int, n: int, offset: int) -> bytes | int:
        file = self.descriptors.files.get(fd)
        if file is None or n < 0:
            return -Errno.EBADF if file is None else -Errno.EINVAL
        buffer = bytearray(self._readable_bytes(file, n, offset))
        got = self.pread_into(fd, memoryview(buffer), offset)
        return got if got < 0 else bytes(buffer[:got])

    def read_into(self, fd: int, target: memoryview) -> int:
        """Read at most len(target) bytes into target, straight from where they are held."""
        file = self.descriptors.files.get(fd)
        if file is None or not file.readable:
            return -Errno.EBADF
        node = self.tree.nodes[file.ino]
        if type(node) is DeviceNode:
            data = self._devices[node.device].read(len(target))
            if isinstance(data, int):
                return data
            target[: len(data)] = data
            return len(data)
        n = _read_node(node, file.offset, target)
        if n > 0:
            file.offset += n
        return n

    def pread_into(self, fd: int, target: memoryview, offset: int) -> int:
        """Read as `read_into` does, from an offset of one's own."""
        file = self.descriptors.files.get(fd)
        if file is None or not file.readable:
            return -Errno.EBADF
        node = self.tree.nodes[file.ino]
        if type(node) is DeviceNode:
            return -Errno.ESPIPE
        return -Errno.EINVAL if offset < 0 else _read_node(node, offset, target)

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> int:
        """Write at the descriptor's offset, or at the end with O_APPEND; short where the quota ends."""
        file = self.descriptors.files.get(fd)
        if file is None or not file.writable:
            return -Errno.EBADF
        node = self.tree.nodes[file.ino]
        if type(node) is DeviceNode:
            return self._devices[node.device].write(memoryview(data))
        n = self._write_node(file.ino, -1 if file.flags & O_APPEND else file.offset, memoryview(data))
        if n > 0:
            file.offset = n + (file.offset if not file.flags & O_APPEND else self.tree.nodes[file.ino].size - n)
        return n

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write at an offset of one's own, also with O_APPEND (as POSIX has it; Linux would append)."""
        file = self.descriptors.files.get(fd)
        if file is None or not file.writable:
            return -Errno.EBADF
        if type(self.tree.nodes[file.ino]) is DeviceNode:
            return -Errno.ESPIPE
        return -Errno.EINVAL if offset < 0 else self._write_node(file.ino, offset, memoryview(data))

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        file = self.descriptors.files.get(fd)
        if file is None:
            return -Errno.EBADF
        node = self.tree.nodes[file.ino]
        if type(node) is DeviceNode:
            return 0 if node.device in SEEKABLE else -Errno.ESPIPE
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END) or (whence == os.SEEK_END and type(node) is Directory):
            return -Errno.EINVAL
        position = offset + (file.offset if whence == os.SEEK_CUR else node.size if whence == os.SEEK_END else 0)
        if position < 0:
            return -Errno.EINVAL
        if position > LARGEST_OFFSET:
            return -Errno.EOVERFLOW
        file.offset = position
        return position

    def ftruncate(self, fd: int, size: int) -> int:
        file = self.descriptors.files.get(fd)
        if file is None:
            return -Errno.EBADF
        return self._resize(file.ino, size) if file.writable else -Errno.EINVAL

    def truncate(self, path: bytes, size: int) -> int:
        if size < 0:
            return -Errno.EINVAL
        ino = self._find(AT_FDCWD, path)
        return self._resize(ino, size) if ino > 0 else ino

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> int:
        """Extend the file to hold the range. The bytes are not reserved, only looked for."""
        file = self.descriptors.files.get(fd)
        if file is None or not file.writable:
            return -Errno.EBADF
        node = self.tree.nodes[file.ino]
        if mode:
            return -Errno.EOPNOTSUPP
        if offset < 0 or length <= 0:
            return -Errno.EINVAL
        if type(node) is not MemoryFile:
            return -Errno.ENODEV
        growth = offset + length - node.size
        if growth > self.tree.quota.available():
            return -Errno.ENOSPC
        return self._resize(file.ino, offset + length) if growth > 0 else 0

    # What nodes tell.

    def fstat(self, fd: int) -> Stat | int:
        file = self.descriptors.files.get(fd)
        return -Errno.EBADF if file is None else self._stat(file.ino)

    def stat(self, path: bytes) -> Stat | int:
        return self._stat(self._find(AT_FDCWD, path))

    def lstat(self, path: bytes) -> Stat | int:
        return self._stat(self._find(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW))

    def fstatat(self, dirfd: int, path: bytes, flags: int = 0) -> Stat | int:
        return self._stat(self._find(dirfd, path, flags))

    def faccessat(self, dirfd: int, path: bytes, mode: int, flags: int = 0) -> int:
        if mode & ~(os.R_OK | os.W_OK | os.X_OK):
            return -Errno.EINVAL
        ino = self._find(dirfd, path, flags)
        if ino < 0:
            return ino
        node = self.tree.nodes[ino]
        if mode & os.W_OK and node.readonly and type(node) is not DeviceNode:
            return -Errno.EROFS
        if mode & os.X_OK and not node.mode & 0o111:
            return -Errno.EACCES
        return 0

    def statfs(self, path: bytes) -> StatFs | int:
        ino = self._find(AT_FDCWD, path)
        return ino if ino < 0 else self._space()

    def fstatfs(self, fd: int) -> StatFs | int:
        return self._space() if fd in self.descriptors.files else -Errno.EBADF

    def readlinkat(self, dirfd: int, path: bytes) -> bytes | int:
        ino = self._find(dirfd, path, AT_SYMLINK_NOFOLLOW)
        node = self.tree.nodes[ino] if ino > 0 else None
        if node is None:
            return ino
        return node.target if isinstance(node, Symlink) else -Errno.EINVAL

    def getdents(self, fd: int, count: int) -> list[DirEntry] | int:
        """Return at most count entries after the descriptor's position, which moves past them.

        An entry that stays is given exactly once, whatever else is added or removed between two calls.
        """
        file = self.descriptors.files.get(fd)
        if file is None:
            return -Errno.EBADF
        directory = self.tree.nodes[file.ino]
        if type(directory) is not Directory:
            return -Errno.ENOTDIR
        if directory.nlink == 0:
            return -Errno.ENOENT
        found: list[DirEntry] = []
        for cookie, name, ino in directory.after(file.offset):
            if len(found) >= count:
                break
            file.offset = cookie
            found.append(DirEntry(ino=ino, cookie=cookie, type=self.tree.nodes[ino].mode >> 12, name=name))
        return found

    # Changing nodes.

    def chmod(self, path: bytes, mode: int) -> int:
        return self._chmod(self._find(AT_FDCWD, path), mode)

    def fchmod(self, fd: int, mode: int) -> int:
        return self._chmod(self._ino_of(fd), mode)

    def fchmodat(self, dirfd: int, path: bytes, mode: int, flags: int = 0) -> int:
        return self._chmod(self._find(dirfd, path, flags), mode)

    def fchown(self, fd: int, uid: int, gid: int) -> int:
        return self._chown(self._ino_of(fd), uid, gid)

    def fchownat(self, dirfd: int, path: bytes, uid: int, gid: int, flags: int = 0) -> int:
        return self._chown(self._find(dirfd, path, flags), uid, gid)

    def utimensat(
        self, dirfd: int, path: bytes | None, atime_ns: int | None, mtime_ns: int | None, flags: int = 0
    ) -> int:
        """Set times; None leaves one as it is, UTIME_NOW takes the clock. Without a path dirfd is the file."""
        ino = self._ino_of(dirfd) if path is None else self._find(dirfd, path, flags)
        node = self._changeable(ino)
        if isinstance(node, int):
            return node
        now = self.tree.clock()
        if atime_ns is not None:
            node.atime = now if atime_ns == UTIME_NOW else atime_ns
        if mtime_ns is not None:
            node.mtime = now if mtime_ns == UTIME_NOW else mtime_ns
        node.ctime = now
        return 0

    # Changing directories.

    def mkdirat(self, dirfd: int, path: bytes, mode: int) -> int:
        parent, name, ino, _ = self._entry(dirfd, path)
        if parent < 0:
            return parent
        if ino:
            return -Errno.EEXIST
        error = self._may_add(parent) or self.tree.reserve_node()
        if error:
            return error
        ino = self.tree.number(host=False)
        mode &= 0o1777 & ~self.mask
        self.tree.add(Directory(ino, self.tree.epoch, mode, self.tree.clock(), parent), parent, name)
        return 0

    def symlinkat(self, target: bytes, dirfd: int, path: bytes) -> int:
        if not target or len(target) > LONGEST_PATH or b"\0" in target:
            return -Errno.ENOENT if not target else -Errno.EINVAL if b"\0" in target else -Errno.ENAMETOOLONG
        parent, name, ino, slash = self._entry(dirfd, path)
        if parent < 0:
            return parent
        if ino:
            return -Errno.EEXIST
        if slash:
            return -Errno.ENOENT
        error = self._may_add(parent) or self.tree.reserve_node(len(target))
        if error:
            return error
        ino = self.tree.number(host=False)
        self.tree.add(Symlink(ino, self.tree.epoch, self.tree.clock(), target), parent, name)
        return 0

    def mknodat(self, dirfd: int, path: bytes, mode: int) -> int:
        """Refuse devices, pipes and sockets; a regular file may be made."""
        if mode & 0o170000 not in (0, stat.S_IFREG):
            return -Errno.EPERM
        fd = self.openat(dirfd, path, O_CREAT | O_EXCL, mode)
        return fd if fd < 0 else self.close_fd(fd)

    def rmdir(self, path: bytes) -> int:
        return self.unlinkat(AT_FDCWD, path, AT_REMOVEDIR)

    def unlinkat(self, dirfd: int, path: bytes, flags: int = 0) -> int:
        if flags & ~AT_REMOVEDIR:
            return -Errno.EINVAL
        parent, name, ino, slash = self._entry(dirfd, path)
        if parent < 0:
            return parent
        if name in (b"", b".", b".."):
            if not flags:
                return -Errno.EISDIR
            return -Errno.EBUSY if not name else -Errno.EINVAL if name == b"." else -Errno.ENOTEMPTY
        if not ino:
            return -Errno.ENOENT
        node = self.tree.nodes[ino]
        is_directory = type(node) is Directory
        if slash and not is_directory:
            return -Errno.ENOTDIR
        if self.tree.nodes[parent].readonly:
            return -Errno.EROFS
        if is_directory != bool(flags):
            return -Errno.EISDIR if is_directory else -Errno.ENOTDIR
        if node.readonly:
            return -Errno.EBUSY
        if isinstance(node, Directory) and node.entries:
            return -Errno.ENOTEMPTY
        self._detach(parent, name, node)
        return 0

    def renameat(self, old_dirfd: int, old: bytes, new_dirfd: int, new: bytes) -> int:
        """Move an entry, taking the place of a file or an empty directory."""
        old_parent, old_name, ino, old_slash = self._entry(old_dirfd, old)
        if old_parent < 0:
            return old_parent
        new_parent, new_name, replaced, new_slash = self._entry(new_dirfd, new)
        if new_parent < 0:
            return new_parent
        dots = (b"", b".", b"..")
        if old_name in dots or new_name in dots:
            return -Errno.EBUSY
        if not ino:
            return -Errno.ENOENT
        nodes = self.tree.nodes
        if nodes[old_parent].readonly or nodes[new_parent].readonly:
            return -Errno.EROFS
        node = nodes[ino]
        target = nodes.get(replaced)
        error = self._may_replace(node, target, old_parent, new_parent, slash=old_slash or new_slash)
        if error or node is target:
            return error
        if target is not None:
            self._detach(new_parent, new_name, target)
        source, destination = self.tree.own_directory(old_parent), self.tree.own_directory(new_parent)
        del source.entries[old_name]
        destination.insert(new_name, ino)
        node = self.tree.own(ino)
        if isinstance(node, Directory):
            source.nlink -= 1
            destination.nlink += 1
            node.parent = new_parent
        node.ctime = source.mtime = source.ctime = destination.mtime = destination.ctime = self.tree.clock()
        return 0

    # The working directory and the mask.

    def chdir(self, path: bytes) -> int:
        return self._enter(self._find(AT_FDCWD, path))

    def fchdir(self, fd: int) -> int:
        return self._enter(self._ino_of(fd))

    def getcwd(self) -> bytes | int:
        return self.tree.path_of(self.cwd)

    def umask(self, mask: int) -> int:
        """Set the mask of new files' modes and return the one before."""
        before, self.mask = self.mask, mask & 0o777
        return before

    # Beneath the calls.

    def _make_top(self, name: bytes, mode: int, *, host: bool) -> None:
        ino = self.tree.number(host=host)
        self.tree.add(Directory(ino, self.tree.epoch, mode, self.tree.clock(), ROOT), ROOT, name)

    def _start(self, dirfd: int, path: bytes) -> int:
        if dirfd == AT_FDCWD or path[:1] == b"/":
            return self.cwd
        return self._ino_of(dirfd)

    def _ino_of(self, fd: int) -> int:
        file = self.descriptors.files.get(fd)
        return -Errno.EBADF if file is None else file.ino

    def _find(self, dirfd: int, path: bytes, flags: int = 0) -> int:
        """Return the number of the node that the path leads to, or a negated `Errno`."""
        if not path and flags & AT_EMPTY_PATH:
            return self.cwd if dirfd == AT_FDCWD else self._ino_of(dirfd)
        start = self._start(dirfd, path)
        if start < 0:
            return start
        parent, _, ino, _ = self.tree.walk(start, path, follow=not flags & AT_SYMLINK_NOFOLLOW)
        return parent if parent < 0 else ino or -Errno.ENOENT

    def _entry(self, dirfd: int, path: bytes) -> tuple[int, bytes, int, bool]:
        """Return the place of a directory entry; a link there is not followed, with or without a final slash."""
        start = self._start(dirfd, path)
        if start < 0:
            return start, b"", 0, False
        bare = path.rstrip(b"/") or path[:1]
        parent, name, ino, _ = self.tree.walk(start, bare, follow=False)
        if len(path) > LONGEST_PATH:
            parent = -Errno.ENAMETOOLONG
        return parent, name, ino, len(bare) < len(path)

    def _may_open(self, node: Node, access: int, flags: int) -> int:
        writing = access != 0 or flags & O_TRUNC
        if type(node) is Symlink:
            return -Errno.ENOTDIR if flags & O_DIRECTORY else -Errno.ELOOP
        if type(node) is Directory:
            return -Errno.EISDIR if writing or flags & O_CREAT else 0
        if flags & O_DIRECTORY:
            return -Errno.ENOTDIR
        return -Errno.EROFS if writing and node.readonly and type(node) is not DeviceNode else 0

    def _may_add(self, parent: int) -> int:
        node = self.tree.nodes[parent]
        if node.readonly:
            return -Errno.EROFS
        return -Errno.ENOENT if node.nlink == 0 else 0

    def _may_replace(self, node: Node, target: Node | None, old_parent: int, new_parent: int, *, slash: bool) -> int:
        is_directory = type(node) is Directory
        if slash and not is_directory:
            return -Errno.ENOTDIR
        if is_directory and self._is_within(new_parent, node.ino):
            return -Errno.EINVAL
        if target is not None and self._is_within(old_parent, target.ino):
            return -Errno.ENOTEMPTY
        if target is not None and target is not node:
            if is_directory != (type(target) is Directory):
                return -Errno.ENOTDIR if is_directory else -Errno.EISDIR
            if isinstance(target, Directory) and target.entries:
                return -Errno.ENOTEMPTY
        if node.readonly or (target is not None and target.readonly):
            return -Errno.EBUSY
        return self._may_add(new_parent)

    def _is_within(self, ino: int, ancestor: int) -> bool:
        """Tell whether a directory is another or lies beneath it."""
        while ino not in (ancestor, ROOT):
            node = self.tree.nodes.get(ino)
            if not isinstance(node, Directory):
                return False
            ino = node.parent
        return ino == ancestor

    def _detach(self, parent: int, name: bytes, node: Node) -> None:
        """Take an entry away; the node goes with it unless something has it open."""
        directory = self.tree.own_directory(parent)
        del directory.entries[name]
        directory.mtime = directory.ctime = self.tree.clock()
        if type(node) is Directory:
            directory.nlink -= 1
        if self._in_use(node.ino):
            node = self.tree.own(node.ino)
            node.nlink = 0
            node.ctime = directory.ctime
        else:
            self._remove(node)

    def _in_use(self, ino: int) -> bool:
        return ino == self.cwd or any(file.ino == ino for file in self.descriptors.files.values())

    def _reap(self, ino: int) -> None:
        """Remove a node that has no name any more once nothing has it open."""
        node = self.tree.nodes[ino]
        if node.nlink == 0 and not self._in_use(ino):
            self._remove(node)

    def _remove(self, node: Node) -> None:
        if isinstance(node, MemoryFile):
            discard(self.tree, node)
        self.tree.remove(node.ino, extra=len(node.target) if isinstance(node, Symlink) else 0)

    def _changeable(self, ino: int) -> Node | int:
        """Return the node, ours to change, or a negated `Errno`."""
        if ino < 0:
            return ino
        return -Errno.EROFS if self.tree.nodes[ino].readonly else self.tree.own(ino)

    def _chmod(self, ino: int, mode: int) -> int:
        node = self._changeable(ino)
        if isinstance(node, int):
            return node
        if type(node) is Symlink:
            return -Errno.EOPNOTSUPP
        node.mode = node.mode & ~0o7777 | mode & 0o7777
        node.ctime = self.tree.clock()
        return 0

    def _chown(self, ino: int, uid: int, gid: int) -> int:
        node = self._changeable(ino)
        if isinstance(node, int):
            return node
        # -1 leaves an owner as it is; it arrives signed or as 32 unsigned bits.
        mine = (0, -1, 0xFFFFFFFF)
        return 0 if uid in mine and gid in mine else -Errno.EPERM

    def _resize(self, ino: int, size: int) -> int:
        node = self.tree.nodes[ino]
        if size < 0:
            return -Errno.EINVAL
        if type(node) is Directory:
            return -Errno.EISDIR
        if type(node) is DeviceNode:
            return -Errno.EINVAL
        node_or_error = self._changeable(ino)
        if not isinstance(node_or_error, MemoryFile):
            return node_or_error if isinstance(node_or_error, int) else -Errno.EINVAL
        error = set_length(self.tree, node_or_error, size)
        if not error:
            node_or_error.mtime = node_or_error.ctime = self.tree.clock()
        return error

    def _write_node(self, ino: int, offset: int, data: memoryview) -> int:
        """Write at offset, or at the end for -1."""
        if not data:
            return 0
        node = self.tree.own(ino)
        if not isinstance(node, MemoryFile):
            return -Errno.EBADF
        n = write_at(self.tree, node, node.length if offset < 0 else offset, data)
        node.mtime = node.ctime = self.tree.clock()
        return n

    def _readable_bytes(self, file: OpenFile, n: int, offset: int) -> int:
        """Return how long a buffer for a read of n bytes need be at most."""
        node = self.tree.nodes[file.ino]
        return min(n, LONGEST_READ) if type(node) is DeviceNode else max(0, min(n, node.size - offset))

    def _stat(self, ino: int) -> Stat | int:
        if ino < 0:
            return ino
        node = self.tree.nodes[ino]
        size = node.size
        return Stat(
            ino,
            node.mode,
            node.nlink,
            size,
            (size + 511) // 512,
            ino if type(node) is DeviceNode else 0,
            node.atime,
            node.mtime,
            node.ctime,
        )

    def _space(self) -> StatFs:
        free = self.tree.quota.available()
        free_nodes = min(self.tree.node_limit - self.tree.guest_nodes, free // NODE_COST)
        return StatFs(
            bsize=BLOCK,
            blocks=(self.tree.charged + free) // BLOCK,
            bfree=free // BLOCK,
            files=self.tree.guest_nodes + free_nodes,
            ffree=free_nodes,
        )

    def _enter(self, ino: int) -> int:
        if ino < 0:
            return ino
        if type(self.tree.nodes[ino]) is not Directory:
            return -Errno.ENOTDIR
        before, self.cwd = self.cwd, ino
        self._reap(before)
        return 0


def _read_node(node: Node, offset: int, target: memoryview) -> int:
    if type(node) is MemoryFile:
        return read_at(node, offset, target)
    if type(node) is MountedFile:
        n = min(len(target), node.source.size - offset)
        if n <= 0:
            return 0
        return node.source.read_into(offset, target[:n]) or n
    return -Errno.EISDIR

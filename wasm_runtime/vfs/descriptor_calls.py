"""The calls on descriptors: opening, reading, writing, positions, and metadata of open files."""

from __future__ import annotations

import os

from wasm_runtime.errno import Errno
from wasm_runtime.vfs.content import read_at, write_at
from wasm_runtime.vfs.descriptors import MOST_DESCRIPTORS, OpenFile
from wasm_runtime.vfs.devices import LONGEST_READ
from wasm_runtime.vfs.flags import (
    F_DUPFD,
    F_DUPFD_CLOEXEC,
    F_GETFD,
    F_GETFL,
    F_LOCKS,
    F_SETFD,
    F_SETFL,
    FD_CLOEXEC,
    O_ACCMODE,
    O_APPEND,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_TRUNC,
)
from wasm_runtime.vfs.nodes import (
    DeviceNode,
    Directory,
    DirEntry,
    Inode,
    MemoryFile,
    MountedFile,
    Stat,
    StatFs,
    Symlink,
)
from wasm_runtime.vfs.open_tree import OpenTree

LARGEST_OFFSET = (1 << 63) - 1
SEEKABLE = frozenset({b"/dev/null", b"/dev/zero", b"/dev/urandom"})  # lseek gives 0, as on Linux


class DescriptorCalls(OpenTree):
    """The guest's calls on file descriptors."""

    def openat(self, dirfd: int, path: bytes, flags: int, mode: int = 0) -> int:
        """Open a file at the lowest free descriptor and return it; with O_CREAT, a missing file is created first."""
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
            ino = self.tree.allocate_ino(host=False)
            file = MemoryFile(ino, self.tree.epoch, mode & 0o7777 & ~self.mask, self.tree.clock())
            self.tree.add(file, parent, name)
        status = flags & (O_ACCMODE | O_APPEND | O_NONBLOCK)
        return self.descriptors.add(OpenFile(ino, status), close_on_exec=bool(flags & O_CLOEXEC))

    def close_fd(self, fd: int) -> int:
        """Free a descriptor; a file without a name is removed with its last descriptor."""
        file = self.descriptors.remove(fd)
        if file is None:
            return -Errno.EBADF
        self._reap(file.ino)
        return 0

    def dup(self, fd: int) -> int:
        """Return another descriptor for the same open file."""
        return self.fcntl(fd, F_DUPFD, 0)

    def dup3(self, fd: int, new_fd: int, flags: int) -> int:
        """Make new_fd refer to the open file of fd. They must differ: the C library handles equal ones itself."""
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
        """Handle descriptor commands. Locks succeed, because there is no other process."""
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
            closing = self.descriptors.close_on_exec
            (closing.add if argument & FD_CLOEXEC else closing.discard)(fd)
            return 0
        if command == F_GETFL:
            return file.flags
        if command == F_SETFL:
            file.flags = file.flags & O_ACCMODE | argument & (O_APPEND | O_NONBLOCK)
            return 0
        return 0 if command in F_LOCKS else -Errno.EINVAL

    def ioctl(self, fd: int, request: int) -> int:  # noqa: ARG002 - no device supports any request
        """Fail with ENOTTY: no device supports any request, and none is a terminal."""
        return -Errno.ENOTTY if fd in self.descriptors.files else -Errno.EBADF

    def fsync(self, fd: int) -> int:
        """Handle fsync and fdatasync, which have nothing to do: there is no disk."""
        return 0 if fd in self.descriptors.files else -Errno.EBADF

    # reading and writing

    def read(self, fd: int, n: int) -> bytes | int:
        """Return at most n bytes from the descriptor's position, and advance it."""
        file = self.descriptors.files.get(fd)
        if file is None or n < 0:
            return -Errno.EBADF if file is None else -Errno.EINVAL
        buffer = bytearray(self._readable_bytes(file, n, file.offset))
        got = self.read_into(fd, memoryview(buffer))
        return got if got < 0 else bytes(buffer[:got])

    def pread(self, fd: int, n: int, offset: int) -> bytes | int:
        """Return at most n bytes from the given offset."""
        file = self.descriptors.files.get(fd)
        if file is None or n < 0:
            return -Errno.EBADF if file is None else -Errno.EINVAL
        buffer = bytearray(self._readable_bytes(file, n, offset))
        got = self.pread_into(fd, memoryview(buffer), offset)
        return got if got < 0 else bytes(buffer[:got])

    def read_into(self, fd: int, target: memoryview) -> int:
        """Read at most len(target) bytes directly into target."""
        file = self.descriptors.files.get(fd)
        if file is None or not file.readable:
            return -Errno.EBADF
        node = self.tree.nodes[file.ino]
        if type(node) is DeviceNode:
            data = self.devices[node.device].read(len(target))
            if isinstance(data, int):
                return data
            target[: len(data)] = data
            return len(data)
        n = _read_node(node, file.offset, target)
        if n > 0:
            file.offset += n
        return n

    def pread_into(self, fd: int, target: memoryview, offset: int) -> int:
        """Read as `read_into` does, from the given offset."""
        file = self.descriptors.files.get(fd)
        if file is None or not file.readable:
            return -Errno.EBADF
        node = self.tree.nodes[file.ino]
        if type(node) is DeviceNode:
            return -Errno.ESPIPE
        return -Errno.EINVAL if offset < 0 else _read_node(node, offset, target)

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> int:
        """Write at the descriptor's position, or at the end with O_APPEND; only as much as the quota allows."""
        file = self.descriptors.files.get(fd)
        if file is None or not file.writable:
            return -Errno.EBADF
        node = self.tree.nodes[file.ino]
        if type(node) is DeviceNode:
            return self.devices[node.device].write(memoryview(data))
        n = self._write_node(file.ino, -1 if file.flags & O_APPEND else file.offset, memoryview(data))
        if n > 0:
            file.offset = n + (file.offset if not file.flags & O_APPEND else self.tree.nodes[file.ino].size - n)
        return n

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write at the given offset, also with O_APPEND (as in POSIX; Linux would append)."""
        file = self.descriptors.files.get(fd)
        if file is None or not file.writable:
            return -Errno.EBADF
        if type(self.tree.nodes[file.ino]) is DeviceNode:
            return -Errno.ESPIPE
        return -Errno.EINVAL if offset < 0 else self._write_node(file.ino, offset, memoryview(data))

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        """Set the position and return it. A directory's position is a cookie of `getdents`."""
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
        """Truncate or extend an open file. Added bytes read as zeros and are not charged until they are written."""
        file = self.descriptors.files.get(fd)
        if file is None:
            return -Errno.EBADF
        return self._resize(file.ino, size) if file.writable else -Errno.EINVAL

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> int:
        """Extend the file to hold the range. The quota must have room for it, but the bytes are not reserved."""
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

    # What open files tell, and changing them.

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

    def fstat(self, fd: int) -> Stat | int:
        """Return the metadata of an open file."""
        file = self.descriptors.files.get(fd)
        return -Errno.EBADF if file is None else self._stat(file.ino)

    def fstatfs(self, fd: int) -> StatFs | int:
        """Return how much space the quota has left."""
        return self._space() if fd in self.descriptors.files else -Errno.EBADF

    def fchmod(self, fd: int, mode: int) -> int:
        """Set the permission bits of an open file."""
        return self._chmod(self._ino_of(fd), mode)

    def fchown(self, fd: int, uid: int, gid: int) -> int:
        """Accept user and group 0, and -1 for no change; any other is EPERM."""
        return self._chown(self._ino_of(fd), uid, gid)

    def fchdir(self, fd: int) -> int:
        """Make an open directory the working directory."""
        return self._enter(self._ino_of(fd))

    # shared by several calls

    def _may_open(self, node: Inode, access: int, flags: int) -> int:
        writing = access != 0 or flags & O_TRUNC
        if type(node) is Symlink:
            return -Errno.ENOTDIR if flags & O_DIRECTORY else -Errno.ELOOP
        if type(node) is Directory:
            return -Errno.EISDIR if writing or flags & O_CREAT else 0
        if flags & O_DIRECTORY:
            return -Errno.ENOTDIR
        return -Errno.EROFS if writing and node.readonly and type(node) is not DeviceNode else 0

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
        """Return how long a buffer for a read of n bytes must be."""
        node = self.tree.nodes[file.ino]
        return min(n, LONGEST_READ) if type(node) is DeviceNode else max(0, min(n, node.size - offset))


def _read_node(node: Inode, offset: int, target: memoryview) -> int:
    if type(node) is MemoryFile:
        return read_at(node, offset, target)
    if type(node) is MountedFile:
        n = min(len(target), node.source.size - offset)
        if n <= 0:
            return 0
        return node.source.read_into(offset, target[:n]) or n
    return -Errno.EISDIR

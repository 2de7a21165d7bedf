"""A tree with its open files, working directory and mask, and the operations that several calls share.

A node without a name stays while a descriptor or the working directory refers to it, and is removed with the last one.
"""

from __future__ import annotations

from collections.abc import Callable

from wasm_runtime.errno import Errno
from wasm_runtime.vfs.content import discard, set_length
from wasm_runtime.vfs.descriptors import Descriptors
from wasm_runtime.vfs.devices import Device
from wasm_runtime.vfs.flags import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW
from wasm_runtime.vfs.nodes import ROOT, DeviceNode, Directory, Inode, MemoryFile, Stat, StatFs, Symlink
from wasm_runtime.vfs.quota import Quota
from wasm_runtime.vfs.shared_files import SharedFiles
from wasm_runtime.vfs.tree import LONGEST_PATH, NODE_COST, Tree, WalkResult

BLOCK = 4096


class OpenTree:
    """The state that the guest's calls work on."""

    def __init__(self, *, clock: Callable[[], int], quota: Quota, node_limit: int, shared: SharedFiles) -> None:
        self.tree = Tree(clock=clock, quota=quota, node_limit=node_limit, shared=shared)
        self.descriptors = Descriptors()
        self.devices: dict[bytes, Device] = {}
        self.cwd = ROOT
        self.mask = 0o022

    def _start(self, dirfd: int, path: bytes) -> int:
        if dirfd == AT_FDCWD or path[:1] == b"/":
            return self.cwd
        return self._ino_of(dirfd)

    def _ino_of(self, fd: int) -> int:
        file = self.descriptors.files.get(fd)
        return -Errno.EBADF if file is None else file.ino

    def _find(self, dirfd: int, path: bytes, flags: int = 0) -> int:
        """Return the number of the node at the path, or a negated `Errno`."""
        if not path and flags & AT_EMPTY_PATH:
            return self.cwd if dirfd == AT_FDCWD else self._ino_of(dirfd)
        start = self._start(dirfd, path)
        if start < 0:
            return start
        parent, _, ino, _ = self.tree.walk(start, path, follow=not flags & AT_SYMLINK_NOFOLLOW)
        return parent if parent < 0 else ino or -Errno.ENOENT

    def _entry(self, dirfd: int, path: bytes) -> WalkResult:
        """Look up a directory entry. A link there is not followed, with or without a final slash."""
        start = self._start(dirfd, path)
        if start < 0:
            return start, b"", 0, False
        bare = path.rstrip(b"/") or path[:1]
        parent, name, ino, _ = self.tree.walk(start, bare, follow=False)
        if len(path) > LONGEST_PATH:
            parent = -Errno.ENAMETOOLONG
        return parent, name, ino, len(bare) < len(path)

    def _in_use(self, ino: int) -> bool:
        return ino == self.cwd or any(file.ino == ino for file in self.descriptors.files.values())

    def _reap(self, ino: int) -> None:
        """Remove a node that has no name and is not in use."""
        node = self.tree.nodes[ino]
        if node.nlink == 0 and not self._in_use(ino):
            self._remove(node)

    def _remove(self, node: Inode) -> None:
        if isinstance(node, MemoryFile):
            discard(self.tree, node)
        self.tree.remove(node.ino, extra=len(node.target) if isinstance(node, Symlink) else 0)

    def _changeable(self, ino: int) -> Inode | int:
        """Return the node for modification, or a negated `Errno`."""
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
        # -1 means no change; it arrives signed or as 32 unsigned bits.
        allowed = (0, -1, 0xFFFFFFFF)
        return 0 if uid in allowed and gid in allowed else -Errno.EPERM

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

    def _may_add(self, parent: int) -> int:
        node = self.tree.nodes[parent]
        if node.readonly:
            return -Errno.EROFS
        return -Errno.ENOENT if node.nlink == 0 else 0

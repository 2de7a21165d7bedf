"""The calls on paths: metadata of nodes, changing nodes, and changing directories."""

from __future__ import annotations

import os
import stat

from wasm_runtime.errno import Errno
from wasm_runtime.vfs.descriptor_calls import DescriptorCalls
from wasm_runtime.vfs.flags import AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_NOFOLLOW, O_CREAT, O_EXCL, UTIME_NOW
from wasm_runtime.vfs.nodes import ROOT, DeviceNode, Directory, Inode, Stat, StatFs, Symlink
from wasm_runtime.vfs.tree import LONGEST_PATH


class PathCalls(DescriptorCalls):
    """The guest's calls on paths. A path is relative to dirfd, or to the working directory for AT_FDCWD."""

    def stat(self, path: bytes) -> Stat | int:
        """Return the metadata of the node at the path, following a symbolic link."""
        return self._stat(self._find(AT_FDCWD, path))

    def lstat(self, path: bytes) -> Stat | int:
        """Return the metadata of the node at the path, even if it is a symbolic link."""
        return self._stat(self._find(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW))

    def fstatat(self, dirfd: int, path: bytes, flags: int = 0) -> Stat | int:
        """Return the metadata of the node at the path, or of dirfd itself for AT_EMPTY_PATH and no path."""
        return self._stat(self._find(dirfd, path, flags))

    def statfs(self, path: bytes) -> StatFs | int:
        """Return how much space the quota has left."""
        ino = self._find(AT_FDCWD, path)
        return ino if ino < 0 else self._space()

    def faccessat(self, dirfd: int, path: bytes, mode: int, flags: int = 0) -> int:
        """Return 0 if the access is allowed; mode has the bits R_OK 4, W_OK 2 and X_OK 1."""
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

    def readlinkat(self, dirfd: int, path: bytes) -> bytes | int:
        """Return the target of a symbolic link."""
        ino = self._find(dirfd, path, AT_SYMLINK_NOFOLLOW)
        node = self.tree.nodes[ino] if ino > 0 else None
        if node is None:
            return ino
        return node.target if isinstance(node, Symlink) else -Errno.EINVAL

    def getcwd(self) -> bytes | int:
        """Return the path of the working directory, or -ENOENT if it has been removed."""
        return self.tree.path_of(self.cwd)

    # changing nodes

    def truncate(self, path: bytes, size: int) -> int:
        """Truncate or extend a file. Added bytes read as zeros and are not charged until they are written."""
        if size < 0:
            return -Errno.EINVAL
        ino = self._find(AT_FDCWD, path)
        return self._resize(ino, size) if ino > 0 else ino

    def chmod(self, path: bytes, mode: int) -> int:
        """Set the permission bits. User 0 is not bound by them, but programs read them."""
        return self._chmod(self._find(AT_FDCWD, path), mode)

    def fchmodat(self, dirfd: int, path: bytes, mode: int, flags: int = 0) -> int:
        """Set the permission bits of the node at the path."""
        return self._chmod(self._find(dirfd, path, flags), mode)

    def fchownat(self, dirfd: int, path: bytes, uid: int, gid: int, flags: int = 0) -> int:
        """Accept user and group 0, and -1 for no change; any other is EPERM."""
        return self._chown(self._find(dirfd, path, flags), uid, gid)

    def utimensat(
        self, dirfd: int, path: bytes | None, atime_ns: int | None, mtime_ns: int | None, flags: int = 0
    ) -> int:
        """Set times: None means no change, UTIME_NOW the current time. Without a path, dirfd is the file."""
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

    # changing directories

    def mkdirat(self, dirfd: int, path: bytes, mode: int) -> int:
        """Make a directory."""
        parent, name, ino, _ = self._entry(dirfd, path)
        if parent < 0:
            return parent
        if ino:
            return -Errno.EEXIST
        error = self._may_add(parent) or self.tree.reserve_node()
        if error:
            return error
        ino = self.tree.allocate_ino(host=False)
        mode &= 0o1777 & ~self.mask
        self.tree.add(Directory(ino, self.tree.epoch, mode, self.tree.clock(), parent), parent, name)
        return 0

    def symlinkat(self, target: bytes, dirfd: int, path: bytes) -> int:
        """Make a symbolic link; its target need not exist."""
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
        ino = self.tree.allocate_ino(host=False)
        self.tree.add(Symlink(ino, self.tree.epoch, self.tree.clock(), target), parent, name)
        return 0

    def mknodat(self, dirfd: int, path: bytes, mode: int) -> int:
        """Make a regular file; devices, pipes and sockets are refused."""
        if mode & 0o170000 not in (0, stat.S_IFREG):
            return -Errno.EPERM
        fd = self.openat(dirfd, path, O_CREAT | O_EXCL, mode)
        return fd if fd < 0 else self.close_fd(fd)

    def rmdir(self, path: bytes) -> int:
        """Remove an empty directory."""
        return self.unlinkat(AT_FDCWD, path, AT_REMOVEDIR)

    def unlinkat(self, dirfd: int, path: bytes, flags: int = 0) -> int:
        """Remove a name; that of an empty directory with AT_REMOVEDIR. An open file exists until it is closed."""
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
        """Move an entry, replacing a file or an empty directory."""
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

    def chdir(self, path: bytes) -> int:
        """Change the working directory."""
        return self._enter(self._find(AT_FDCWD, path))

    def umask(self, mask: int) -> int:
        """Set the mask for modes of new files, and return the previous one."""
        before, self.mask = self.mask, mask & 0o777
        return before

    # shared by several calls

    def _may_replace(self, node: Inode, target: Inode | None, old_parent: int, new_parent: int, *, slash: bool) -> int:
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
        """Return whether a directory is the given ancestor or lies below it."""
        while ino not in (ancestor, ROOT):
            node = self.tree.nodes.find(ino)
            if not isinstance(node, Directory):
                return False
            ino = node.parent
        return ino == ancestor

    def _detach(self, parent: int, name: bytes, node: Inode) -> None:
        """Remove an entry, and its node unless that is in use."""
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

"""The table of nodes: ownership, charges, marks and undo, and path lookup.

Nodes refer to each other by number, and a tree maps numbers to nodes. So a clone is a copy of that table, and undo puts
old nodes back into it. The journal of a mark holds, for every number that has changed since, the previous node (None if
there was none). A node enters the journal once, when it is first replaced, so the journal is never larger than the tree
was.

Charges. Every byte of a chunk and every guest-made node is reserved with the quota before it exists. The charge is
released when it is dropped, unless the mark may still need it: then it stays charged (`kept`) until the mark is dropped
or undone. Copies of directories and nodes for the journal are not charged: at most they double the nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from wasm_runtime.errno import Errno
from wasm_runtime.vfs.nodes import FIRST_GUEST_INO, ROOT, Directory, Inode, MountedFile, Symlink
from wasm_runtime.vfs.quota import Quota
from wasm_runtime.vfs.shared_files import NodeTable, SharedFiles

# Charged for a node: the objects, its name of up to 255 bytes and its entries in two tables, rounded up.
NODE_COST = 1024
LONGEST_NAME = 255
LONGEST_PATH = 4095  # PATH_MAX less the NUL
MOST_LINKS = 40  # symbolic links followed in one walk, as on Linux

_epochs = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeMark:
    """The state of a tree that `undo` restores with the help of the journal."""

    epoch: int
    charged: int
    next_guest_ino: int
    guest_nodes: int
    journal: dict[int, Inode | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeState:
    """The nodes of a tree and its counters, kept for the case that loading a dump fails."""

    nodes: NodeTable
    epoch: int
    charged: int
    next_guest_ino: int
    guest_nodes: int


# The result of a path lookup: (number of the directory or a negated Errno, last name, number of the node or 0, whether
# the path ended in "/"). The name is b"", b"." or b".." if the path does not end in an entry of the directory.
WalkResult = tuple[int, bytes, int, bool]


class Tree:
    """The nodes of one guest. A new tree has an empty root that belongs to the host."""

    def __init__(self, *, clock: Callable[[], int], quota: Quota, node_limit: int, shared: SharedFiles) -> None:
        self.clock = clock
        self.quota = quota
        self.node_limit = node_limit
        self.epoch = next(_epochs)
        self.charged = 0
        self.kept = 0
        self.guest_nodes = 0
        self.next_host_ino = ROOT + 1
        self.next_guest_ino = FIRST_GUEST_INO
        self.live_mark: TreeMark | None = None
        self.mounts: dict[bytes, int] = {}
        self.nodes = NodeTable({ROOT: Directory(ROOT, self.epoch, 0o555, clock(), ROOT)}, shared)

    # charges

    def reserve(self, n: int) -> bool:
        """Reserve n bytes of the quota, or return False."""
        if not self.quota.reserve(n):
            return False
        self.charged += n
        return True

    def release(self, n: int) -> None:
        """Return n bytes to the quota."""
        self.charged -= n
        self.quota.release(n)

    def is_kept(self, epoch: int) -> bool:
        """Return whether the mark may still need an object that was made in this epoch."""
        return self.live_mark is not None and epoch < self.live_mark.epoch

    def keep(self, n: int) -> None:
        """Count n charged bytes as kept for the mark only."""
        self.kept += n

    def drop(self, n: int, epoch: int) -> None:
        """Release n bytes of an object that was made in this epoch: now, or when the mark is dropped."""
        if self.is_kept(epoch):
            self.kept += n
        else:
            self.release(n)

    # nodes

    def own(self, ino: int) -> Inode:
        """Return the node for modification. A shared node is replaced by a copy first."""
        node = self.nodes[ino]
        if node.epoch != self.epoch:
            if self.live_mark is not None and node.epoch < self.live_mark.epoch:
                self.live_mark.journal.setdefault(ino, node)
            node = node.copy(self.epoch)
            self.nodes[ino] = node
        return node

    def own_directory(self, ino: int) -> Directory:
        """Return the directory with this number for modification."""
        node = self.own(ino)
        assert isinstance(node, Directory)  # noqa: S101 - numbers of parents are numbers of directories
        return node

    def allocate_ino(self, *, host: bool) -> int:
        """Return the next free number of a host-made or guest-made node."""
        if host:
            self.next_host_ino += 1
            return self.next_host_ino - 1
        self.next_guest_ino += 1
        return self.next_guest_ino - 1

    def reserve_node(self, extra: int = 0) -> int:
        """Charge for a guest-made node before it is added. Return 0 or a negated `Errno`."""
        if self.guest_nodes >= self.node_limit or not self.reserve(NODE_COST + extra):
            return -Errno.ENOSPC
        self.guest_nodes += 1
        return 0

    def add(self, node: Inode, parent: int, name: bytes) -> None:
        """Add a new node to a directory."""
        self.nodes[node.ino] = node
        if self.live_mark is not None:
            self.live_mark.journal[node.ino] = None
        directory = self.own_directory(parent)
        directory.insert(name, node.ino)
        directory.mtime = directory.ctime = self.clock()
        if type(node) is Directory:
            directory.nlink += 1

    def remove(self, ino: int, extra: int = 0) -> None:
        """Remove a node that nothing refers to; its chunks must have been discarded before."""
        node = self.nodes.pop(ino)
        mark = self.live_mark
        if mark is not None and mark.journal.get(ino, node) is None:
            del mark.journal[ino]
            mark = None
        elif mark is not None:
            mark.journal.setdefault(ino, node)
        if node.readonly:
            return
        self.guest_nodes -= 1
        if mark is None:
            self.release(NODE_COST + extra)
        else:
            self.kept += NODE_COST + extra

    def install(self, path: bytes, make: Callable[[int, int, int], Inode]) -> Inode:
        """Make a host-made node at an unused absolute path, and its parents.

        `make` gets the number, the epoch and the time. Raises ValueError if the path cannot be used, MemoryError if
        parents inside a directory of the guest exceed its quota.
        """
        node = make(self.allocate_ino(host=True), self.epoch, self.clock())
        self.attach(path, node)
        return node

    def attach(self, path: bytes, node: Inode) -> None:
        """Add a host-made node at an unused absolute path. Raises the same errors as `install`."""
        *parents, last = [name for name in path.split(b"/") if name] or [b""]
        invalid = any(name in (b".", b"..") or len(name) > LONGEST_NAME for name in (*parents, last))
        if path[:1] != b"/" or b"\0" in path or not last or invalid or len(path) > LONGEST_PATH:
            raise ValueError(f"{path!r} cannot be mounted at: give an absolute path of plain names")
        here = ROOT
        for name in parents:
            here = self._enter(here, name, path)
        directory = self.nodes[here]
        if not isinstance(directory, Directory) or last in directory.entries:
            raise ValueError(f"{path!r} cannot be mounted at: something else is there")
        self.add(node, here, last)

    def _enter(self, here: int, name: bytes, path: bytes) -> int:
        directory = self.nodes[here]
        if not isinstance(directory, Directory):
            raise ValueError(f"{path!r} cannot be mounted at: one of its parents is not a directory")  # noqa: TRY004 - the value is wrong, not the type
        if name in directory.entries:
            return directory.entries[name][0]
        if not directory.readonly and self.reserve_node() < 0:
            raise MemoryError(f"{path!r} cannot be mounted at: its parents exceed the quota")
        ino = self.allocate_ino(host=directory.readonly)
        mode = 0o555 if directory.readonly else 0o755
        self.add(Directory(ino, self.epoch, mode, self.clock(), here), here, name)
        return ino

    # history

    def mark(self) -> TreeMark:
        """Mark this state for `undo`; an earlier mark is dropped."""
        self.forget()
        self.epoch = next(_epochs)
        self.live_mark = TreeMark(
            epoch=self.epoch,
            charged=self.charged,
            next_guest_ino=self.next_guest_ino,
            guest_nodes=self.guest_nodes,
        )
        return self.live_mark

    def forget(self) -> None:
        """Drop the mark, and release what is kept for it."""
        self.live_mark = None
        self.release(self.kept)
        self.kept = 0

    def undo(self) -> None:
        """Return to the marked state; the mark stays."""
        mark = self.live_mark
        if mark is None:
            raise ValueError("there is no mark to return to: call mark() first")
        for ino, node in mark.journal.items():
            if node is not None:
                self.nodes[ino] = node
                continue
            gone = self.nodes.pop(ino)
            if isinstance(gone, MountedFile):
                self.mounts.pop(gone.mounted_at, None)
        mark.journal.clear()
        self.next_guest_ino = mark.next_guest_ino
        self.guest_nodes = mark.guest_nodes
        self.release(self.charged - mark.charged)
        self.kept = 0

    def clone(self, quota: Quota) -> Tree:
        """Return an independent copy without a mark, charged to `quota`. Raises MemoryError if that has no room."""
        live = self.charged - self.kept
        if not quota.reserve(live):
            raise MemoryError(f"a copy of the files needs {live} bytes and {quota.available()} are free")
        other = Tree(clock=self.clock, quota=quota, node_limit=self.node_limit, shared=self.nodes.shared)
        self.epoch = next(_epochs)
        other.charged = live
        other.guest_nodes = self.guest_nodes
        other.next_host_ino = self.next_host_ino
        other.next_guest_ino = self.next_guest_ino
        other.mounts = self.mounts.copy()
        other.nodes = self.nodes.copy()
        return other

    def clone_marked(self, quota: Quota) -> Tree:
        """Return an independent copy of the marked state, charged to `quota`. Raises MemoryError as `clone` does."""
        mark = self.live_mark
        if mark is None:
            raise ValueError("there is no mark to copy: call mark() first")
        if not quota.reserve(self.charged):
            raise MemoryError(f"a copy of the files needs {self.charged} bytes and {quota.available()} are free")
        # Nodes of the mark's epoch are the only ones that change in place, and the copy has none of them.
        other = Tree(clock=self.clock, quota=quota, node_limit=self.node_limit, shared=self.nodes.shared)
        other.charged = self.charged
        other.next_host_ino = self.next_host_ino
        other.mounts = self.mounts.copy()
        other.nodes = self.nodes.copy()
        other.live_mark = replace(mark, journal=mark.journal.copy())
        other.undo()
        other.forget()
        return other

    # loading a dump

    def guest_roots(self) -> list[int]:
        """Return the numbers of the guest's directories in the host's root."""
        root = self.nodes[ROOT]
        assert isinstance(root, Directory)  # noqa: S101 - the root is a directory
        return [ino for ino, _ in root.entries.values() if ino >= FIRST_GUEST_INO]

    def state(self) -> TreeState:
        """Return the state, for `return_to`."""
        return TreeState(
            nodes=self.nodes,
            epoch=self.epoch,
            charged=self.charged,
            next_guest_ino=self.next_guest_ino,
            guest_nodes=self.guest_nodes,
        )

    def start_over(self, next_guest_ino: int) -> None:
        """Continue with a new table that has only the host's nodes; the old one stays unchanged."""
        of_the_host = {ino: node for ino, node in self.nodes.items() if ino < FIRST_GUEST_INO}
        self.nodes = NodeTable(of_the_host, self.nodes.shared)
        self.epoch = next(_epochs)
        self.next_guest_ino = next_guest_ino
        self.guest_nodes = 0

    def return_to(self, state: TreeState) -> None:
        """Return to a state. Nothing in it may have been changed in place since then."""
        self.nodes = state.nodes
        self.epoch = state.epoch
        self.next_guest_ino = state.next_guest_ino
        self.guest_nodes = state.guest_nodes
        if self.charged > state.charged:
            self.release(self.charged - state.charged)

    def clear(self) -> None:
        """Drop all nodes except an empty root, and all charges."""
        self.forget()
        self.release(self.charged)
        self.guest_nodes = 0
        self.mounts = {}
        root = Directory(ROOT, self.epoch, 0o555, self.clock(), ROOT)
        self.nodes = NodeTable({ROOT: root}, self.nodes.shared)

    # paths

    def walk(self, start: int, path: bytes, *, follow: bool) -> WalkResult:
        """Look up a path from `start`; a link at its end is followed with `follow` or before a final slash."""
        if not path:
            return -Errno.ENOENT, b"", 0, False
        if len(path) > LONGEST_PATH:
            return -Errno.ENAMETOOLONG, b"", 0, False
        if b"\0" in path:
            return -Errno.EINVAL, b"", 0, False
        nodes = self.nodes
        here = nodes[ROOT if path[0] == 0x2F else start]
        if type(here) is not Directory:
            return -Errno.ENOTDIR, b"", 0, False
        slash = path[-1] == 0x2F
        names = [name for name in path.split(b"/") if name]
        position = links = 0
        name = b""
        while position < len(names):
            name = names[position]
            position += 1
            if name == b".":
                continue
            if name == b"..":
                above = nodes.find(here.parent)
                if type(above) is not Directory:  # the parent of a removed directory may be gone as well
                    return -Errno.ENOENT, b"", 0, False
                here = above
                continue
            if len(name) > LONGEST_NAME:
                return -Errno.ENAMETOOLONG, b"", 0, False
            entry = here.entries.get(name)
            last = position == len(names)
            if entry is None:
                return (here.ino, name, 0, slash) if last else (-Errno.ENOENT, b"", 0, False)
            node = nodes[entry[0]]
            if type(node) is Directory:
                if last:
                    return here.ino, name, node.ino, slash
                here = node
            elif type(node) is Symlink and (follow or slash or not last):
                links += 1
                if links > MOST_LINKS:
                    return -Errno.ELOOP, b"", 0, False
                target = node.target
                slash = slash or (last and target[-1] == 0x2F)
                names = [name for name in target.split(b"/") if name] + names[position:]
                position = 0
                name = b""
                if target[0] == 0x2F:
                    root = nodes[ROOT]
                    assert isinstance(root, Directory)  # noqa: S101 - the root is never replaced
                    here = root
            elif last and not slash:
                return here.ino, name, node.ino, False
            else:
                return -Errno.ENOTDIR, b"", 0, False
        return here.parent, name, here.ino, slash

    def path_of(self, ino: int) -> bytes | int:
        """Return the absolute path of a directory, or -ENOENT if it has been removed."""
        names: list[bytes] = []
        while ino != ROOT:
            node = self.nodes.find(ino)
            above = self.nodes.find(node.parent) if isinstance(node, Directory) else None
            if not isinstance(node, Directory) or not isinstance(above, Directory) or node.nlink == 0:
                return -Errno.ENOENT
            names.append(next(name for name, entry in above.entries.items() if entry[0] == ino))
            ino = above.ino
        return b"/" + b"/".join(reversed(names))

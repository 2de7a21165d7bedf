"""The table of nodes: who owns what, what is charged, what a mark keeps, and how a path is walked.

Nodes refer to each other by number, and a tree maps numbers to nodes. So a clone is a copy of that table, and
undoing is putting old nodes back into it: the journal of a mark holds, for every number that changed since, the
node that stood there (None where there was none). A node enters the journal once, when it is first replaced,
and the journal is therefore never larger than the tree was.

Charges. Every byte of a chunk and every guest-made node is reserved with the quota before it exists. What is
dropped goes back at once, unless the mark could still need it: then it stays charged (`kept`) until the mark
is forgotten or undone. Copies of directories and nodes for the journal are not charged: they at most double the nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from wasm_runtime.errno import Errno
from wasm_runtime.vfs.nodes import FIRST_GUEST_INO, ROOT, Directory, Inode, MountedFile, Symlink
from wasm_runtime.vfs.quota import Quota

# Charged for a node: the objects, its name of up to 255 bytes, its places in two tables, with room to spare.
NODE_COST = 1024
LONGEST_NAME = 255
LONGEST_PATH = 4095  # PATH_MAX less the NUL
MOST_LINKS = 40  # symbolic links followed in one walk, as on Linux

_epochs = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeMark:
    """What a tree needs, with the journal, to become again what it was."""

    epoch: int
    charged: int
    next_guest_ino: int
    guest_nodes: int
    journal: dict[int, Inode | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeState:
    """A table of nodes and what goes with it, to go back to when loading another fails."""

    nodes: dict[int, Inode]
    epoch: int
    charged: int
    next_guest_ino: int
    guest_nodes: int


# Where a path leads: (number of the directory or a negated Errno, last name, number of the node or 0, ended in "/").
# The name is b"", b"." or b".." when the path ends in no entry of the directory.
WalkResult = tuple[int, bytes, int, bool]


class Tree:
    """The nodes of one guest. It starts with an empty root of the host."""

    def __init__(self, *, clock: Callable[[], int], quota: Quota, node_limit: int) -> None:
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
        self.nodes: dict[int, Inode] = {ROOT: Directory(ROOT, self.epoch, 0o555, clock(), ROOT)}

    # charges

    def reserve(self, n: int) -> bool:
        """Reserve n bytes, or return False."""
        if not self.quota.reserve(n):
            return False
        self.charged += n
        return True

    def release(self, n: int) -> None:
        """Give back n bytes."""
        self.charged -= n
        self.quota.release(n)

    def is_kept(self, epoch: int) -> bool:
        """Tell whether the live mark can still need what was made in this epoch."""
        return self.live_mark is not None and epoch < self.live_mark.epoch

    def keep(self, n: int) -> None:
        """Count n of the bytes that are already charged as held for the mark only."""
        self.kept += n

    def drop(self, n: int, epoch: int) -> None:
        """Give back n bytes of something made in this epoch, now or when the mark goes."""
        if self.is_kept(epoch):
            self.kept += n
        else:
            self.release(n)

    # nodes

    def own(self, ino: int) -> Inode:
        """Return the node, replaced by a copy first where it is shared, so that it may be changed."""
        node = self.nodes[ino]
        if node.epoch != self.epoch:
            if self.live_mark is not None and node.epoch < self.live_mark.epoch:
                self.live_mark.journal.setdefault(ino, node)
            node = node.copy(self.epoch)
            self.nodes[ino] = node
        return node

    def own_directory(self, ino: int) -> Directory:
        """Return the directory with this number, to be changed."""
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
        """Charge a guest-made node that is about to be added. Return 0 or a negated `Errno`."""
        if self.guest_nodes >= self.node_limit or not self.reserve(NODE_COST + extra):
            return -Errno.ENOSPC
        self.guest_nodes += 1
        return 0

    def add(self, node: Inode, parent: int, name: bytes) -> None:
        """Put a new node under a name in a directory."""
        self.nodes[node.ino] = node
        if self.live_mark is not None:
            self.live_mark.journal[node.ino] = None
        directory = self.own_directory(parent)
        directory.insert(name, node.ino)
        directory.mtime = directory.ctime = self.clock()
        if type(node) is Directory:
            directory.nlink += 1

    def remove(self, ino: int, extra: int = 0) -> None:
        """Take a node that nothing refers to any more out of the table; its chunks must have been discarded."""
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
        """Put a host-made node at an absolute path where nothing is, making its parents.

        make is given the number, the epoch and the time. ValueError when the path cannot be used, MemoryError
        when parents inside a directory of the guest exceed its quota.
        """
        node = make(self.allocate_ino(host=True), self.epoch, self.clock())
        self.attach(path, node)
        return node

    def attach(self, path: bytes, node: Inode) -> None:
        """Give a host-made node its place; errors as from `install`."""
        *parents, last = [name for name in path.split(b"/") if name] or [b""]
        spoilt = any(name in (b".", b"..") or len(name) > LONGEST_NAME for name in (*parents, last))
        if path[:1] != b"/" or b"\0" in path or not last or spoilt or len(path) > LONGEST_PATH:
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
            raise ValueError(f"{path!r} cannot be mounted at: a parent of it is no directory")  # noqa: TRY004 - the value is wrong, not the type
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
        """Remember this state; an earlier mark is forgotten."""
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
        """Give back what is held for the live mark."""
        self.live_mark = None
        self.release(self.kept)
        self.kept = 0

    def undo(self) -> None:
        """Become again what the live mark remembers; it stays live."""
        mark = self.live_mark
        if mark is None:
            raise ValueError("there is no mark to go back to: call mark() first")
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
        """Return an independent copy without a mark, charged to quota. MemoryError when that refuses."""
        live = self.charged - self.kept
        if not quota.reserve(live):
            raise MemoryError(f"a copy of the files needs {live} bytes and {quota.available()} are free")
        other = Tree(clock=self.clock, quota=quota, node_limit=self.node_limit)
        self.epoch = next(_epochs)
        other.charged = live
        other.guest_nodes = self.guest_nodes
        other.next_host_ino = self.next_host_ino
        other.next_guest_ino = self.next_guest_ino
        other.mounts = self.mounts.copy()
        other.nodes = self.nodes.copy()
        return other

    # starting over

    def guest_roots(self) -> list[int]:
        """Return the numbers of the guest's directories that hang in the host's root."""
        root = self.nodes[ROOT]
        assert isinstance(root, Directory)  # noqa: S101 - the root is a directory
        return [ino for ino, _ in root.entries.values() if ino >= FIRST_GUEST_INO]

    def state(self) -> TreeState:
        """Return what `go_back` needs."""
        return TreeState(
            nodes=self.nodes,
            epoch=self.epoch,
            charged=self.charged,
            next_guest_ino=self.next_guest_ino,
            guest_nodes=self.guest_nodes,
        )

    def start_over(self, next_guest_ino: int) -> None:
        """Go on with a new table that has the host's nodes only, and leave the old one as it is."""
        self.nodes = {ino: node for ino, node in self.nodes.items() if ino < FIRST_GUEST_INO}
        self.epoch = next(_epochs)
        self.next_guest_ino = next_guest_ino
        self.guest_nodes = 0

    def return_to(self, state: TreeState) -> None:
        """Become again what the state remembers, for which nothing since then may have been changed in place."""
        self.nodes = state.nodes
        self.epoch = state.epoch
        self.next_guest_ino = state.next_guest_ino
        self.guest_nodes = state.guest_nodes
        if self.charged > state.charged:
            self.release(self.charged - state.charged)

    def clear(self) -> None:
        """Drop all nodes but an empty root, and all charges."""
        self.forget()
        self.release(self.charged)
        self.guest_nodes = 0
        self.mounts = {}
        self.nodes = {ROOT: Directory(ROOT, self.epoch, 0o555, self.clock(), ROOT)}

    # paths

    def walk(self, start: int, path: bytes, *, follow: bool) -> WalkResult:
        """Follow a path from the directory numbered start; a link at its end only with follow or a final slash."""
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
                above = nodes.get(here.parent)
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
        """Return the absolute path of a directory, or -ENOENT when it has been removed."""
        names: list[bytes] = []
        while ino != ROOT:
            node = self.nodes.get(ino)
            above = self.nodes.get(node.parent) if isinstance(node, Directory) else None
            if not isinstance(node, Directory) or not isinstance(above, Directory) or node.nlink == 0:
                return -Errno.ENOENT
            names.append(next(name for name, entry in above.entries.items() if entry[0] == ino))
            ino = above.ino
        return b"/" + b"/".join(reversed(names))

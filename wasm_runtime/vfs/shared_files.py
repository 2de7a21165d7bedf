"""Read-only files that all guests of a Runtime share: their nodes are made once, on first use.

A table of nodes costs a session as much as it has entries, and a package has hundreds of files. So these nodes are in
a table of their own, in which a tree looks for the numbers that it does not have itself (`NodeTable`).
"""

import threading
from collections.abc import Callable, Iterable, Mapping

from wasm_runtime.vfs.mounted_files import MountSource
from wasm_runtime.vfs.nodes import ROOT, Directory, Inode, MountedFile

SHARED_DIRECTORY = b"usr"
SITE_PACKAGES = "/usr/lib/python3.14/site-packages"
# Between the numbers of the nodes that the host makes for one tree and those of the guest.
SHARED_ROOT = 1 << 31
# Older than the epoch of any tree, so that none changes these nodes in place.
_EPOCH = 0

FileList = Callable[[], Mapping[str, MountSource]]


class SharedFiles:
    """The nodes of /usr. `lists` return files by absolute path; they are called when a guest first looks there."""

    def __init__(self, lists: Iterable[FileList] = ()) -> None:
        self._lists = tuple(lists)
        self._lock = threading.Lock()
        self._nodes: dict[int, Inode] = {}

    def node(self, ino: int) -> Inode:
        """Return the node with this number. Raises KeyError."""
        if not self._nodes:
            with self._lock:
                self._nodes = self._nodes or _nodes(path for files in self._lists for path in files().items())
        return self._nodes[ino]


class NodeTable(dict[int, Inode]):
    """The nodes of one tree by number, and behind them the shared ones."""

    __slots__ = ("shared",)

    def __init__(self, own: Mapping[int, Inode], shared: SharedFiles) -> None:
        super().__init__(own)
        self.shared = shared

    def __missing__(self, ino: int) -> Inode:
        return self.shared.node(ino)

    def find(self, ino: int) -> Inode | None:
        """Return the node with this number if there is one; `get` of a dict does not look at the shared ones."""
        try:
            return self[ino]
        except KeyError:
            return None

    def copy(self) -> "NodeTable":
        """Return a table of the same nodes."""
        return NodeTable(self, self.shared)


def _nodes(files: Iterable[tuple[str, MountSource]]) -> dict[int, Inode]:
    root = Directory(SHARED_ROOT, _EPOCH, 0o555, 0, ROOT)
    nodes: dict[int, Inode] = {SHARED_ROOT: root}
    directories = {f"/{SHARED_DIRECTORY.decode()}": root}
    for path, source in files:
        parent, _, name = path.rpartition("/")
        directory = _directory(nodes, directories, parent)
        node = MountedFile(SHARED_ROOT + len(nodes), _EPOCH, 0, path.encode(), source)
        nodes[node.ino] = node
        directory.insert(name.encode(), node.ino)
    return nodes


def _directory(nodes: dict[int, Inode], directories: dict[str, Directory], path: str) -> Directory:
    found = directories.get(path)
    if found is not None:
        return found
    above, _, name = path.rpartition("/")
    parent = _directory(nodes, directories, above)
    made = Directory(SHARED_ROOT + len(nodes), _EPOCH, 0o555, 0, parent.ino)
    nodes[made.ino] = directories[path] = made
    parent.insert(name.encode(), made.ino)
    parent.nlink += 1
    return made

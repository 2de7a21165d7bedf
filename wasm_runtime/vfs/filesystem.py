"""The guest's file system: it decides what each call returns, without I/O except reads of mounted files.

Every call returns a result or a negated `Errno`: either an int that is negative for an error, or a value or a negative
int. No call raises, whatever the guest does. Paths and names are bytes as the guest wrote them, without the NUL.
Flags, commands and `AT_` constants have Linux's numbers, which Emscripten shares. The guest is user 0, the only one.
Times are nanoseconds of the clock given to the constructor; reading a file does not change its access time.

The files of this package, from the bottom: `nodes`, `shared_files`, `tree` (ownership, charges, undo, paths), `content`
(bytes of files), `descriptors`, `open_tree`, then the guest's calls in `descriptor_calls` and `path_calls`, and here
the host's calls. `dump` saves and loads; `mounted_files` and `devices` connect the file system to the outside.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path

from wasm_runtime.vfs.descriptors import Descriptors, OpenFile
from wasm_runtime.vfs.devices import Device, NullDevice, RandomDevice, ZeroDevice
from wasm_runtime.vfs.dump import dump, load
from wasm_runtime.vfs.flags import AT_FDCWD, O_RDONLY, O_WRONLY
from wasm_runtime.vfs.mounted_files import BytesSource, HostFile, LateFile, MountSource
from wasm_runtime.vfs.nodes import ROOT, DeviceNode, Directory, MountedFile
from wasm_runtime.vfs.path_calls import PathCalls
from wasm_runtime.vfs.quota import Quota
from wasm_runtime.vfs.shared_files import SHARED_DIRECTORY, SHARED_ROOT, SharedFiles
from wasm_runtime.vfs.tree import Tree, TreeMark

# The directories that the guest may change; the root and everything else in it belong to the host.
WRITABLE = (b"tmp", b"home")
HOST_DIRECTORIES = (b"lib", b"dev", b"context")
STREAMS = (b"/dev/stdin", b"/dev/stdout", b"/dev/stderr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A state of the tree, the descriptors and the working directory that `Vfs.undo` can restore."""

    tree: TreeMark
    descriptors: Descriptors
    cwd: int
    mask: int


class Vfs(PathCalls):
    """The files of one guest: its tree, its open files, its working directory. Used by one thread at a time.

    `devices` maps absolute paths to devices; /dev/stdin, /dev/stdout and /dev/stderr, where given, are open as
    descriptors 0, 1 and 2. `random` feeds /dev/urandom. The tree starts with /tmp and /home (the working
    directory), which the guest may change, and /lib, /dev, /context and /usr, which it may not; `shared` is in /usr.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int],
        quota: Quota,
        devices: Mapping[str, Device] | None = None,
        random: Callable[[int], bytes] = os.urandom,
        node_limit: int = 100_000,
        shared: SharedFiles | None = None,
    ) -> None:
        super().__init__(clock=clock, quota=quota, node_limit=node_limit, shared=shared or SharedFiles())
        self.latest: Mark | None = None
        for name in WRITABLE:
            self._make_root_directory(name, 0o1777 if name == b"tmp" else 0o755, host=False)
        for name in HOST_DIRECTORIES:
            self._make_root_directory(name, 0o555, host=True)
        root = self.tree.own_directory(ROOT)
        root.insert(SHARED_DIRECTORY, SHARED_ROOT)
        root.nlink += 1
        self.chdir(b"/home")
        always = {"/dev/null": NullDevice(), "/dev/zero": ZeroDevice(), "/dev/urandom": RandomDevice(random)}
        for path, device in {**always, **(devices or {})}.items():
            self.bind(path, device)
        for fd, stream in enumerate(STREAMS):
            if stream in self.devices:
                self.descriptors.put(fd, OpenFile(self._find(AT_FDCWD, stream), O_WRONLY if fd else O_RDONLY))

    def mount(self, path: str, source: bytes | memoryview | Path | LateFile) -> None:
        """Mount a read-only file at an absolute path, creating its parents, or replace the file that is mounted there.

        Raises ValueError if the path cannot be used; for a Path also OSError and ValueError of `HostFile`.
        """
        opened: MountSource
        match source:
            case Path():
                opened = HostFile(source)
            case LateFile():
                opened = source
            case _:
                opened = BytesSource(source)
        at = os.fsencode(path)
        ino = self.tree.mounts.get(at)
        if ino is not None:
            self.tree.nodes[ino] = MountedFile(ino, self.tree.epoch, self.tree.clock(), at, opened)
            return
        node = self.tree.install(at, lambda ino, epoch, now: MountedFile(ino, epoch, now, at, opened))
        self.tree.mounts[at] = node.ino

    def bind(self, path: str, device: Device) -> None:
        """Put a character device at a path under /dev, or replace the device there."""
        at = os.fsencode(path)
        if not at.startswith(b"/dev/"):
            raise ValueError(f"{path!r} cannot hold a device: give a path under /dev")
        if at not in self.devices:
            self.tree.install(at, lambda ino, epoch, now: DeviceNode(ino, epoch, now, at))
        self.devices[at] = device

    def mark(self) -> Mark:
        """Mark this state, so that `undo` can restore it. An earlier mark is dropped."""
        self.latest = Mark(tree=self.tree.mark(), descriptors=self.descriptors.copy(), cwd=self.cwd, mask=self.mask)
        return self.latest

    def undo(self, mark: Mark) -> None:
        """Restore the tree, the descriptors with their offsets, and the working directory. The mark stays valid."""
        if mark is not self.latest:
            raise ValueError("this mark was dropped: only the latest mark can be undone")
        self.tree.undo()
        self.descriptors = mark.descriptors.copy()
        self.cwd = mark.cwd
        self.mask = mark.mask

    def forget(self, mark: Mark) -> None:
        """Drop the mark, and release what is held for it."""
        if mark is self.latest:
            self.latest = None
            self.tree.forget()

    def clone(self, *, quota: Quota, devices: Mapping[str, Device] | None = None) -> Vfs:
        """Return an independent copy, without a mark. The two share bytes until one of them writes.

        Devices that are not given are shared. Raises MemoryError when the quota has no room for the files.
        """
        return self._copied(self.tree.clone(quota), devices or {})

    def clone_marked(self, mark: Mark, *, quota: Quota, devices: Mapping[str, Device] | None = None) -> Vfs:
        """The same for the state of the latest mark."""
        if mark is not self.latest:
            raise ValueError("this mark was dropped: only the latest mark can be copied")
        other = self._copied(self.tree.clone_marked(quota), devices or {})
        other.descriptors, other.cwd, other.mask = mark.descriptors.copy(), mark.cwd, mark.mask
        return other

    def _copied(self, tree: Tree, devices: Mapping[str, Device]) -> Vfs:
        other = copy(self)
        other.tree = tree
        other.descriptors = self.descriptors.copy()
        other.devices = self.devices.copy()
        other.latest = None
        for path, device in devices.items():
            other.bind(path, device)
        return other

    def dump(self) -> bytes:
        """Return everything the guest made, its descriptors and its working directory, as bytes."""
        return dump(self.tree, self.descriptors, self.cwd, self.mask)

    def load(self, data: bytes) -> None:
        """Replace everything the guest made by a dump; the mounts and devices of this tree stay.

        Raises `BadDump`, or MemoryError when the quota has no room; nothing has changed then. A mark is dropped.
        A mount of the dump that this tree does not have is missing; reading an open descriptor of it gives EIO.
        """
        self.tree.forget()
        self.latest = None
        self.descriptors, self.cwd, self.mask = load(self.tree, data)

    def close(self) -> None:
        """Release everything; the tree is empty afterwards."""
        self.descriptors = Descriptors()
        self.latest = None
        self.tree.forget()
        self.tree.clear()
        self.cwd = ROOT

    def __repr__(self) -> str:
        return (
            f"<Vfs {self.tree.guest_nodes} guest nodes, {self.tree.charged} bytes, {len(self.descriptors.files)} open>"
        )

    def _make_root_directory(self, name: bytes, mode: int, *, host: bool) -> None:
        ino = self.tree.allocate_ino(host=host)
        self.tree.add(Directory(ino, self.tree.epoch, mode, self.tree.clock(), ROOT), ROOT, name)

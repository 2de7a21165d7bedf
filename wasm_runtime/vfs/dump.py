"""Dumps: everything a guest changed in its files, as bytes that can be loaded over the mounts of another session.

A dump is a fixed head (magic, length of the JSON), a JSON object, and the bytes of all chunks in the order in which
the JSON lists them. It contains the nodes that the guest made, with their numbers. Nodes that the host made (mounts,
devices, the read-only directories) are referred to by path and looked up in the tree that loads the dump.
Names are UTF-8 with surrogate escapes. All input is checked, because a dump may have been read from a disk.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import suppress

from wasm_runtime.vfs.content import CHUNK_COST, LONGEST_FILE
from wasm_runtime.vfs.descriptors import MOST_DESCRIPTORS, Descriptors, OpenFile
from wasm_runtime.vfs.flags import O_ACCMODE, O_APPEND, O_NONBLOCK
from wasm_runtime.vfs.mounted_files import MissingSource
from wasm_runtime.vfs.nodes import (
    CHUNK,
    FIRST_GUEST_INO,
    ROOT,
    Chunk,
    DeviceNode,
    Directory,
    Inode,
    MemoryFile,
    MountedFile,
    Symlink,
)
from wasm_runtime.vfs.tree import LONGEST_NAME, LONGEST_PATH, NODE_COST, Tree

_HEAD = struct.Struct("<8sQ")
_MAGIC = b"vfsdump1"
_LARGEST = (1 << 63) - 1
# `stat` reports whole seconds in 64 bits.
_LATEST_NS = (1 << 63) * 10**9

# A reference to a node: the number of one that the guest made, the path of one that the host made.
Ref = int | str
JsonObject = dict[str, object]


class BadDump(ValueError):
    """The bytes are not a dump, or they contradict themselves."""


def dump(tree: Tree, descriptors: Descriptors, cwd: int, mask: int) -> bytes:
    """Return everything the guest changed, with its descriptors and its working directory."""
    records: list[JsonObject] = []
    blobs: list[bytearray] = []
    for ino, node in tree.nodes.items():
        if ino >= FIRST_GUEST_INO:
            records.append(_record(tree, node))
            if isinstance(node, MemoryFile):
                blobs += [chunk.data for chunk in node.chunks.values()]
    files = list({id(file): file for file in descriptors.files.values()}.values())
    places = {id(file): place for place, file in enumerate(files)}
    text = json.dumps(
        {
            "next_ino": tree.next_guest_ino,
            "cwd": _ref(tree, cwd),
            "mask": mask,
            "nodes": records,
            "files": [
                {
                    "node": _ref(tree, file.ino),
                    "size": tree.nodes[file.ino].size,
                    "flags": file.flags,
                    "offset": file.offset,
                }
                for file in files
            ],
            "descriptors": [
                [fd, places[id(file)], fd in descriptors.close_on_exec] for fd, file in descriptors.files.items()
            ],
        },
        separators=(",", ":"),
    ).encode("ascii")
    return b"".join([_HEAD.pack(_MAGIC, len(text)), text, *blobs])


def load(tree: Tree, data: bytes) -> tuple[Descriptors, int, int]:
    """Load a dump into a tree without a mark; return descriptors, working directory and mask.

    Raises BadDump, or MemoryError when the quota or the limit on nodes is exceeded; the tree is then as it was.
    """
    before = tree.state()
    try:
        return _load(tree, *_split(data))
    except BaseException:  # a signal too: a tree is loaded whole or not at all
        tree.return_to(before)
        raise


def _load(tree: Tree, header: object, blobs: memoryview) -> tuple[Descriptors, int, int]:
    match header:
        case {
            "next_ino": int(next_ino),
            "cwd": int() | str() as cwd_ref,
            "mask": int(mask),
            "nodes": list(records),
            "files": list(files),
            "descriptors": list(numbers),
        } if FIRST_GUEST_INO < next_ino < _LARGEST:
            tree.start_over(next_ino)
        case _:
            raise BadDump("the dump's header lacks a field or has one of another type: another version made it")
    attached = _add_nodes(tree, records, blobs)
    descriptors = _descriptors(tree, files, numbers)
    cwd = _resolve(tree, cwd_ref)
    if not isinstance(tree.nodes.find(cwd), Directory):
        cwd = _resolve(tree, "/home")
    _drop_unused(tree, {cwd, *(file.ino for file in descriptors.files.values())})
    _attach_mounts(tree, attached)
    _charge(tree)
    return descriptors, cwd, mask & 0o777


def _record(tree: Tree, node: Inode) -> JsonObject:
    record: JsonObject = {
        "ino": node.ino,
        "mode": node.mode & 0o7777,
        "times": [node.atime, node.mtime, node.ctime],
    }
    match node:
        case Directory():
            record["parent"] = _ref(tree, node.parent) if node.nlink else "/"
            record["next_cookie"] = node.next_cookie
            record["entries"] = [[_text(name), _ref(tree, ino), cookie] for name, (ino, cookie) in node.entries.items()]
        case MemoryFile():
            record["length"] = node.length
            record["chunks"] = [[index, len(chunk.data)] for index, chunk in node.chunks.items()]
        case Symlink():
            record["target"] = _text(node.target)
    return record


def _ref(tree: Tree, ino: int) -> Ref:
    node = tree.nodes.find(ino)
    match node:
        case MountedFile():
            return _text(node.mounted_at)
        case DeviceNode():
            return _text(node.device)
        case Directory() if node.readonly:
            path = tree.path_of(ino)
            return "/" if isinstance(path, int) else _text(path)
    return ino


def _split(data: bytes) -> tuple[object, memoryview]:
    if len(data) < _HEAD.size:
        raise BadDump(f"{len(data)} bytes are too few for a dump of files")
    magic, length = _HEAD.unpack_from(data)
    if magic != _MAGIC or length > len(data) - _HEAD.size:
        raise BadDump("these bytes are not a dump of files, or only the beginning of one")
    try:
        header = json.loads(data[_HEAD.size : _HEAD.size + length])
    except (ValueError, RecursionError) as error:
        raise BadDump("the dump's header is not JSON") from error
    return header, memoryview(data)[_HEAD.size + length :]


def _add_nodes(tree: Tree, records: list[object], blobs: memoryview) -> set[int]:
    """Make all nodes, then add them to their directories; return the mounts that were put back."""
    if len(records) > tree.node_limit + len(tree.guest_roots()):
        raise MemoryError(f"the dump has {len(records)} nodes and {tree.node_limit} are allowed")
    entries: dict[int, list[object]] = {}
    parents: dict[int, Ref] = {}
    taken = 0
    for record in records:
        match record:
            case {"ino": int(ino), "mode": int(mode), "times": [int(atime), int(mtime), int(ctime)]} if (
                FIRST_GUEST_INO <= ino < tree.next_guest_ino
                and ino not in tree.nodes
                and all(-_LATEST_NS <= time < _LATEST_NS for time in (atime, mtime, ctime))
            ):
                node: Inode
            case _:
                raise BadDump(f"the dump has a node that is not possible: {record!r:.200}")
        match record:
            case {"parent": int() | str() as parent, "entries": list(listed), "next_cookie": int(next_cookie)} if (
                next_cookie <= _LARGEST // 2
            ):
                node = Directory(ino, tree.epoch, mode & 0o7777, 0, ROOT)
                node.next_cookie = next_cookie
                entries[ino], parents[ino] = listed, parent
            case {"length": int(length), "chunks": list(chunks)} if 0 <= length <= LONGEST_FILE:
                node = MemoryFile(ino, tree.epoch, mode & 0o7777, 0)
                node.length = length
                taken = _add_chunks(tree, node, chunks, blobs, taken)
            case {"target": str(target)} if 0 < len(_bytes(target)) <= LONGEST_PATH:
                node = Symlink(ino, tree.epoch, 0, _bytes(target))
            case _:
                raise BadDump(f"the dump has a node of an unknown kind: {record!r:.200}")
        node.atime, node.mtime, node.ctime = atime, mtime, ctime
        node.nlink = 0
        tree.nodes[ino] = node
    if taken != len(blobs):
        raise BadDump(f"the dump has {len(blobs)} bytes of content, but lists {taken}")
    return _attach_entries(tree, entries, parents)


def _add_chunks(tree: Tree, node: MemoryFile, chunks: list[object], blobs: memoryview, taken: int) -> int:
    for chunk in chunks:
        match chunk:
            case [int(index), int(length)] if (
                index >= 0
                and index not in node.chunks
                and 0 <= length <= CHUNK
                and index * CHUNK + length <= node.length
                and taken + length <= len(blobs)
            ):
                node.chunks[index] = Chunk(tree.epoch, bytearray(blobs[taken : taken + length]))
                taken += length
            case _:
                raise BadDump(f"the dump has a chunk of a file that is not possible: {chunk!r:.200}")
    return taken


def _attach_entries(tree: Tree, entries: dict[int, list[object]], parents: dict[int, Ref]) -> set[int]:
    """Fill the directories from the top down: each node must be reached once, and none may contain itself."""
    mounted: set[int] = set()
    waiting = tree.guest_roots()
    for top in waiting:
        node = tree.nodes.find(top)
        if not isinstance(node, Directory) or parents[top] != "/":
            raise BadDump("the dump lacks a directory that every tree has")
        node.nlink = 2
    while waiting:
        directory = tree.nodes[waiting.pop()]
        if not isinstance(directory, Directory):
            continue
        for name, ref, cookie in _entries(entries[directory.ino], directory):
            if isinstance(ref, str):
                ino = tree.mounts.get(_bytes(ref), 0)
                if ino in mounted:
                    raise BadDump(f"the dump has the mount {ref!r} twice")
                if ino:
                    mounted.add(ino)
                    directory.entries[name] = (ino, cookie)
                continue
            ino = ref
            if ino not in tree.nodes or ino < FIRST_GUEST_INO or tree.nodes[ino].nlink:
                raise BadDump(f"the dump's entry {name!r} refers to a node that does not exist or has a name already")
            node = tree.nodes[ino]
            node.nlink = 2 if isinstance(node, Directory) else 1
            if isinstance(node, Directory):
                if parents[ino] != directory.ino:
                    raise BadDump(
                        f"the dump's directory {name!r} names another parent than the directory that contains it"
                    )
                node.parent = directory.ino
                directory.nlink += 1
                waiting.append(ino)
            directory.entries[name] = (ino, cookie)
    return mounted


def _entries(listed: list[object], directory: Directory) -> Iterator[tuple[bytes, Ref, int]]:
    least = 3
    for entry in listed:
        match entry:
            case [str(text), int() | str() as ref, int(cookie)] if least <= cookie < directory.next_cookie:
                name = _bytes(text)
                least = cookie + 1
            case _:
                raise BadDump(f"the dump has a directory entry that is not possible: {entry!r:.200}")
        bad = not name or len(name) > LONGEST_NAME or name in (b".", b"..") or b"/" in name or b"\0" in name
        if bad or name in directory.entries:
            raise BadDump(f"the dump has an entry with a name that cannot be: {name[:200]!r}")
        yield name, ref, cookie


def _descriptors(tree: Tree, files: list[object], numbers: list[object]) -> Descriptors:
    opened: list[OpenFile] = []
    for file in files:
        match file:
            case {"node": int() | str() as ref, "size": int(size), "flags": int(flags), "offset": int(offset)} if (
                0 <= size <= _LARGEST and 0 <= offset <= _LARGEST
            ):
                ino = _resolve(tree, ref)
                if not ino and isinstance(ref, str):
                    ino = _missing(tree, ref, size)
            case _:
                raise BadDump(f"the dump has an open file that is not possible: {file!r:.200}")
        if not ino:
            raise BadDump(f"the dump has an open file that does not exist: {ref!r}")
        opened.append(OpenFile(ino, flags & (O_ACCMODE | O_APPEND | O_NONBLOCK), offset))
    descriptors = Descriptors()
    for entry in numbers:
        match entry:
            case [int(fd), int(place), bool(close_on_exec)] if (
                0 <= fd < MOST_DESCRIPTORS and fd not in descriptors.files and 0 <= place < len(opened)
            ):
                descriptors.put(fd, opened[place], close_on_exec=close_on_exec)
            case _:
                raise BadDump(f"the dump has a descriptor that is not possible: {entry!r:.200}")
    return descriptors


def _resolve(tree: Tree, ref: Ref) -> int:
    """Return the number of the node that a reference denotes in this tree, or 0."""
    if isinstance(ref, int):
        return ref if ref >= FIRST_GUEST_INO and ref in tree.nodes else 0
    mounted = tree.mounts.get(_bytes(ref))
    if mounted is not None:
        return mounted
    _, _, ino, _ = tree.walk(ROOT, _bytes(ref), follow=False)
    return ino


def _missing(tree: Tree, path: str, size: int) -> int:
    ino = tree.allocate_ino(host=True)
    node = MountedFile(ino, tree.epoch, tree.clock(), _bytes(path), MissingSource(size))
    node.nlink = 0
    tree.nodes[ino] = node
    return ino


def _drop_unused(tree: Tree, used: set[int]) -> None:
    for ino in [ino for ino, node in tree.nodes.items() if node.nlink == 0 and ino not in used]:
        del tree.nodes[ino]


def _charge(tree: Tree) -> None:
    """Count and charge the loaded nodes. This is the last step: a released charge might not be reserved again."""
    made = [node for ino, node in tree.nodes.items() if ino >= FIRST_GUEST_INO]
    tree.guest_nodes = len(made) - len(tree.guest_roots())
    total = tree.guest_nodes * NODE_COST
    for node in made:
        if isinstance(node, MemoryFile):
            total += sum(len(chunk.data) + CHUNK_COST for chunk in node.chunks.values())
        elif isinstance(node, Symlink):
            total += len(node.target)
    growth = total - tree.charged
    if growth > 0 and not tree.reserve(growth):
        raise MemoryError(f"the dump's files need {total} bytes: the quota has no room for {growth} of them")
    if growth < 0:
        tree.release(-growth)


def _attach_mounts(tree: Tree, attached: set[int]) -> None:
    """Put mounts that the dump does not mention into the guest's directories; the guest's entries take precedence."""
    for path, ino in tree.mounts.items():
        node = tree.nodes[ino]
        if ino not in attached and tree.walk(ROOT, path, follow=False)[2] != ino:
            with suppress(ValueError):
                tree.attach(path, node)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BadDump(f"the dump has a name that is not a file name: {text!r:.200}") from error

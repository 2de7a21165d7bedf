"""Marks, clones and dumps of the guest's file system."""

import json
import os
import struct

import pytest

from wasm_runtime.errno import Errno
from wasm_runtime.vfs.content import CHUNK_COST
from wasm_runtime.vfs.dump import BadDump
from wasm_runtime.vfs.filesystem import Vfs
from wasm_runtime.vfs.flags import AT_FDCWD, O_APPEND, O_CREAT, O_RDONLY, O_RDWR, O_WRONLY
from wasm_runtime.vfs.nodes import CHUNK, FIRST_GUEST_INO
from wasm_runtime.vfs.quota import FixedQuota
from wasm_runtime.vfs.tree import NODE_COST

from .trees import read_file


def new_vfs(limit: int = 1 << 24) -> Vfs:
    return Vfs(clock=lambda: 7, quota=FixedQuota(limit))


def opened(vfs: Vfs, path: bytes, flags: int = O_CREAT | O_RDWR) -> int:
    fd = vfs.openat(AT_FDCWD, path, flags, 0o644)
    assert fd >= 0
    return fd


# Marks


def test_undo_brings_back_names_contents_positions_and_the_working_directory() -> None:
    vfs = new_vfs()
    fd = opened(vfs, b"f")
    vfs.write(fd, b"before")
    mark = vfs.mark()
    vfs.write(fd, b" and after")
    vfs.unlinkat(AT_FDCWD, b"f")
    vfs.close_fd(fd)
    vfs.mkdirat(AT_FDCWD, b"d", 0o755)
    vfs.chdir(b"d")
    vfs.umask(0)
    vfs.undo(mark)
    assert read_file(vfs, b"f") == b"before"
    assert vfs.lseek(fd, 0, os.SEEK_CUR) == 6
    assert vfs.getcwd() == b"/home"
    assert vfs.stat(b"d") == -Errno.ENOENT
    assert vfs.umask(0) == 0o022


def test_an_append_to_a_large_file_keeps_one_chunk_for_the_mark() -> None:
    vfs = new_vfs()
    fd = opened(vfs, b"f")
    vfs.write(fd, b"x" * (100 * CHUNK + 10))
    charged = vfs.tree.charged
    mark = vfs.mark()
    vfs.write(fd, b"more")
    assert vfs.tree.charged == charged + 4 + 10 + CHUNK_COST
    vfs.forget(mark)
    assert vfs.tree.charged == charged + 4


def test_what_a_mark_keeps_counts_against_the_quota_until_it_is_forgotten() -> None:
    vfs = new_vfs(limit=2 * NODE_COST + 3 * (CHUNK + CHUNK_COST))
    fd = opened(vfs, b"f")
    vfs.write(fd, b"x" * 2 * CHUNK)
    mark = vfs.mark()
    assert vfs.unlinkat(AT_FDCWD, b"f") == vfs.close_fd(fd) == 0
    fd = opened(vfs, b"g")
    assert vfs.write(fd, b"y" * 2 * CHUNK) == CHUNK
    vfs.forget(mark)
    assert vfs.write(fd, b"y" * CHUNK) == CHUNK


def test_a_cell_that_makes_and_removes_files_over_and_over_does_not_run_out() -> None:
    vfs = new_vfs(limit=3 * CHUNK)
    vfs.mark()
    for _ in range(50):
        fd = opened(vfs, b"f")
        assert vfs.write(fd, b"x" * CHUNK) == CHUNK
        assert vfs.unlinkat(AT_FDCWD, b"f") == vfs.close_fd(fd) == 0
    assert vfs.tree.charged == 0


def test_only_the_latest_mark_can_be_undone_and_more_than_once() -> None:
    vfs = new_vfs()
    first = vfs.mark()
    opened(vfs, b"f")
    second = vfs.mark()
    opened(vfs, b"g")
    with pytest.raises(ValueError, match="only the latest mark"):
        vfs.undo(first)
    for _ in range(2):
        vfs.undo(second)
        assert (vfs.stat(b"g"), read_file(vfs, b"f")) == (-Errno.ENOENT, b"")
        opened(vfs, b"g")


def test_an_undone_mount_can_be_mounted_again() -> None:
    vfs = new_vfs()
    mark = vfs.mark()
    vfs.mount("/context/text", b"one")
    vfs.undo(mark)
    assert read_file(vfs, b"/context/text") == -Errno.ENOENT
    vfs.mount("/context/text", b"two")
    assert read_file(vfs, b"/context/text") == b"two"


# Clones


def test_a_clone_shares_bytes_until_one_of_the_two_writes() -> None:
    vfs = new_vfs()
    fd = opened(vfs, b"f")
    vfs.write(fd, b"x" * 3 * CHUNK)
    clone = vfs.clone(quota=FixedQuota(1 << 24))
    vfs.pwrite(fd, b"mine", 0)
    clone.pwrite(fd, b"its!", 2 * CHUNK)
    assert (vfs.pread(fd, 4, 0), vfs.pread(fd, 4, 2 * CHUNK)) == (b"mine", b"xxxx")
    assert (clone.pread(fd, 4, 0), clone.pread(fd, 4, 2 * CHUNK)) == (b"xxxx", b"its!")
    assert vfs.tree.charged == clone.tree.charged
    ours, its = (tree.nodes[FIRST_GUEST_INO + 2] for tree in (vfs.tree, clone.tree))
    assert ours.chunks[1] is its.chunks[1]  # type: ignore[attr-defined] # an attribute of this one class


def test_a_clone_has_positions_of_its_own_and_may_have_other_devices() -> None:
    class Sink:
        def __init__(self) -> None:
            self.got = b""

        def read(self, n: int) -> bytes:
            return b""

        def write(self, data: memoryview) -> int:
            self.got += bytes(data)
            return len(data)

    parents, childs = Sink(), Sink()
    vfs = Vfs(clock=lambda: 7, quota=FixedQuota(1 << 20), devices={"/dev/stdout": parents})
    fd = opened(vfs, b"f")
    clone = vfs.clone(quota=FixedQuota(1 << 20), devices={"/dev/stdout": childs})
    vfs.write(fd, b"abc")
    assert (vfs.lseek(fd, 0, os.SEEK_CUR), clone.lseek(fd, 0, os.SEEK_CUR)) == (3, 0)
    vfs.write(1, b"parent")
    clone.write(1, b"child")
    assert (parents.got, childs.got) == (b"parent", b"child")


def test_a_clone_is_charged_in_full_and_refused_where_that_is_too_much() -> None:
    vfs = new_vfs()
    vfs.write(opened(vfs, b"f"), b"x" * 1000)
    quota = FixedQuota(2000)
    with pytest.raises(MemoryError, match="2280 bytes and 2000 are free"):
        vfs.clone(quota=quota)
    assert quota.used_bytes == 0


# Dumps


def test_a_dump_carries_files_links_positions_and_files_without_a_name() -> None:
    vfs = new_vfs()
    fd = opened(vfs, b"f", O_CREAT | O_RDWR | O_APPEND)
    vfs.write(fd, b"x" * (CHUNK + 1))
    nameless = opened(vfs, b"gone")
    vfs.write(nameless, b"still here")
    vfs.unlinkat(AT_FDCWD, b"gone")
    vfs.symlinkat(b"/home/f\xff", AT_FDCWD, b"/tmp/\xfe")
    vfs.mkdirat(AT_FDCWD, b"/tmp/d", 0o700)
    vfs.chdir(b"/tmp/d")
    other = new_vfs()
    other.load(vfs.dump())
    assert other.getcwd() == b"/tmp/d"
    assert other.readlinkat(AT_FDCWD, b"/tmp/\xfe") == b"/home/f\xff"
    assert read_file(other, b"/home/f") == b"x" * (CHUNK + 1)
    assert other.lseek(fd, 0, os.SEEK_CUR) == CHUNK + 1
    assert other.pread(nameless, 100, 0) == b"still here"
    assert other.fstat(fd) == vfs.fstat(fd)
    assert other.tree.charged == vfs.tree.charged
    assert other.close_fd(nameless) == 0
    assert other.tree.charged < vfs.tree.charged


def test_mounts_are_bound_by_path_and_a_missing_one_is_enoent_or_eio() -> None:
    vfs = new_vfs()
    for path in ("/context/stays", "/context/goes", "/home/data/stays", "/home/data/goes"):
        vfs.mount(path, b"old")
    fds = [opened(vfs, path, O_RDONLY) for path in (b"/context/stays", b"/context/goes", b"data/goes", b"/dev/zero")]
    vfs.lseek(fds[1], 1, os.SEEK_SET)
    vfs.renameat(AT_FDCWD, b"data", AT_FDCWD, b"moved")
    other = new_vfs()
    for path in ("/home/data/stays", "/context/stays", "/home/fresh/new", "/context/new"):
        other.mount(path, b"new")
    other.load(vfs.dump())
    assert [other.pread(fd, 10, 0) for fd in fds[:3]] == [b"new", -Errno.EIO, -Errno.EIO]
    assert other.read(fds[3], 2) == b"\0\0"
    assert read_file(other, b"/context/goes") == read_file(other, b"moved/goes") == -Errno.ENOENT
    assert (
        read_file(other, b"moved/stays")
        == read_file(other, b"fresh/new")
        == read_file(other, b"/context/new")
        == b"new"
    )
    assert other.stat(b"data") == -Errno.ENOENT
    assert [other.close_fd(fd) for fd in fds] == [0] * 4


def test_what_the_dump_has_in_the_place_of_a_mount_stays() -> None:
    vfs, other = new_vfs(), new_vfs()
    vfs.write(opened(vfs, b"data"), b"mine")
    other.mount("/home/data", b"mounted")
    other.load(vfs.dump())
    assert read_file(other, b"data") == b"mine"


def test_loading_replaces_what_was_there_and_is_refused_whole_when_the_quota_is_too_small() -> None:
    vfs = new_vfs()
    vfs.write(opened(vfs, b"f"), b"x" * 5000)
    dump = vfs.dump()
    other = new_vfs(limit=5000)
    other.write(opened(other, b"mine"), b"mine")
    before = other.tree.charged
    with pytest.raises(MemoryError, match="the quota has no room"):
        other.load(dump)
    assert (read_file(other, b"mine"), read_file(other, b"f"), other.tree.charged) == (b"mine", -Errno.ENOENT, before)
    roomy = new_vfs()
    roomy.write(opened(roomy, b"mine"), b"mine" * 5000)
    roomy.load(dump)
    assert (read_file(roomy, b"mine"), roomy.tree.charged) == (-Errno.ENOENT, vfs.tree.charged)


def changed(dump: bytes, **fields: object) -> bytes:
    """Return a dump with other fields in its header."""
    magic, length = struct.unpack_from("<8sQ", dump)
    header = json.loads(dump[16 : 16 + length]) | fields
    text = json.dumps(header).encode()
    return struct.pack("<8sQ", magic, len(text)) + text + dump[16 + length :]


def node(ino: int, **fields: object) -> dict[str, object]:
    return {"ino": FIRST_GUEST_INO + ino, "mode": 0o755, "times": [0, 0, 0], **fields}


def directory(ino: int, parent: object, entries: list[object]) -> dict[str, object]:
    return node(ino, parent=parent, next_cookie=100, entries=entries)


TMP, HOME = directory(0, "/", []), directory(1, "/", [])
BAD_FIELDS: list[dict[str, object]] = [
    {"next_ino": "x"},
    {"next_ino": 0},
    {"nodes": []},
    {"nodes": [TMP]},
    {"nodes": [TMP, HOME, HOME]},
    {"nodes": [TMP, HOME, node(2)]},
    {"nodes": [TMP, HOME, node(2, length=-1, chunks=[])]},
    {"nodes": [TMP, HOME, node(2, length=5, chunks=[[0, 6]])]},
    {"nodes": [TMP, HOME, node(2, length=5, chunks=[[0, 5]])]},
    {"nodes": [TMP, HOME, node(2, length=5, chunks=[[-1, 0]])]},
    {"nodes": [TMP, HOME, node(2, length=1 << 60, chunks=[])]},
    {"nodes": [TMP, HOME, node(2, target="")]},
    {"nodes": [TMP, HOME, node(2, target="\ud800")]},
    {"nodes": [TMP, HOME, node(-5, target="x")]},
    {"nodes": [TMP, HOME | {"times": [10**30, 0, 0]}]},
    {"nodes": [TMP, HOME | {"times": [0, 0, -(10**30)]}]},
    {"nodes": [TMP, HOME | {"next_cookie": 1 << 63}]},
    {"nodes": [TMP, directory(1, "/", [["x", FIRST_GUEST_INO + 9, 3]])]},
    {"nodes": [TMP, directory(1, "/", [["x", 1, 3]])]},
    {"nodes": [TMP, directory(1, "/", [["x", FIRST_GUEST_INO, 3]])]},
    {"nodes": [TMP, directory(1, "/", [["..", FIRST_GUEST_INO + 2, 3]]), node(2, target="x")]},
    {"nodes": [TMP, directory(1, "/", [["a/b", FIRST_GUEST_INO + 2, 3]]), node(2, target="x")]},
    {"nodes": [TMP, directory(1, "/", [["x", FIRST_GUEST_INO + 2, 2]]), node(2, target="x")]},
    {"nodes": [TMP, directory(1, "/", [[n, FIRST_GUEST_INO + 2, 3 + n] for n in (0, 1)]), node(2, target="x")]},
    {"nodes": [TMP, directory(1, "/", [["x", FIRST_GUEST_INO + 2, 3]]), directory(2, FIRST_GUEST_INO, [])]},
    {"files": [{"node": FIRST_GUEST_INO + 9, "size": 0, "flags": 0, "offset": 0}]},
    {"files": [{"node": "/dev/null", "size": 0, "flags": 0, "offset": -1}]},
    {"descriptors": [[0, 0, False]]},
    {"descriptors": [[5000, 0, False]], "files": [{"node": "/tmp", "size": 0, "flags": 0, "offset": 0}]},
]


@pytest.mark.parametrize("fields", BAD_FIELDS, ids=lambda fields: ascii(fields)[:60])
def test_a_dump_that_contradicts_itself_is_refused_and_changes_nothing(fields: dict[str, object]) -> None:
    vfs = new_vfs()
    fresh = vfs.dump()
    vfs.write(opened(vfs, b"f"), b"mine")
    with pytest.raises(BadDump):
        vfs.load(changed(fresh, **fields))
    assert read_file(vfs, b"f") == b"mine"
    assert vfs.tree.charged == NODE_COST + CHUNK_COST + 4


@pytest.mark.parametrize(
    "data", [b"", b"vfsdump1", b"x" * 100, struct.pack("<8sQ", b"vfsdump1", 1 << 60), b"vfsdump1" + bytes(8)]
)
def test_bytes_that_are_no_dump_are_refused(data: bytes) -> None:
    with pytest.raises(BadDump):
        new_vfs().load(data)


def test_a_dump_cannot_make_a_mount_writable() -> None:
    vfs = new_vfs()
    vfs.mount("/context/text", b"hello")
    files = [{"node": "/context/text", "size": 5, "flags": O_WRONLY, "offset": 0}]
    vfs.load(changed(vfs.dump(), files=files, descriptors=[[0, 0, False]]))
    assert vfs.write(0, b"x") == -Errno.EBADF
    assert vfs.ftruncate(0, 0) == -Errno.EROFS
    assert read_file(vfs, b"/context/text") == b"hello"

"""Random sequences of file operations: against Linux itself, and against undo, clone, dump and load.

An operation is a tuple of a name and arguments, so that one sequence can be applied to several trees.
"""

import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wasm_runtime.errno import Errno
from wasm_runtime.vfs.content import CHUNK_COST, read_at
from wasm_runtime.vfs.filesystem import Vfs
from wasm_runtime.vfs.flags import AT_FDCWD
from wasm_runtime.vfs.nodes import CHUNK, FIRST_GUEST_INO, Directory, MemoryFile, Symlink
from wasm_runtime.vfs.quota import FixedQuota
from wasm_runtime.vfs.tree import NODE_COST

Operation = tuple[Any, ...]

NAMES = st.sampled_from(["a", "b", "c"])
# ".." only after a name: the real tree must not be left. A link never leads upwards either.
# If both paths of a rename are wrong, it is undefined which error comes first: so no long names there.
SHORT_PATHS = st.one_of(
    NAMES,
    NAMES,
    st.tuples(NAMES, NAMES).map("/".join),
    st.tuples(NAMES, NAMES, NAMES).map("/".join),
    st.tuples(NAMES, st.just(".."), NAMES).map("/".join),
    NAMES.map("{}/".format),
    NAMES.map("{}/.".format),
    NAMES.map("{}/..".format),
    NAMES.map("./{}".format),
    st.just("a//b"),
    st.just(""),
    st.just("."),
)
PATHS = st.one_of(SHORT_PATHS, SHORT_PATHS, SHORT_PATHS, st.just("n" * 256))
TARGETS = st.one_of(NAMES, st.tuples(NAMES, NAMES).map("/".join), NAMES.map("{}/".format))
ACCESS = st.sampled_from(["O_RDONLY", "O_WRONLY", "O_RDWR", "O_RDWR"])
OPTIONS = st.lists(
    st.sampled_from(["O_CREAT", "O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC"]),
    max_size=3,
    unique=True,
).map(tuple)
# What O_CREAT means for O_DIRECTORY has changed between versions of Linux.
OPTIONS = OPTIONS.filter(lambda names: not {"O_CREAT", "O_DIRECTORY"} <= set(names))
FDS = st.integers(3, 8)
SIZES = st.sampled_from([0, 1, 5, 100, CHUNK - 1, CHUNK, CHUNK + 3, 2 * CHUNK + 1])
DATA = st.tuples(st.sampled_from([0, 1, 3, 100, CHUNK, CHUNK + 7]), st.sampled_from([b"x", b"y", b"\0"])).map(
    lambda pair: pair[1] * pair[0]
)
MODES = st.sampled_from([0o700, 0o755, 0o777, 0o1777, 0o740])

OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(st.just("open"), PATHS, ACCESS, OPTIONS, MODES),
    st.tuples(st.just("open"), PATHS, ACCESS, st.just(("O_CREAT",)), MODES),
    st.tuples(st.just("close"), FDS),
    st.tuples(st.just("read"), FDS, SIZES),
    st.tuples(st.just("pread"), FDS, SIZES, SIZES),
    st.tuples(st.just("write"), FDS, DATA),
    st.tuples(st.just("write"), FDS, DATA),
    st.tuples(st.just("pwrite"), FDS, DATA, SIZES),
    st.tuples(st.just("lseek"), FDS, st.one_of(SIZES, st.sampled_from([-1, -100])), st.sampled_from([0, 1, 2])),
    st.tuples(st.just("ftruncate"), FDS, st.one_of(SIZES, st.just(-1))),
    st.tuples(st.just("truncate"), PATHS, SIZES),
    st.tuples(st.just("mkdir"), PATHS, MODES),
    st.tuples(st.just("mkdir"), PATHS, MODES),
    st.tuples(st.just("rmdir"), PATHS),
    st.tuples(st.just("unlink"), PATHS),
    st.tuples(st.just("rename"), SHORT_PATHS, SHORT_PATHS),
    st.tuples(st.just("rename"), SHORT_PATHS, SHORT_PATHS),
    st.tuples(st.just("symlink"), TARGETS, PATHS),
    st.tuples(st.just("readlink"), PATHS),
    st.tuples(st.just("stat"), PATHS),
    st.tuples(st.just("lstat"), PATHS),
    st.tuples(st.just("fstat"), FDS),
    st.tuples(st.just("access"), PATHS, st.integers(0, 7)),
    st.tuples(st.just("chmod"), PATHS, MODES),
    st.tuples(st.just("utime"), PATHS, st.integers(0, 10**18)),
    st.tuples(st.just("dup"), FDS),
    st.tuples(st.just("dup2"), FDS, FDS),
    st.tuples(st.just("getfl"), FDS),
    st.tuples(st.just("getfd"), FDS),
    st.tuples(st.just("listdir"), PATHS),
)
SEQUENCES = st.lists(OPERATIONS, min_size=1, max_size=25)

SHOWN_FLAGS = os.O_ACCMODE | os.O_APPEND
BASE = b"/tmp/x/y/z"


def guest_flags(access: str, options: tuple[str, ...]) -> int:
    import wasm_runtime.vfs.flags as numbers

    values = vars(numbers)
    return sum(values[name] for name in (access, *options))


def new_vfs(quota: FixedQuota | None = None) -> Vfs:
    """Return a tree with BASE open as descriptor 0 and descriptors 0 to 2 in use, as in a process."""
    ticks = count(1)
    vfs = Vfs(clock=lambda: next(ticks), quota=quota or FixedQuota(1 << 30), random=bytes)
    for end in (b"/tmp/x", b"/tmp/x/y", BASE):
        assert vfs.mkdirat(AT_FDCWD, end, 0o755) == 0
    for fd in range(3):
        assert vfs.openat(AT_FDCWD, BASE, guest_flags("O_RDONLY", ("O_DIRECTORY",))) == fd
    vfs.mount("/context/text", b"from the host")
    vfs.mount("/home/data/text", b"from the host")
    return vfs


def on_guest(vfs: Vfs, operation: Operation) -> object:
    """Apply an operation to a tree; return a comparable result, or -errno."""
    match operation:
        case ("open", path, access, options, mode):
            return vfs.openat(0, os.fsencode(path), guest_flags(access, options), mode)
        case ("close", fd):
            return vfs.close_fd(fd)
        case ("read", fd, n):
            return vfs.read(fd, n)
        case ("pread", fd, n, offset):
            return vfs.pread(fd, n, offset)
        case ("write", fd, data):
            return vfs.write(fd, data)
        case ("pwrite", fd, data, offset):
            return vfs.pwrite(fd, data, offset)
        case ("lseek", fd, offset, whence):
            return vfs.lseek(fd, offset, whence)
        case ("ftruncate", fd, size):
            return vfs.ftruncate(fd, size)
        case ("truncate", path, size):
            return vfs.truncate(b"/tmp/x/y/z/" + os.fsencode(path), size) if path else 0
        case ("mkdir", path, mode):
            return vfs.mkdirat(0, os.fsencode(path), mode)
        case ("rmdir", path):
            return vfs.unlinkat(0, os.fsencode(path), 0x200)
        case ("unlink", path):
            return vfs.unlinkat(0, os.fsencode(path))
        case ("rename", old, new):
            return vfs.renameat(0, os.fsencode(old), 0, os.fsencode(new))
        case ("symlink", target, path):
            return vfs.symlinkat(os.fsencode(target), 0, os.fsencode(path))
        case ("readlink", path):
            return vfs.readlinkat(0, os.fsencode(path))
        case ("stat", path):
            return shown(vfs.fstatat(0, os.fsencode(path)))
        case ("lstat", path):
            return shown(vfs.fstatat(0, os.fsencode(path), 0x100))
        case ("fstat", fd):
            return shown(vfs.fstat(fd))
        case ("access", path, mode):
            return vfs.faccessat(0, os.fsencode(path), mode)
        case ("chmod", path, mode):
            return vfs.fchmodat(0, os.fsencode(path), mode)
        case ("utime", path, time):
            return vfs.utimensat(0, os.fsencode(path), time, time)
        case ("dup", fd):
            return vfs.dup(fd)
        case ("dup2", fd, new_fd):
            return vfs.dup3(fd, new_fd, 0)
        case ("getfl", fd):
            flags = vfs.fcntl(fd, 3, 0)
            return flags if flags < 0 else flags & SHOWN_FLAGS
        case ("getfd", fd):
            return vfs.fcntl(fd, 1, 0)
        case ("listdir", path):
            return listed(vfs, path)
    raise AssertionError(operation)


def listed(vfs: Vfs, path: str) -> object:
    fd = vfs.openat(0, os.fsencode(path), guest_flags("O_RDONLY", ("O_DIRECTORY",)))
    if fd < 0:
        return fd
    names: list[bytes] = []
    while entries := vfs.getdents(fd, 2):
        if isinstance(entries, int):
            return entries
        names += [entry.name for entry in entries]
    vfs.close_fd(fd)
    return sorted(set(names) - {b".", b".."})


def shown(facts: Any) -> object:
    """Return the metadata that must agree between guest and Linux; sizes and link counts of directories differ."""
    if isinstance(facts, int):
        return facts
    mode, size = (facts.st_mode, facts.st_size) if isinstance(facts, os.stat_result) else (facts.mode, facts.size)
    links = facts.st_nlink if isinstance(facts, os.stat_result) else facts.nlink
    if stat.S_ISDIR(mode):
        return (stat.S_IFMT(mode), mode & 0o7777)
    return (stat.S_IFMT(mode), mode & 0o7777, size, links)


class Linux:
    """The same operations on a real directory. Guest descriptors are mapped to those of this process."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.fds = {0: os.open(base, os.O_RDONLY | os.O_DIRECTORY)}

    def close(self) -> None:
        for fd in set(self.fds.values()):
            os.close(fd)

    def apply(self, operation: Operation, guest_result: object) -> object:
        try:
            return self._apply(operation, guest_result)
        except OSError as error:
            return -Errno[errno.errorcode[error.errno or 0]]
        except KeyError:  # no such descriptor
            return -Errno.EBADF

    def _opened(self, guest_result: object, fd: int) -> object:
        """Remember a new descriptor under the number that the guest got; -1 when the guest got none."""
        if not isinstance(guest_result, int) or guest_result < 0:
            os.close(fd)
            return -1
        self.fds[guest_result] = fd
        return guest_result

    def _apply(self, operation: Operation, guest_result: object) -> object:
        base = self.fds[0]
        match operation:
            case ("open", path, access, options, mode):
                flags = sum(getattr(os, name) for name in (access, *options))
                return self._opened(guest_result, os.open(path, flags, mode, dir_fd=base))
            case ("close", fd):
                os.close(self.fds.pop(fd))
            case ("read", fd, n):
                return os.read(self.fds[fd], n)
            case ("pread", fd, n, offset):
                return os.pread(self.fds[fd], n, offset)
            case ("write", fd, data):
                return os.write(self.fds[fd], data)
            case ("pwrite", fd, data, offset):
                return os.pwrite(self.fds[fd], data, offset)
            case ("lseek", fd, offset, whence):
                return os.lseek(self.fds[fd], offset, whence)
            case ("ftruncate", fd, size):
                os.ftruncate(self.fds[fd], size)
            case ("truncate", path, size):
                if path:
                    os.truncate(f"{self.base}/{path}", size)
            case ("mkdir", path, mode):
                os.mkdir(path, mode, dir_fd=base)
            case ("rmdir", path):
                os.rmdir(path, dir_fd=base)
            case ("unlink", path):
                os.unlink(path, dir_fd=base)
            case ("rename", old, new):
                os.rename(old, new, src_dir_fd=base, dst_dir_fd=base)
            case ("symlink", target, path):
                os.symlink(target, path, dir_fd=base)
            case ("readlink", path):
                return os.fsencode(os.readlink(path, dir_fd=base))
            case ("stat", path):
                return shown(os.stat(path, dir_fd=base))
            case ("lstat", path):
                return shown(os.stat(path, dir_fd=base, follow_symlinks=False))
            case ("fstat", fd):
                return shown(os.fstat(self.fds[fd]))
            case ("access", path, mode):
                # os.access gives no errno, so only success and failure are compared
                return 0 if os.access(path, mode, dir_fd=base) else guest_result if negative(guest_result) else -1
            case ("chmod", path, mode):
                os.chmod(path, mode, dir_fd=base)
            case ("utime", path, time):
                os.utime(path, ns=(time, time), dir_fd=base)
            case ("dup", fd):
                return self._opened(guest_result, os.dup(self.fds[fd]))
            case ("dup2", fd, new_fd):
                if fd == new_fd:
                    return -Errno.EINVAL
                old = self.fds[fd]
                if new_fd in self.fds:
                    os.close(self.fds.pop(new_fd))
                self.fds[new_fd] = os.dup(old)
                return new_fd
            case ("getfl", fd):
                import fcntl

                return fcntl.fcntl(self.fds[fd], fcntl.F_GETFL) & SHOWN_FLAGS
            case ("getfd", fd):
                # Python makes every descriptor close-on-exec: only whether there is one can be compared
                os.fstat(self.fds[fd])
                return guest_result
            case ("listdir", path):
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=base)
                try:
                    return sorted(os.fsencode(name) for name in os.listdir(fd))  # noqa: PTH208 - a descriptor has no Path
                finally:
                    os.close(fd)
        return 0


def negative(value: object) -> bool:
    return isinstance(value, int) and value < 0


@contextmanager
def real_directory() -> Iterator[Linux]:
    top = Path(tempfile.mkdtemp(prefix="vfs-"))
    mask = os.umask(0o022)
    base = top / "x" / "y" / "z"
    base.mkdir(parents=True)
    linux = Linux(base)
    try:
        yield linux
    finally:
        linux.close()
        os.umask(mask)
        shutil.rmtree(top)


@pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux")
@given(SEQUENCES)
@example([("mkdir", "a", 0o755), ("symlink", "a", "b"), ("rmdir", "b/"), ("unlink", "b/"), ("readlink", "b/")])
@example([("mkdir", "a", 0o755), ("rename", "a", "a/b"), ("mkdir", "a/b", 0o755), ("rename", "a/b", "a")])
@example([("symlink", "b", "a"), ("symlink", "a", "b"), ("stat", "a"), ("open", "a", "O_RDONLY", ("O_CREAT",), 0o755)])
def test_every_operation_ends_as_on_linux(sequence: list[Operation]) -> None:
    vfs = new_vfs()
    with real_directory() as linux:
        for place, operation in enumerate(sequence):
            if operation[0] == "pwrite" and appends(vfs, operation[1]):
                continue  # Linux appends, which its manual page lists as a bug
            ours = on_guest(vfs, operation)
            theirs = linux.apply(operation, ours)
            assert ours == theirs, (place, operation)
        check_books(vfs)


def appends(vfs: Vfs, fd: int) -> bool:
    flags = vfs.fcntl(fd, 3, 0)
    return flags > 0 and bool(flags & guest_flags("O_RDONLY", ("O_APPEND",)))


def picture(vfs: Vfs) -> dict[str, object]:
    """Return everything the guest can see of a tree, with numbers and times."""
    seen: dict[str, object] = {"cwd": vfs.getcwd()}
    for name in (b"/tmp", b"/home", b"/context"):
        look(vfs, name, seen)
    for fd, file in sorted(vfs.descriptors.files.items()):
        sharers = sorted(other for other, its in vfs.descriptors.files.items() if its is file)
        closes = fd in vfs.descriptors.close_on_exec
        seen[f"fd {fd}"] = (vfs.fstat(fd), content(vfs, file.ino), file.flags, file.offset, sharers, closes)
    return seen


def look(vfs: Vfs, path: bytes, seen: dict[str, object]) -> None:
    facts = vfs.lstat(path)
    assert not isinstance(facts, int)
    node = vfs.tree.nodes[facts.ino]
    seen[os.fsdecode(path)] = (facts, content(vfs, facts.ino), list(getattr(node, "entries", {})))
    if isinstance(node, Directory):
        for name in node.entries:
            look(vfs, path + b"/" + name, seen)


def content(vfs: Vfs, ino: int) -> object:
    node = vfs.tree.nodes[ino]
    if isinstance(node, Symlink):
        return node.target
    if not isinstance(node, MemoryFile):
        return None
    buffer = bytearray(node.length)
    assert read_at(node, 0, memoryview(buffer)) == node.length
    return bytes(buffer)


def check_books(vfs: Vfs) -> None:
    """Assert that the charges equal the content, that the quota agrees, and that link counts are correct."""
    tree = vfs.tree
    made = {ino: node for ino, node in tree.nodes.items() if ino >= FIRST_GUEST_INO}
    live = (len(made) - 2) * NODE_COST
    named: dict[int, int] = {}
    for node in tree.nodes.values():
        if isinstance(node, Directory):
            below = [ino for ino, _ in node.entries.values()]
            assert node.nlink in (0, 2 + sum(isinstance(tree.nodes[ino], Directory) for ino in below))
            for ino in below:
                named[ino] = named.get(ino, 0) + 1
        elif isinstance(node, Symlink):
            live += len(node.target)
        elif isinstance(node, MemoryFile):
            for index, chunk in node.chunks.items():
                live += len(chunk.data) + CHUNK_COST
                assert index * CHUNK + len(chunk.data) <= node.length
    assert set(named.values()) <= {1}
    opened = {vfs.cwd, *(file.ino for file in vfs.descriptors.files.values())}
    assert {ino for ino in made if ino not in named} <= opened
    assert tree.guest_nodes == len(made) - 2
    assert tree.charged - tree.kept == live
    assert isinstance(tree.quota, FixedQuota)
    assert tree.quota.used_bytes == tree.charged


def apply(vfs: Vfs, sequence: list[Operation]) -> None:
    for operation in sequence:
        on_guest(vfs, operation)
        check_books(vfs)


@given(SEQUENCES, SEQUENCES, SEQUENCES)
def test_undo_puts_everything_back_as_often_as_it_is_asked(
    before: list[Operation], first: list[Operation], second: list[Operation]
) -> None:
    vfs = new_vfs()
    apply(vfs, before)
    expected, charged = picture(vfs), vfs.tree.charged
    mark = vfs.mark()
    for sequence in (first, second):
        apply(vfs, sequence)
        vfs.undo(mark)
        check_books(vfs)
        assert picture(vfs) == expected
        assert vfs.tree.charged == charged
    vfs.forget(mark)
    check_books(vfs)


@given(SEQUENCES, SEQUENCES, SEQUENCES)
def test_a_clone_and_its_origin_do_not_see_each_others_changes(
    before: list[Operation], mine: list[Operation], its: list[Operation]
) -> None:
    vfs = new_vfs()
    apply(vfs, before)
    at_mark = picture(vfs)
    mark = vfs.mark()
    apply(vfs, mine)
    at_clone = picture(vfs)
    clone = vfs.clone(quota=FixedQuota(1 << 30))
    check_books(clone)
    assert picture(clone) == at_clone
    apply(clone, its)
    assert picture(vfs) == at_clone
    of_clone = picture(clone)
    apply(vfs, its)
    vfs.undo(mark)
    check_books(vfs)
    assert picture(vfs) == at_mark
    assert picture(clone) == of_clone


@given(SEQUENCES, SEQUENCES, SEQUENCES)
def test_a_clone_of_the_marked_state_is_that_state_while_its_origin_goes_on(
    before: list[Operation], mine: list[Operation], its: list[Operation]
) -> None:
    vfs = new_vfs()
    apply(vfs, before)
    at_mark = picture(vfs)
    mark = vfs.mark()
    apply(vfs, mine)
    mine_done = picture(vfs)
    clone = vfs.clone_marked(mark, quota=FixedQuota(1 << 30))
    check_books(clone)
    assert picture(clone) == at_mark
    apply(clone, its)
    assert picture(vfs) == mine_done
    check_books(vfs)
    vfs.undo(mark)
    assert picture(vfs) == at_mark


@given(SEQUENCES, SEQUENCES)
def test_a_dump_loaded_elsewhere_goes_on_as_the_original_does(before: list[Operation], after: list[Operation]) -> None:
    vfs, other = new_vfs(), new_vfs()
    apply(vfs, before)
    apply(other, after)
    other.load(vfs.dump())
    check_books(other)
    assert picture(other) == picture(vfs)
    assert other.dump() == vfs.dump()
    assert [on_guest(other, operation) for operation in after] == [on_guest(vfs, operation) for operation in after]
    check_books(other)


@given(SEQUENCES, st.integers(5_000, 300_000))
def test_a_quota_is_never_exceeded_and_forgetting_gives_back_what_was_kept(
    sequence: list[Operation], limit: int
) -> None:
    vfs = new_vfs(FixedQuota(limit + 10 * NODE_COST))
    half = len(sequence) // 2
    apply(vfs, sequence[:half])
    mark = vfs.mark()
    apply(vfs, sequence[half:])
    assert vfs.tree.quota.available() >= 0
    vfs.forget(mark)
    assert vfs.tree.kept == 0
    check_books(vfs)
    vfs.close()
    assert vfs.tree.charged == 0


ODD = st.one_of(
    st.integers(-3, 9),
    st.sampled_from(
        [-100, 0x100, 0x1000, 1023, 1024, CHUNK, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63)]
    ),
    st.integers(-(1 << 63), (1 << 63) - 1),
)
ODD_PATHS = st.one_of(
    st.sampled_from([b"/", b".", b"..", b"/tmp", b"/dev/zero", b"/home/data/text", b"/context/text", b"a", b"a/b"]),
    st.binary(max_size=12),
    st.integers(250, 5000).map(lambda n: b"n" * n),
)
ODD_CALLS = st.one_of(
    st.tuples(st.just("openat"), ODD, ODD_PATHS, st.one_of(ODD, st.integers(0, 0o3777)), ODD),
    st.tuples(st.sampled_from(["close_fd", "dup", "fsync", "fstat", "fchdir", "fstatfs", "umask"]), ODD),
    st.tuples(st.sampled_from(["read", "getdents", "ioctl", "ftruncate", "fchmod"]), ODD, ODD),
    st.tuples(st.sampled_from(["pread", "lseek", "dup3", "fcntl", "fchown"]), ODD, ODD, ODD),
    st.tuples(st.just("fallocate"), ODD, ODD, ODD, ODD),
    st.tuples(st.just("write"), ODD, DATA),
    st.tuples(st.just("pwrite"), ODD, DATA, ODD),
    st.tuples(st.sampled_from(["stat", "lstat", "statfs", "rmdir", "chdir"]), ODD_PATHS),
    st.tuples(st.sampled_from(["truncate", "chmod"]), ODD_PATHS, ODD),
    st.tuples(st.sampled_from(["fstatat", "unlinkat", "mkdirat", "mknodat"]), ODD, ODD_PATHS, ODD),
    st.tuples(st.sampled_from(["faccessat", "fchmodat", "utimensat"]), ODD, ODD_PATHS, ODD, ODD),
    st.tuples(st.just("fchownat"), ODD, ODD_PATHS, ODD, ODD, ODD),
    st.tuples(st.just("readlinkat"), ODD, ODD_PATHS),
    st.tuples(st.just("symlinkat"), ODD_PATHS, ODD, ODD_PATHS),
    st.tuples(st.just("renameat"), ODD, ODD_PATHS, ODD, ODD_PATHS),
    st.tuples(st.just("getcwd")),
)


@given(st.lists(ODD_CALLS, max_size=30))
def test_no_call_raises_whatever_a_guest_passes(calls: list[Operation]) -> None:
    vfs = new_vfs(FixedQuota(1 << 20))
    mark = vfs.mark()
    for name, *arguments in calls:
        if name in ("read", "pread") and arguments[1] > CHUNK:
            arguments[1] = CHUNK  # the caller of these allocates
        getattr(vfs, name)(*arguments)
        check_books(vfs)
    copy = new_vfs(FixedQuota(1 << 20))
    copy.load(vfs.dump())
    check_books(copy)
    vfs.undo(mark)
    check_books(vfs)
    assert picture(vfs) == picture(new_vfs())

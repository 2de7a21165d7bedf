"""The guest's file system, call by call."""

import os
import stat

import pytest

from wasm_runtime.errno import Errno
from wasm_runtime.vfs.content import LONGEST_FILE
from wasm_runtime.vfs.filesystem import Vfs
from wasm_runtime.vfs.flags import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_REMOVEDIR,
    F_DUPFD_CLOEXEC,
    F_GETFD,
    F_GETFL,
    F_SETFL,
    O_APPEND,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_NOFOLLOW,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
    UTIME_NOW,
)
from wasm_runtime.vfs.nodes import CHUNK
from wasm_runtime.vfs.quota import FixedQuota
from wasm_runtime.vfs.tree import NODE_COST

from .trees import NOW, facts, names, new_vfs, read_file, write_file

# The tree


def test_a_new_tree_has_the_usual_directories_and_works_in_home() -> None:
    vfs = new_vfs()
    assert names(vfs, b"/") == [b".", b"..", b"tmp", b"home", b"lib", b"dev", b"context", b"usr"]
    assert names(vfs, b"/dev") == [b".", b"..", b"null", b"zero", b"urandom"]
    assert vfs.getcwd() == b"/home"


@pytest.mark.parametrize("path", [b"/x", b"/lib/x", b"/context/x", b"/dev/x", b"/usr/x", b"/tmp/../x"])
def test_nothing_can_be_made_outside_tmp_and_home(path: bytes) -> None:
    vfs = new_vfs()
    assert vfs.openat(AT_FDCWD, path, O_CREAT | O_WRONLY, 0o666) == -Errno.EROFS
    assert vfs.mkdirat(AT_FDCWD, path, 0o777) == -Errno.EROFS
    assert vfs.symlinkat(b"/tmp", AT_FDCWD, path) == -Errno.EROFS
    write_file(vfs, b"/tmp/mine", b"x")
    assert vfs.renameat(AT_FDCWD, b"/tmp/mine", AT_FDCWD, path) == -Errno.EROFS


@pytest.mark.parametrize("path", [b"/lib", b"/dev/null", b"/context/text"])
def test_nothing_of_the_host_can_be_changed(path: bytes) -> None:
    vfs = new_vfs()
    vfs.mount("/context/text", b"hello")
    before = vfs.stat(path)
    remove = vfs.rmdir(path) if path == b"/lib" else vfs.unlinkat(AT_FDCWD, path)
    assert remove == -Errno.EROFS
    assert vfs.chmod(path, 0o777) == -Errno.EROFS
    assert vfs.utimensat(AT_FDCWD, path, 0, 0) == -Errno.EROFS
    assert vfs.fchownat(AT_FDCWD, path, 0, 0) == -Errno.EROFS
    assert vfs.renameat(AT_FDCWD, path, AT_FDCWD, b"/tmp/taken") == -Errno.EROFS
    assert vfs.stat(path) == before


@pytest.mark.parametrize("path", [b"/etc/passwd", b"/proc/self/environ", b"../" * 50 + b"etc/passwd", b"/../../etc"])
def test_the_hosts_files_are_not_there(path: bytes) -> None:
    vfs = new_vfs()
    assert vfs.openat(AT_FDCWD, path, O_RDONLY) == -Errno.ENOENT
    assert vfs.symlinkat(path, AT_FDCWD, b"link") == 0
    assert vfs.openat(AT_FDCWD, b"link", O_RDONLY) == -Errno.ENOENT


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (b"", Errno.ENOENT),
        (b"a\0b", Errno.EINVAL),
        (b"n" * 256, Errno.ENAMETOOLONG),
        (b"a/" * 2048, Errno.ENAMETOOLONG),
        (b"x" * 1_000_000, Errno.ENAMETOOLONG),
        (b"file/below", Errno.ENOTDIR),
        (b"file/", Errno.ENOTDIR),
        (b"file/.", Errno.ENOTDIR),
        (b"missing/below", Errno.ENOENT),
        (b"loop", Errno.ELOOP),
        (b"loop/below", Errno.ELOOP),
    ],
)
def test_paths_that_lead_nowhere(path: bytes, error: Errno) -> None:
    vfs = new_vfs()
    write_file(vfs, b"file", b"")
    assert vfs.symlinkat(b"loop", AT_FDCWD, b"loop") == 0
    assert vfs.stat(path) == -error
    assert vfs.openat(AT_FDCWD, path, O_RDONLY) == -error
    assert vfs.faccessat(AT_FDCWD, path, 0) == -error
    assert vfs.chdir(path) == -error


def test_forty_links_in_a_row_are_followed_and_no_more() -> None:
    vfs = new_vfs()
    write_file(vfs, b"0", b"end")
    for n in range(1, 42):
        assert vfs.symlinkat(b"%d" % (n - 1), AT_FDCWD, b"%d" % n) == 0
    assert read_file(vfs, b"40") == b"end"
    assert read_file(vfs, b"41") == -Errno.ELOOP


def test_an_absolute_link_starts_at_the_guests_root_and_names_need_not_be_text() -> None:
    vfs = new_vfs()
    write_file(vfs, b"/tmp/\xff\xfe", b"odd")
    assert vfs.symlinkat(b"/tmp/\xff\xfe", AT_FDCWD, b"link") == 0
    assert read_file(vfs, b"link") == b"odd"
    assert vfs.readlinkat(AT_FDCWD, b"link") == b"/tmp/\xff\xfe"
    assert vfs.openat(AT_FDCWD, b"link", O_RDONLY | O_NOFOLLOW) == -Errno.ELOOP
    assert vfs.readlinkat(AT_FDCWD, b"/tmp") == -Errno.EINVAL


# Descriptors


def test_the_lowest_free_descriptor_is_taken_and_the_table_has_an_end() -> None:
    vfs = new_vfs()
    fds = [vfs.openat(AT_FDCWD, b"/tmp", O_RDONLY) for _ in range(1024)]
    assert fds == list(range(1024))
    assert vfs.openat(AT_FDCWD, b"/tmp", O_RDONLY) == -Errno.EMFILE
    assert vfs.dup(5) == -Errno.EMFILE
    assert [vfs.close_fd(700), vfs.close_fd(3)] == [0, 0]
    assert [vfs.dup(5), vfs.dup(5), vfs.dup(5)] == [3, 700, -Errno.EMFILE]


def test_every_call_on_a_descriptor_that_is_not_open_is_ebadf() -> None:
    vfs = new_vfs()
    for fd in (-1, 0, 7, 1 << 31):
        assert {
            vfs.close_fd(fd),
            vfs.read(fd, 1),
            vfs.pread(fd, 1, 0),
            vfs.read_into(fd, memoryview(bytearray(1))),
            vfs.write(fd, b"x"),
            vfs.pwrite(fd, b"x", 0),
            vfs.lseek(fd, 0, 0),
            vfs.fstat(fd),
            vfs.getdents(fd, 1),
            vfs.ftruncate(fd, 0),
            vfs.fallocate(fd, 0, 0, 1),
            vfs.fchmod(fd, 0),
            vfs.fchown(fd, 0, 0),
            vfs.fchdir(fd),
            vfs.dup(fd),
            vfs.dup3(fd, 9, 0),
            vfs.fcntl(fd, F_GETFL, 0),
            vfs.ioctl(fd, 0x5413),
            vfs.fsync(fd),
            vfs.fstatfs(fd),
            vfs.openat(fd, b"relative", O_RDONLY),
            vfs.utimensat(fd, None, 0, 0),
            vfs.fstatat(fd, b"", AT_EMPTY_PATH),
        } == {-Errno.EBADF}


def test_duplicates_share_a_position_and_flags_but_not_close_on_exec() -> None:
    vfs = new_vfs()
    fd = vfs.openat(AT_FDCWD, b"f", O_CREAT | O_RDWR)
    other = vfs.fcntl(fd, F_DUPFD_CLOEXEC, 20)
    assert other == 20
    assert vfs.write(other, b"abc") == 3
    assert vfs.lseek(fd, 0, os.SEEK_CUR) == 3
    assert vfs.fcntl(other, F_SETFL, O_APPEND) == 0
    assert vfs.fcntl(fd, F_GETFL, 0) == O_RDWR | O_APPEND
    assert (vfs.fcntl(fd, F_GETFD, 0), vfs.fcntl(other, F_GETFD, 0)) == (0, 1)


def test_locks_succeed_because_there_is_no_other_process() -> None:
    vfs = new_vfs()
    fd = vfs.openat(AT_FDCWD, b"db", O_CREAT | O_RDWR)
    assert [vfs.fcntl(fd, command, 0) for command in (5, 6, 7, 12, 13, 14)] == [0] * 6
    assert vfs.fcntl(fd, 99, 0) == -Errno.EINVAL


def test_standard_streams_are_the_first_descriptors_and_cannot_be_sought() -> None:
    sink = Recorder(b"typed")
    devices = {"/dev/stdin": sink, "/dev/stdout": sink, "/dev/stderr": sink}
    vfs = Vfs(clock=lambda: NOW, quota=FixedQuota(0), devices=devices)
    assert vfs.read(0, 100) == b"typed"
    assert vfs.write(1, b"out") + vfs.write(2, b"err") == 6
    assert sink.written == b"outerr"
    assert vfs.write(0, b"x") == vfs.read(1, 1) == -Errno.EBADF
    assert vfs.lseek(1, 0, os.SEEK_CUR) == -Errno.ESPIPE
    assert vfs.ioctl(1, 0x5413) == -Errno.ENOTTY
    assert vfs.openat(AT_FDCWD, b"/tmp", O_RDONLY) == 3


def test_null_zero_and_urandom_behave_and_never_make_a_large_buffer() -> None:
    vfs = Vfs(clock=lambda: NOW, quota=FixedQuota(0), random=lambda n: b"r" * n)
    null, zero, urandom = (vfs.openat(AT_FDCWD, b"/dev/" + name, O_RDWR) for name in (b"null", b"zero", b"urandom"))
    assert (vfs.read(null, 10), vfs.write(null, b"abc")) == (b"", 3)
    assert (vfs.read(zero, 3), vfs.read(urandom, 3)) == (b"\0\0\0", b"rrr")
    assert len(vfs.read(zero, 1 << 40)) == 1 << 20  # type: ignore[arg-type] # a stand-in, or wrong on purpose
    assert vfs.lseek(zero, 5, os.SEEK_SET) == 0
    assert stat.S_ISCHR(facts(vfs.fstat(null)).mode)


class Recorder:
    """A device that provides one input and records what is written."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.written = b""

    def read(self, n: int) -> bytes:
        return self.data[:n]

    def write(self, data: memoryview) -> int:
        self.written += bytes(data)
        return len(data)


# Reading and writing


def test_a_write_beyond_the_end_leaves_zeros_that_cost_nothing() -> None:
    vfs = new_vfs(limit=NODE_COST + 2000)
    fd = vfs.openat(AT_FDCWD, b"f", O_CREAT | O_RDWR)
    assert vfs.pwrite(fd, b"end", 1000 * CHUNK) == 3
    assert facts(vfs.fstat(fd)).size == 1000 * CHUNK + 3
    assert vfs.pread(fd, 5, 1000 * CHUNK - 2) == b"\0\0end"
    assert vfs.pread(fd, 4, 0) == b"\0\0\0\0"


def test_what_is_cut_off_does_not_come_back_when_the_file_grows_again() -> None:
    vfs = new_vfs()
    write_file(vfs, b"f", b"secret" * 20_000)
    assert vfs.truncate(b"f", CHUNK + 6) == 0
    assert vfs.truncate(b"f", 120_000) == 0
    assert read_file(vfs, b"f") == (b"secret" * 20_000)[: CHUNK + 6] + bytes(120_000 - CHUNK - 6)


def test_appending_moves_the_position_to_the_end() -> None:
    vfs = new_vfs()
    write_file(vfs, b"f", b"one")
    fd = vfs.openat(AT_FDCWD, b"f", O_RDWR | O_APPEND)
    assert vfs.write(fd, b"two") == 3
    assert vfs.lseek(fd, 0, os.SEEK_CUR) == 6
    assert read_file(vfs, b"f") == b"onetwo"


def test_read_into_fills_the_callers_memory_across_chunks() -> None:
    vfs = new_vfs()
    data = bytes(range(256)) * 600
    write_file(vfs, b"f", data)
    fd = vfs.openat(AT_FDCWD, b"f", O_RDONLY)
    memory = bytearray(len(data) + 10)
    assert vfs.read_into(fd, memoryview(memory)) == len(data)
    assert memory == data + bytes(10)
    assert vfs.read_into(fd, memoryview(memory)) == 0


def test_positions_may_pass_the_end_but_not_the_beginning_or_63_bits() -> None:
    vfs = new_vfs()
    fd = vfs.openat(AT_FDCWD, b"f", O_CREAT | O_RDWR)
    assert vfs.lseek(fd, (1 << 63) - 1, os.SEEK_SET) == (1 << 63) - 1
    assert vfs.lseek(fd, 1, os.SEEK_CUR) == -Errno.EOVERFLOW
    assert vfs.read(fd, 10) == b""
    assert vfs.write(fd, b"x") == -Errno.EFBIG
    assert vfs.ftruncate(fd, LONGEST_FILE + 1) == -Errno.EFBIG
    assert vfs.lseek(fd, -1, os.SEEK_SET) == vfs.lseek(fd, 0, 9) == -Errno.EINVAL


def test_a_directory_cannot_be_read_or_written_as_a_file() -> None:
    vfs = new_vfs()
    fd = vfs.openat(AT_FDCWD, b"/tmp", O_RDONLY)
    assert vfs.read(fd, 10) == -Errno.EISDIR
    assert vfs.write(fd, b"x") == -Errno.EBADF
    assert vfs.openat(AT_FDCWD, b"/tmp", O_WRONLY) == -Errno.EISDIR
    assert vfs.truncate(b"/tmp", 0) == -Errno.EISDIR


# Directories


def test_a_listing_gives_every_lasting_entry_once_while_others_come_and_go() -> None:
    vfs = new_vfs()
    for n in range(50):
        write_file(vfs, b"%d" % n, b"")
    fd = vfs.openat(AT_FDCWD, b".", O_DIRECTORY)
    seen: list[bytes] = []
    while entries := vfs.getdents(fd, 7):
        assert not isinstance(entries, int)
        seen += [entry.name for entry in entries]
        write_file(vfs, b"new%d" % (len(seen) % 3), b"")
        for name in (b"%d" % (len(seen) // 2), b"new0"):
            vfs.unlinkat(AT_FDCWD, name)
    lasting = set(names(vfs, b".")) - {b"new0", b"new1", b"new2"}
    assert lasting <= set(seen)
    assert len(seen) == len(set(seen))


def test_a_listing_can_be_taken_up_at_any_cookie_and_tells_types() -> None:
    vfs = new_vfs()
    vfs.mkdirat(AT_FDCWD, b"d", 0o755)
    write_file(vfs, b"f", b"")
    vfs.symlinkat(b"f", AT_FDCWD, b"l")
    fd = vfs.openat(AT_FDCWD, b".", O_DIRECTORY)
    entries = vfs.getdents(fd, 100)
    assert not isinstance(entries, int)
    assert [(entry.name, entry.type) for entry in entries] == [
        (b".", 4),
        (b"..", 4),
        (b"d", 4),
        (b"f", 8),
        (b"l", 10),
    ]
    assert vfs.lseek(fd, entries[2].cookie, os.SEEK_SET) == entries[2].cookie
    assert vfs.getdents(fd, 100) == entries[3:]
    assert vfs.getdents(fd, 100) == []


def test_an_open_file_lives_on_without_a_name_and_gives_its_bytes_back_when_closed() -> None:
    vfs = new_vfs()
    fd = vfs.openat(AT_FDCWD, b"f", O_CREAT | O_RDWR)
    other = vfs.dup(fd)
    vfs.write(fd, b"kept")
    assert vfs.unlinkat(AT_FDCWD, b"f") == 0
    assert vfs.stat(b"f") == -Errno.ENOENT
    assert (vfs.pread(fd, 10, 0), facts(vfs.fstat(fd)).nlink) == (b"kept", 0)
    assert vfs.close_fd(fd) == 0
    assert vfs.pread(other, 10, 0) == b"kept"
    assert vfs.close_fd(other) == 0
    assert vfs.tree.charged == 0


def test_a_removed_working_directory_is_empty_and_nameless() -> None:
    vfs = new_vfs()
    vfs.mkdirat(AT_FDCWD, b"d", 0o755)
    assert vfs.chdir(b"d") == 0
    assert vfs.rmdir(b"/home/d") == 0
    assert vfs.getcwd() == -Errno.ENOENT
    assert vfs.openat(AT_FDCWD, b"f", O_CREAT | O_WRONLY) == -Errno.ENOENT
    assert vfs.mkdirat(AT_FDCWD, b"e", 0o755) == -Errno.ENOENT
    assert vfs.chdir(b"..") == 0
    assert (vfs.getcwd(), vfs.tree.charged) == (b"/home", 0)


def test_a_moved_directory_takes_the_working_directory_along() -> None:
    vfs = new_vfs()
    for path in (b"a", b"a/b", b"c"):
        assert vfs.mkdirat(AT_FDCWD, path, 0o755) == 0
    assert vfs.chdir(b"a/b") == 0
    assert vfs.renameat(AT_FDCWD, b"/home/a", AT_FDCWD, b"/home/c") == 0
    assert vfs.getcwd() == b"/home/c/b"
    assert facts(vfs.stat(b"..")).ino == facts(vfs.stat(b"/home/c")).ino


def test_exclusive_creation_refuses_what_exists_even_a_dangling_link() -> None:
    vfs = new_vfs()
    write_file(vfs, b"f", b"")
    vfs.symlinkat(b"nowhere", AT_FDCWD, b"l")
    for path in (b"f", b"l", b"."):
        assert vfs.openat(AT_FDCWD, path, O_CREAT | O_EXCL | O_RDWR) == -Errno.EEXIST
    assert vfs.unlinkat(AT_FDCWD, b"f", AT_REMOVEDIR) == -Errno.ENOTDIR
    assert vfs.unlinkat(AT_FDCWD, b"f", 1) == -Errno.EINVAL


# Metadata of nodes


def test_stat_tells_kind_size_and_times_by_the_given_clock() -> None:
    vfs = new_vfs()
    write_file(vfs, b"f", b"x" * 1000)
    found = facts(vfs.stat(b"f"))
    assert (stat.filemode(found.mode), found.size, found.blocks, found.nlink) == ("-rw-r--r--", 1000, 2, 1)
    assert (found.atime_ns, found.mtime_ns, found.ctime_ns) == (NOW, NOW, NOW)
    assert vfs.utimensat(AT_FDCWD, b"f", 5, None) == 0
    assert facts(vfs.stat(b"f"))[6:9] == (5, NOW, NOW)
    assert vfs.utimensat(AT_FDCWD, b"f", UTIME_NOW, -5) == 0
    assert facts(vfs.stat(b"f"))[6:9] == (NOW, -5, NOW)


def test_modes_are_masked_kept_and_not_enforced() -> None:
    vfs = new_vfs()
    assert vfs.umask(0o077) == 0o022
    fd = vfs.openat(AT_FDCWD, b"f", O_CREAT | O_RDWR, 0o777)
    assert stat.S_IMODE(facts(vfs.fstat(fd)).mode) == 0o700
    assert vfs.fchmod(fd, 0) == 0
    assert vfs.openat(AT_FDCWD, b"f", O_RDWR) > fd
    assert vfs.faccessat(AT_FDCWD, b"f", os.R_OK | os.W_OK) == 0
    assert vfs.faccessat(AT_FDCWD, b"f", os.X_OK) == -Errno.EACCES


def test_user_0_is_the_only_owner() -> None:
    vfs = new_vfs()
    write_file(vfs, b"f", b"")
    assert vfs.fchownat(AT_FDCWD, b"f", 0, -1) == vfs.fchownat(AT_FDCWD, b"f", 0xFFFFFFFF, 0) == 0
    assert vfs.fchownat(AT_FDCWD, b"f", 1000, 0) == -Errno.EPERM
    assert vfs.mknodat(AT_FDCWD, b"pipe", stat.S_IFIFO | 0o666) == -Errno.EPERM


# Limits


def test_a_full_quota_ends_a_write_short_and_then_with_enospc() -> None:
    vfs = new_vfs(limit=NODE_COST + 3 * CHUNK)
    fd = vfs.openat(AT_FDCWD, b"f", O_CREAT | O_RDWR)
    assert vfs.write(fd, b"x" * 10 * CHUNK) == 2 * CHUNK
    assert vfs.write(fd, b"x" * CHUNK) == -Errno.ENOSPC
    assert vfs.fallocate(fd, 0, 0, 10 * CHUNK) == -Errno.ENOSPC
    assert vfs.ftruncate(fd, 0) == 0
    assert vfs.pwrite(fd, b"x" * CHUNK, 0) == CHUNK


def test_empty_files_links_and_directories_are_charged_and_counted() -> None:
    vfs = new_vfs(limit=10 * NODE_COST)
    made = 0
    while vfs.mkdirat(AT_FDCWD, b"%d" % made, 0o755) == 0:
        made += 1
    assert made == 10
    assert vfs.openat(AT_FDCWD, b"f", O_CREAT | O_RDWR) == -Errno.ENOSPC
    assert vfs.symlinkat(b"t", AT_FDCWD, b"l") == -Errno.ENOSPC
    few = new_vfs(node_limit=2)
    assert [few.mkdirat(AT_FDCWD, name, 0o755) for name in (b"a", b"b", b"c")] == [0, 0, -Errno.ENOSPC]
    assert few.rmdir(b"a") == few.mkdirat(AT_FDCWD, b"c", 0o755) == 0


def test_statfs_shows_the_quota() -> None:
    vfs = new_vfs(limit=1 << 20, node_limit=100)
    write_file(vfs, b"f", b"x" * 5000)
    space = vfs.statfs(b"/home")
    assert not isinstance(space, int)
    assert (space.bsize, space.blocks, space.bfree, space.files, space.ffree) == (4096, 256, 254, 100, 99)


def test_closing_gives_everything_back() -> None:
    quota = FixedQuota(1 << 20)
    vfs = Vfs(clock=lambda: NOW, quota=quota)
    write_file(vfs, b"f", b"x" * 1000)
    vfs.mark()
    assert vfs.unlinkat(AT_FDCWD, b"f") == 0
    vfs.close()
    assert quota.used_bytes == 0
    assert vfs.stat(b"/tmp") == -Errno.ENOENT

"""Files of the host in the guest's tree."""

import os
from functools import partial
from pathlib import Path

import pytest

from wasm_runtime.errno import Errno
from wasm_runtime.vfs.flags import (
    AT_FDCWD,
    O_CREAT,
    O_RDONLY,
    O_RDWR,
    O_TRUNC,
    O_WRONLY,
)
from wasm_runtime.vfs.mounted_files import LateFile

from .trees import facts, names, new_vfs, read_file, write_file


def test_a_mount_cannot_be_written_cut_or_opened_for_writing() -> None:
    vfs = new_vfs()
    vfs.mount("/context/text", b"hello")
    for flags in (O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_CREAT | O_TRUNC):
        assert vfs.openat(AT_FDCWD, b"/context/text", flags) == -Errno.EROFS
    assert vfs.truncate(b"/context/text", 0) == -Errno.EROFS
    fd = vfs.openat(AT_FDCWD, b"/context/text", O_RDONLY)
    assert vfs.write(fd, b"x") == -Errno.EBADF
    assert vfs.ftruncate(fd, 0) == -Errno.EINVAL
    assert vfs.faccessat(AT_FDCWD, b"/context/text", os.W_OK) == -Errno.EROFS
    assert read_file(vfs, b"/context/text") == b"hello"


def test_a_mount_in_home_stays_where_it_is_while_its_neighbours_may_change() -> None:
    vfs = new_vfs()
    vfs.mount("/home/data/text", b"hello")
    write_file(vfs, b"data/mine", b"x")
    assert vfs.unlinkat(AT_FDCWD, b"data/text") == -Errno.EBUSY
    assert vfs.renameat(AT_FDCWD, b"data/text", AT_FDCWD, b"other") == -Errno.EBUSY
    assert vfs.renameat(AT_FDCWD, b"data/mine", AT_FDCWD, b"data/text") == -Errno.EBUSY
    assert vfs.renameat(AT_FDCWD, b"data", AT_FDCWD, b"moved") == 0
    assert read_file(vfs, b"moved/text") == b"hello"


def test_a_host_file_is_read_in_place_and_its_path_is_not_shown(tmp_path: Path) -> None:
    source = tmp_path / "secret-place.txt"
    source.write_bytes(b"0123456789" * 20_000)
    vfs = new_vfs(limit=0)
    vfs.mount("/context/app/log.txt", source)
    fd = vfs.openat(AT_FDCWD, b"/context/app/log.txt", O_RDONLY)
    assert vfs.pread(fd, 5, 199_998) == b"89"
    assert vfs.pread(fd, 5, 300_000) == b""
    assert read_file(vfs, b"/context/app/log.txt") == source.read_bytes()
    assert names(vfs, b"/context/app") == [b".", b"..", b"log.txt"]
    assert facts(vfs.fstat(fd)).mtime_ns == source.stat().st_mtime_ns
    assert b"secret-place" not in vfs.dump()


def test_a_host_file_that_shrinks_vanishes_or_is_replaced_is_eio(tmp_path: Path) -> None:
    vfs = new_vfs()
    for name in ("shrinks", "vanishes", "replaced", "grows"):
        (tmp_path / name).write_bytes(b"x" * 100)
        vfs.mount(f"/context/{name}", tmp_path / name)
    (tmp_path / "shrinks").write_bytes(b"x" * 10)
    (tmp_path / "vanishes").unlink()
    (tmp_path / "other").write_bytes(b"y" * 100)
    (tmp_path / "other").replace(tmp_path / "replaced")
    (tmp_path / "grows").write_bytes(b"x" * 1000)
    assert [read_file(vfs, b"/context/" + name) for name in (b"shrinks", b"vanishes", b"replaced", b"grows")] == [
        -Errno.EIO,
        -Errno.EIO,
        -Errno.EIO,
        b"x" * 100,
    ]


def test_a_late_file_is_looked_for_at_the_first_read_and_must_have_the_size_it_was_said_to_have(tmp_path: Path) -> None:
    looked_for: list[str] = []

    def find(name: str) -> Path:
        looked_for.append(name)
        return tmp_path / name

    vfs = new_vfs()
    for name in ("good", "long", "missing"):
        vfs.mount(f"/context/{name}", LateFile(partial(find, name), size=5, mtime_ns=7))
        fd = vfs.openat(AT_FDCWD, f"/context/{name}".encode(), O_RDONLY)
        assert (facts(vfs.fstat(fd)).size, facts(vfs.fstat(fd)).mtime_ns) == (5, 7)
    assert looked_for == []

    (tmp_path / "good").write_bytes(b"12345")
    (tmp_path / "long").write_bytes(b"123456")
    for _ in range(2):
        found = [read_file(vfs, b"/context/" + name) for name in (b"good", b"long", b"missing")]
        assert found == [b"12345", -Errno.EIO, -Errno.EIO]
    assert looked_for == ["good", "long", "missing", "long", "missing"]
    (tmp_path / "missing").write_bytes(b"there")
    assert read_file(vfs, b"/context/missing") == b"there"


def test_reading_many_host_files_keeps_none_of_them_open(tmp_path: Path) -> None:
    source = tmp_path / "text"
    source.write_bytes(b"x" * 10)
    vfs = new_vfs()
    vfs.mount("/context/text", source)
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(200):
        assert vfs.read(vfs.openat(AT_FDCWD, b"/context/text", O_RDONLY), 5) == b"xxxxx"
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_an_empty_host_file_is_empty_and_a_directory_is_refused(tmp_path: Path) -> None:
    vfs = new_vfs()
    (tmp_path / "empty").touch()
    vfs.mount("/context/empty", tmp_path / "empty")
    assert read_file(vfs, b"/context/empty") == b""
    with pytest.raises(ValueError, match="not a regular file"):
        vfs.mount("/context/directory", tmp_path)
    with pytest.raises(FileNotFoundError):
        vfs.mount("/context/missing", tmp_path / "missing")


def test_mounting_again_shows_the_new_source_also_to_what_is_open() -> None:
    vfs = new_vfs()
    vfs.mount("/context/text", b"old")
    fd = vfs.openat(AT_FDCWD, b"/context/text", O_RDONLY)
    vfs.mount("/context/text", memoryview(b"newer"))
    assert vfs.read(fd, 10) == read_file(vfs, b"/context/text") == b"newer"


@pytest.mark.parametrize(
    "path", ["relative", "/", "", "/a/../b", "/tmp/file/below", "/dev/null", "/tmp", "/" + "n" * 256]
)
def test_a_mount_needs_a_plain_absolute_path_where_nothing_is(path: str) -> None:
    vfs = new_vfs()
    write_file(vfs, b"/tmp/file", b"")
    with pytest.raises(ValueError, match="cannot be mounted at"):
        vfs.mount(path, b"x")

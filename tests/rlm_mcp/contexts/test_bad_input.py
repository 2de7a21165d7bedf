"""Each bad source is refused with a sentence of its own and leaves the store as it was."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlm_mcp.contexts.sources.file import open_regular
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import OutOfRange, SourceChanged, SourceRefused, StoreFull


@pytest.fixture(autouse=True)
def _leaves_the_store_intact(store: Store, tmp_path: Path) -> Iterator[None]:
    kept = store.register_text("kept", name="kept")
    yield
    assert store.get("kept") == kept
    assert store.text(kept) == "kept"
    assert not list((tmp_path / "data" / "contexts" / "incoming").glob("*/*"))
    assert store.gc().blobs == 0


def test_a_missing_file(store: Store, files: Path) -> None:
    with pytest.raises(SourceRefused, match=r"nothing.log does not exist: check the path"):
        store.register_source(str(files / "nothing.log"))


def test_a_file_below_a_file(store: Store, files: Path) -> None:
    (files / "a.txt").write_text("x")
    with pytest.raises(SourceRefused, match=r"a.txt/b does not exist"):
        store.register_source(str(files / "a.txt" / "b"))


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may read everything, and all on Windows")
def test_an_unreadable_file(store: Store, files: Path) -> None:
    (files / "a.txt").write_text("x")
    (files / "a.txt").chmod(0)
    with pytest.raises(SourceRefused, match=r"a.txt may not be read by this user: change its permissions"):
        store.register_source(str(files / "a.txt"))


@pytest.mark.parametrize("source", ["", "  \n"])
def test_no_source(store: Store, source: str) -> None:
    with pytest.raises(SourceRefused, match=r"the source is empty: name a file, directory or glob"):
        store.register_source(source)


@pytest.mark.parametrize(
    "source", ["file:///tmp/a%00b", "/tmp/a\0b", "file://[x", "file:///%00*", "a\ud800b", "~none/x"]
)
def test_an_address_that_no_file_can_have(store: Store, source: str) -> None:
    with pytest.raises(SourceRefused):
        store.register_source(source)


@pytest.mark.parametrize(
    ("data", "how"), [(b"", "is empty"), (b"\xef\xbb\xbf", "is empty"), (bytes(range(256)), "is binary, not text")]
)
def test_a_file_without_text(store: Store, files: Path, data: bytes, how: str) -> None:
    (files / "a.dat").write_bytes(data)
    with pytest.raises(SourceRefused, match=rf"a.dat {how}"):
        store.register_source(str(files / "a.dat"))


def test_no_text(store: Store) -> None:
    with pytest.raises(SourceRefused, match=r"the text is empty: there is nothing to register"):
        store.register_text("")


def test_a_directory_with_nothing_usable(store: Store, files: Path) -> None:
    (files / "photo.jpg").write_bytes(bytes(range(256)))
    with pytest.raises(SourceRefused, match=r"files holds no text \(1 skipped: photo.jpg: it is binary, not text\)"):
        store.register_source(str(files))


def test_a_loop_of_links(store: Store, files: Path) -> None:
    (files / "a").symlink_to("b")
    (files / "b").symlink_to("a")
    with pytest.raises(SourceRefused, match=r"a is a loop of symbolic links"):
        store.register_source(str(files / "a"))


def test_a_fifo(store: Store, files: Path) -> None:
    os.mkfifo(files / "pipe")
    with pytest.raises(SourceRefused, match=r"pipe is a FIFO, not a regular file"):
        store.register_source(str(files / "pipe"))


def test_a_device(store: Store) -> None:
    with pytest.raises(SourceRefused, match=r"/dev/zero is a character device, not a regular file"):
        store.register_source("/dev/zero")


def test_a_socket(store: Store, files: Path) -> None:
    # The address of a socket holds 108 bytes: a short one, from where it lies.
    with contextlib.chdir(files), socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
        with pytest.raises(SourceRefused, match=r"s is a socket, not a regular file"):
            store.register_source("s")


@pytest.mark.parametrize("source", ["a\0b", "x" * 5_000, "/" + "y/" * 3_000])
def test_a_path_that_cannot_be(store: Store, source: str) -> None:
    with pytest.raises(SourceRefused, match=r"cannot be a path|is too long for a path|does not exist") as refused:
        store.register_source(source)
    assert len(str(refused.value)) < 400


def test_an_address_on_another_machine(store: Store) -> None:
    with pytest.raises(SourceRefused, match=r"is on another machine"):
        store.register_source("file://server/share/a.txt")


def test_a_file_that_grows_is_registered_as_it_was_when_opened(files: Path) -> None:
    (files / "a.log").write_text("one\n")
    with open_regular(files / "a.log") as opened, (files / "a.log").open("a") as writer:
        writer.write("two\n")
        writer.flush()
        assert opened.file.read(100) == b"one\n"
    assert opened.notes == ["a.log grew while it was read: its first 4 bytes are registered"]


def read_while(path: Path, change: Callable[[], object]) -> None:
    """Read five bytes of a file, change it, read the rest."""
    with open_regular(path) as opened:
        opened.file.read(5)
        change()
        while opened.file.read(1_000):
            pass


def test_a_file_that_shrinks_is_refused(files: Path) -> None:
    path = files / "a.log"
    path.write_bytes(b"x" * 10_000)
    with pytest.raises(SourceChanged, match=r"shrank from 10,000 to 5 bytes while it was read"):
        read_while(path, lambda: os.truncate(path, 5))


def test_a_file_that_is_overwritten_is_refused(files: Path) -> None:
    path = files / "a.log"
    path.write_bytes(b"x" * 10)
    os.utime(path, ns=(1, 1))
    with pytest.raises(SourceChanged, match=r"was overwritten while it was read"):
        read_while(path, lambda: path.write_bytes(b"y" * 10))


def test_a_file_that_disappears_is_read_to_its_end(files: Path) -> None:
    (files / "a.log").write_bytes(b"x" * 10)
    with open_regular(files / "a.log") as opened:
        (files / "a.log").unlink()
        assert opened.file.read(20) == b"x" * 10


def test_a_disk_that_fills_up(store: Store, files: Path) -> None:
    """A limit on the file size stands in for a full disk: the write fails midway."""
    resource = pytest.importorskip("resource", reason="only POSIX limits the sizes of files")
    (files / "a.log").write_bytes(b"line\n" * 4_000_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, hard))
    try:
        with pytest.raises(StoreFull, match=r"is full .*free some space .*nothing was stored"):
            store.register_source(str(files / "a.log"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_nuls_are_kept_and_counted(store: Store, files: Path) -> None:
    (files / "a.log").write_bytes(b"a line of text\n" * 99 + b"\0\0\n")
    context = store.register_source(str(files / "a.log"))
    assert context.notes == ("a.log holds 2 NUL characters",)
    assert store.read_lines(context, 100).text == "\0\0\n"
    store.remove("a.log")


def test_lone_surrogates_are_replaced_and_counted(store: Store) -> None:
    context = store.register_text("a\ud800b", name="mended")
    assert store.text(context) == "a\ufffdb"
    assert context.notes == ("1 lone surrogates were replaced by U+FFFD",)
    store.remove("mended")


def test_a_line_of_100_mb_is_read_a_piece_at_a_time(store: Store, files: Path) -> None:
    (files / "one.log").write_bytes(b"x" * 100_000_000 + b"\nend\n")
    context = store.register_source(str(files / "one.log"))
    assert (context.lines, store.file(context).longest_line) == (2, 100_000_000)
    lines = store.read_lines(context, 1, 2, max_chars=50)
    assert (lines.text, lines.truncated, lines.next_start_line) == ("x" * 50, True, 2)
    assert store.read_lines(context, 2).text == "end\n"
    assert store.read_chars(context, 99_999_999, 100_000_003) == "x\nen"
    with pytest.raises(OutOfRange):
        store.read_lines(context, 3)
    store.remove("one.log")

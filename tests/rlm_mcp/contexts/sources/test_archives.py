import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import SourceRefused

TEXT = b"line one\nline two\n" * 1_000
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_is_the_text_in_it(store: Store, files: Path, suffix: str) -> None:
    (files / f"app.log{suffix}").write_bytes(COMPRESS[suffix](TEXT))
    context = store.register_source(str(files / f"app.log{suffix}"))
    assert (context.kind, context.name, store.file(context).path) == ("text", f"app.log{suffix}", "app.log")
    assert store.text(context) == TEXT.decode()


@pytest.mark.parametrize("suffix", COMPRESS)
def test_several_streams_in_one_file_are_read_through(store: Store, files: Path, suffix: str) -> None:
    (files / f"app.log{suffix}").write_bytes(COMPRESS[suffix](b"one\n") + COMPRESS[suffix](b"two\n"))
    assert store.text(store.register_source(str(files / f"app.log{suffix}"))) == "one\ntwo\n"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_cut_short_is_refused(store: Store, files: Path, suffix: str) -> None:
    (files / f"app.log{suffix}").write_bytes(COMPRESS[suffix](bytes(range(256)).hex().encode() * 99)[:-9])
    with pytest.raises(SourceRefused, match=r"is damaged or cut short .*fetch it again"):
        store.register_source(str(files / f"app.log{suffix}"))
    assert store.list().total == 0


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_bomb_is_refused_before_it_has_expanded(store: Store, files: Path, suffix: str) -> None:
    (files / f"bomb{suffix}").write_bytes(COMPRESS[suffix](b"a" * (1 << 20)) * 1_000)
    with pytest.raises(SourceRefused, match=r"expands more than 250 times, .* as bombs do"):
        store.register_source(str(files / f"bomb{suffix}"))
    assert store.list().total == 0


def make_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # any mode for writing
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.xz", "w:xz")]
)
def test_a_tar_archive_is_its_texts(store: Store, files: Path, suffix: str, mode: str) -> None:
    path = files / f"logs{suffix}"
    make_tar(
        path, [(member("./b/x.log"), b"x\n"), (member("a.log"), b"a\n"), (member("b", tarfile.DIRTYPE), b"")], mode
    )
    context = store.register_source(str(path))
    assert {entry.path: entry.bytes for entry in store.files(context)} == {"a.log": 2, "b/x.log": 2}


def test_members_that_lead_outside_are_skipped(store: Store, files: Path) -> None:
    make_tar(
        files / "evil.tar",
        [
            (member("fine.txt"), b"fine\n"),
            (member("../../etc/evil"), b"x\n"),
            (member("/etc/evil"), b"x\n"),
            (member("link", tarfile.SYMTYPE, "/etc/passwd"), b""),
            (member("hard", tarfile.LNKTYPE, "/etc/passwd"), b""),
            (member("null", tarfile.CHRTYPE), b""),
            (member(".env"), b"K=1\n"),
        ],
    )
    context = store.register_source(str(files / "evil.tar"))
    assert [entry.path for entry in store.files(context)] == ["fine.txt"]
    assert store.skipped(context) == (
        Skipped(path="../../etc/evil", reason="its name leads outside the archive"),
        Skipped(path=".env", reason="secret: its name says that it holds credentials"),
        Skipped(path="etc/evil", reason="its name leads outside the archive"),
        Skipped(path="hard", reason="link inside an archive"),
        Skipped(path="link", reason="link inside an archive"),
        Skipped(path="null", reason="device or FIFO in an archive"),
    )


def test_a_path_below_a_file_is_given_another(store: Store, files: Path) -> None:
    make_tar(files / "odd.tar", [(member(name), f"{name}\n".encode()) for name in ("a", "a/b", "c/d", "c", "c")])
    context = store.register_source(str(files / "odd.tar"))
    assert {entry.path: entry.blob.read_text() for entry in store.files(context)} == {
        "a": "a\n",
        "a_b": "a/b\n",
        "c/d": "c/d\n",
        "c~2": "c\n",
        "c~3": "c\n",
    }


def test_a_zip_archive_is_its_texts_and_paths_are_made_harmless(store: Store, files: Path) -> None:
    with zipfile.ZipFile(files / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dir/b.txt", "b\n")
        archive.writestr("win\\c.txt", "c\n")
        archive.writestr("../evil.txt", "x\n")
        archive.writestr("inner.zip", b"PK\x03\x04\0\0\0\0" * 20)
    context = store.register_source(str(files / "a.zip"))
    assert [entry.path for entry in store.files(context)] == ["dir/b.txt", "win/c.txt"]
    assert {item.path: item.reason for item in store.skipped(context)} == {
        "../evil.txt": "its name leads outside the archive",
        "inner.zip": "it is binary, not text",
    }


def test_a_zip_bomb_is_refused_by_what_it_declares(store: Store, files: Path) -> None:
    with zipfile.ZipFile(files / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(17):
            archive.writestr(f"{n}.txt", "a" * (4 << 20))
    with pytest.raises(SourceRefused, match="expands more than 250 times"):
        store.register_source(str(files / "bomb.zip"))


def test_an_archive_with_nothing_to_read_says_what_it_held(store: Store, files: Path) -> None:
    make_tar(files / "a.tar", [(member("x.bin"), bytes(range(256)))])
    with pytest.raises(SourceRefused, match=r"holds no text \(1 skipped: x.bin: it is binary, not text\)"):
        store.register_source(str(files / "a.tar"))


def test_a_damaged_archive_is_refused(store: Store, files: Path) -> None:
    (files / "a.zip").write_bytes(b"PK\x03\x04 and then nothing")
    make_tar(files / "b.tar", [(member("big.txt"), TEXT)])
    (files / "b.tar").write_bytes((files / "b.tar").read_bytes()[:4_000])
    for name in ("a.zip", "b.tar"):
        with pytest.raises(SourceRefused, match=r"is damaged or cut short|holds no text"):
            store.register_source(str(files / name))


def test_compressed_files_in_a_directory_are_read_and_archives_are_not(store: Store, files: Path) -> None:
    (files / "old.log.gz").write_bytes(gzip.compress(TEXT))
    make_tar(files / "more.tar.gz", [(member("x"), b"x\n")], "w:gz")
    context = store.register_source(str(files))
    assert store.text(context, "old.log.gz") == TEXT.decode()
    assert store.skipped(context) == (
        Skipped(path="more.tar.gz", reason="archive inside a directory: register it by itself"),
    )

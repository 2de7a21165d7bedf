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
    ".xz": lambda data: lzma.compress(data, preset=0),
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
def test_a_compressed_file_cut_short_is_read_as_far_as_it_goes(store: Store, files: Path, suffix: str) -> None:
    lines = b"".join(b"line %d\n" % number for number in range(120_000))
    data = COMPRESS[suffix](lines)
    (files / f"app.log{suffix}").write_bytes(data[: len(data) * 9 // 10])
    context = store.register_source(str(files / f"app.log{suffix}"))
    text = store.text(context)
    assert lines.decode().startswith(text)
    assert len(text) > len(lines) // 4
    (note,) = context.notes
    assert note.startswith(f"app.log{suffix} is damaged or cut short (")
    assert note.endswith(f"): only its first {len(text):,} unpacked bytes were read")


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_of_which_nothing_can_be_read_is_refused(store: Store, files: Path, suffix: str) -> None:
    (files / f"app.log{suffix}").write_bytes(COMPRESS[suffix](bytes(range(256)).hex().encode() * 99)[:14])
    with pytest.raises(SourceRefused, match=r"is damaged or cut short .*fetch it again"):
        store.register_source(str(files / f"app.log{suffix}"))
    assert store.list().total == 0


def test_what_follows_a_compressed_file_is_told(store: Store, files: Path) -> None:
    (files / "app.log.gz").write_bytes(gzip.compress(b"one\n") + b"\0" * 512 + b"rest")
    context = store.register_source(str(files / "app.log.gz"))
    assert store.text(context) == "one\n"
    assert [note.startswith("app.log.gz is damaged or cut short") for note in context.notes] == [True]


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


def test_members_with_names_that_lead_outside_are_read_under_paths_that_do_not(store: Store, files: Path) -> None:
    make_tar(
        files / "evil.tar",
        [
            (member("fine.txt"), b"fine\n"),
            (member("../../etc/evil"), b"x\n"),
            (member("/var/log/syslog"), b"y\n"),
            (member("C:\\logs\\app.log"), b"z\n"),
            (member("link", tarfile.SYMTYPE, "/etc/passwd"), b""),
            (member("hard", tarfile.LNKTYPE, "fine.txt"), b""),
            (member("null", tarfile.CHRTYPE), b""),
            (member("/.env"), b"K=1\n"),
        ],
    )
    context = store.register_source(str(files / "evil.tar"))
    assert [entry.path for entry in store.files(context)] == ["etc/evil", "fine.txt", "logs/app.log", "var/log/syslog"]
    assert store.skipped(context) == (
        Skipped(path=".env", reason="secret: its name says that it holds credentials"),
        Skipped(path="hard", reason="link inside an archive, to fine.txt"),
        Skipped(path="link", reason="link inside an archive, to /etc/passwd"),
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
    assert [entry.path for entry in store.files(context)] == ["dir/b.txt", "evil.txt", "win/c.txt"]
    assert [(item.path, "is damaged or cut short" in item.reason) for item in store.skipped(context)] == [
        ("inner.zip", True)
    ]


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


def tar_header(kind: bytes, size: int, *, name: bytes = b"x", real_size: int = 0) -> bytes:
    """A header of a tar archive with any size, made by hand."""
    header = bytearray(512)
    header[0 : len(name)] = name
    header[100:108] = b"0000644\0"
    header[124:136] = b"\x80" + size.to_bytes(11, "big")
    header[156:157] = kind
    header[257:265] = b"ustar  \0" if kind == tarfile.GNUTYPE_SPARSE else b"ustar\x0000"
    if real_size:
        header[483:495] = b"\x80" + real_size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def pax_header(data: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return tar_header(kind, len(data)) + data + b"\0" * (-len(data) % 512)


def pax_record(keyword: bytes, value: bytes) -> bytes:
    length = len(keyword) + len(value) + 3
    length += len(str(length + 1))
    return b"%d %s=%s\n" % (length, keyword, value)


ONE = tar_header(tarfile.REGTYPE, 4) + b"one\n" + bytes(508)
END = bytes(1024)
SPARSE_PAX = b"".join(
    pax_record(b"GNU.sparse." + keyword, value)
    for keyword, value in ((b"major", b"1"), (b"minor", b"0"), (b"name", b"x"), (b"realsize", b"%d" % (1 << 40)))
)
BOMBS = {
    "a sparse member": tar_header(tarfile.GNUTYPE_SPARSE, 0, real_size=1 << 40),
    "a sparse member by pax": pax_header(SPARSE_PAX) + tar_header(tarfile.REGTYPE, 512) + b"0\n" + bytes(510),
    "a member of any size": tar_header(tarfile.REGTYPE, 1 << 40),
    "a pax header": pax_header(pax_record(b"comment", b"a" * (1 << 20))) + ONE,
    "a pax header that is longer than the archive": tar_header(tarfile.XHDTYPE, 1 << 40),
    "a pax header of digits": pax_header(pax_record(b"comment", b"1" * (200 << 10))) + ONE,
    "a pax header of no records": pax_header(b"2 " * (100 << 10) + b"=") + ONE,
    "a pax size that is no number": pax_header(pax_record(b"GNU.sparse.realsize", b"?")) + ONE,
    "a global pax header": pax_header(pax_record(b"comment", b"a" * (1 << 15)), tarfile.XGLTYPE) + ONE,
    "many pax headers": pax_header(pax_record(b"comment", b"a")) * 2_000 + ONE,
    "a long name": tar_header(tarfile.GNUTYPE_LONGNAME, 1 << 40) + bytes(1 << 20),
    "many long names": (tar_header(tarfile.GNUTYPE_LONGNAME, 512) + b"a" * 512) * 2_000 + ONE,
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_headers_of_a_tar_archive_cannot_make_it_large(store: Store, files: Path, bomb: bytes, packed: bool) -> None:
    data = bomb + END
    (files / "a.tar").write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(SourceRefused, match=r"as bombs do|is damaged or cut short"):
        store.register_source(str(files / "a.tar"))
    assert store.list().total == 0


def test_a_sparse_member_of_usual_size_is_read_with_its_zeros(store: Store, files: Path) -> None:
    sparse = tar_header(tarfile.GNUTYPE_SPARSE, 0, real_size=1 << 20)
    (files / "a.tar").write_bytes(ONE + sparse + pax_header(pax_record(b"path", b"two/" + b"x" * 300)) + ONE + END)
    context = store.register_source(str(files / "a.tar"))
    assert {entry.path for entry in store.files(context)} == {"x", "two/" + "x" * 300}
    assert store.skipped(context) == (Skipped(path="x", reason="it is binary, not text"),)


def zip_of(members: dict[str, bytes]) -> bytes:
    with io.BytesIO() as data:
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return data.getvalue()


def tar_of(members: dict[str, bytes]) -> bytes:
    with io.BytesIO() as data:
        with tarfile.open(fileobj=data, mode="w") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return data.getvalue()


def mail(text: str) -> bytes:
    return f"From: a@example.com\nContent-Transfer-Encoding: quoted-printable\n\n{text}=3D\n".encode()


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_members_are_read_as_the_same_files_in_a_directory_are(
    store: Store, files: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    members = {
        "logs/app.log.1.gz": gzip.compress(b"ERROR 42\n"),
        "logs/app.log.2": lzma.compress(b"ERROR 43\n"),
        "mail.eml.bz2": bz2.compress(mail("hello")),
        "mail.eml": mail("hello"),
        "page.html": b"<p>source\n",
    }
    (files / "a.archive").write_bytes(pack(members))
    (files / "dir" / "logs").mkdir(parents=True)
    for name, data in members.items():
        (files / "dir" / name).write_bytes(data)
    shown = {}
    for source in ("a.archive", "dir"):
        context = store.register_source(str(files / source))
        shown[source] = {entry.path: entry.blob.read_text() for entry in store.files(context)}
        assert store.skipped(context) == ()
    assert shown["a.archive"] == shown["dir"]
    assert shown["dir"] == {
        "logs/app.log.1.gz": "ERROR 42\n",
        "logs/app.log.2": "ERROR 43\n",
        "mail.eml": "From: a@example.com\n\nhello=\n\n",
        "mail.eml.bz2": "From: a@example.com\n\nhello=\n\n",
        "page.html": "<p>source\n",
    }


def test_a_compressed_document_is_converted(store: Store, files: Path) -> None:
    (files / "mail.eml.gz").write_bytes(gzip.compress(mail("hello")))
    context = store.register_source(str(files / "mail.eml.gz"))
    assert (store.file(context).path, store.text(context)) == ("mail.eml", "From: a@example.com\n\nhello=\n\n")


def test_archives_inside_an_archive_are_unpacked_but_not_without_end(store: Store, files: Path) -> None:
    inner = tar_of({"x.log": b"x\n", "logs.zip": zip_of({"y.log": b"y\n", "z.log.gz": gzip.compress(b"z\n")})})
    deep = zip_of({"1.zip": zip_of({"2.tar": tar_of({"3.zip": zip_of({"4.zip": zip_of({"5.txt": b"5\n"})})})})})
    (files / "bundle.zip").write_bytes(zip_of({"node.tar.gz": gzip.compress(inner), "deep.zip": deep, "a": b"a\n"}))
    context = store.register_source(str(files / "bundle.zip"))
    assert {entry.path: entry.blob.read_text() for entry in store.files(context)} == {
        "a": "a\n",
        "node.tar.gz/logs.zip/y.log": "y\n",
        "node.tar.gz/logs.zip/z.log.gz": "z\n",
        "node.tar.gz/x.log": "x\n",
    }
    assert store.skipped(context) == (
        Skipped(
            path="deep.zip/1.zip/2.tar/3.zip", reason="archive inside 3 others: unpack it and register what it holds"
        ),
    )


def test_bombs_inside_an_archive_count_together(store: Store, files: Path) -> None:
    inner = zip_of({f"{n}.txt": b"a" * (4 << 20) for n in range(8)})
    (files / "bomb.zip").write_bytes(zip_of({f"{n}.zip": inner for n in range(9)} | {"0.txt": b"a\n"}))
    context = store.register_source(str(files / "bomb.zip"))
    assert store.file(context, "0.txt").bytes == 2
    assert sum(entry.bytes for entry in store.files(context)) <= 64 << 20
    assert any("expands more than 250 times" in item.reason for item in store.skipped(context))


def test_other_archives_are_refused_by_their_kind(store: Store, files: Path) -> None:
    (files / "a.dat").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(99))
    with pytest.raises(SourceRefused, match="is a 7z archive, which cannot be read here: unpack it and register that"):
        store.register_source(str(files / "a.dat"))


def test_an_encrypted_member_leaves_the_others(store: Store, files: Path) -> None:
    data = bytearray(zip_of({"a.txt": b"a\n", "b.txt": b"b\n"}))
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + flags] |= 1
    (files / "a.zip").write_bytes(data)
    context = store.register_source(str(files / "a.zip"))
    assert [entry.path for entry in store.files(context)] == ["b.txt"]
    assert store.skipped(context) == (
        Skipped(path="a.txt", reason="encrypted: unpack the archive yourself and register the directory"),
    )


def test_a_tar_archive_damaged_in_the_middle_says_after_how_many_members(store: Store, files: Path) -> None:
    data = bytearray(tar_of(dict.fromkeys(("a.txt", "b.txt", "c.txt"), b"text\n")))
    data[2 * 1024 + 148 : 2 * 1024 + 156] = b"7777777\0"
    (files / "a.tar").write_bytes(data)
    context = store.register_source(str(files / "a.tar"))
    assert [entry.path for entry in store.files(context)] == ["a.txt", "b.txt"]
    assert context.notes == (
        "a.tar is damaged or cut short after its first 2 members (bad checksum): what follows is missing",
    )


@pytest.mark.parametrize(
    ("name", "codec"),
    [("報告書メモ.txt", "cp932"), ("说明文件.txt", "gb18030"), ("Länge.txt", "cp437"), ("Grüße.txt", "utf-8")],
)
def test_names_in_a_zip_archive_are_read_in_the_encoding_of_their_writer(
    store: Store, files: Path, name: str, codec: str
) -> None:
    written = name.encode(codec)
    placeholder = "x" * len(written)
    (files / "a.zip").write_bytes(zip_of({placeholder: b"x\n"}).replace(placeholder.encode(), written))
    context = store.register_source(str(files / "a.zip"))
    assert [entry.path for entry in store.files(context)] == [name]


def test_a_tar_archive_of_the_format_before_posix_is_known_by_its_checksum(store: Store, files: Path) -> None:
    header = bytearray(tar_header(tarfile.REGTYPE, 4))
    header[124:136] = b"%011o " % 4
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (files / "a.old").write_bytes(bytes(header) + b"one\n" + bytes(508) + END)
    context = store.register_source(str(files / "a.old"))
    assert {entry.path: entry.blob.read_text() for entry in store.files(context)} == {"x": "one\n"}


def test_a_zip_archive_behind_something_else_is_known_by_its_name(store: Store, files: Path) -> None:
    (files / "a.zip").write_bytes(b"MZ\0 unpacks itself\n" + zip_of({"a.txt": b"a\n"}))
    context = store.register_source(str(files / "a.zip"))
    assert [entry.path for entry in store.files(context)] == ["a.txt"]


def test_a_zip_archive_that_cannot_be_parsed_is_refused_in_a_sentence(store: Store, files: Path) -> None:
    data = bytearray(zip_of({"a.txt": b"a\n"}))
    data[-6:-2] = b"\xff\xff\xff\x00"  # where its directory begins
    (files / "a.zip").write_bytes(data)
    with pytest.raises(SourceRefused, match="is damaged or cut short"):
        store.register_source(str(files / "a.zip"))


@pytest.mark.parametrize(
    ("name", "codec"), [("報告書メモ.txt", "cp932"), ("Länge.txt", "latin-1"), ("Grüße.txt", "utf-8")]
)
def test_names_in_a_tar_archive_are_read_in_the_encoding_of_their_writer(
    store: Store, files: Path, name: str, codec: str
) -> None:
    with tarfile.open(files / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding=codec) as archive:
        archive.addfile(member(name), io.BytesIO())
        archive.addfile(member("dir/" + name), io.BytesIO())
        info = member("a.txt")
        info.size = 2
        archive.addfile(info, io.BytesIO(b"a\n"))
    context = store.register_source(str(files / "a.tar"))
    assert {entry.path for entry in store.files(context)} == {"a.txt", f"dir/{name}", name}


def test_an_archive_behind_the_end_of_another_is_told(store: Store, files: Path) -> None:
    (files / "a.tar").write_bytes(tar_of({"a.txt": b"a\n"}) + tar_of({"b.txt": b"b\n"}))
    context = store.register_source(str(files / "a.tar"))
    assert [entry.path for entry in store.files(context)] == ["a.txt"]
    (note,) = context.notes
    assert note.startswith("a.tar goes on after its end with 10,240 bytes or more that were not read, as joined")


def test_many_members_of_one_name_are_told_apart_in_linear_time(store: Store, files: Path) -> None:
    make_tar(files / "a.tar", [(member("a"), b"%d\n" % number) for number in range(30)])
    context = store.register_source(str(files / "a.tar"))
    assert [entry.path for entry in store.files(context)] == sorted(["a", *(f"a~{number}" for number in range(2, 31))])


def test_paths_of_members_are_bounded_in_length_and_depth(store: Store, files: Path) -> None:
    make_tar(files / "a.tar", [(member("a/" * 100 + "b"), b"1\n"), (member("c" * 2_000), b"2\n")])
    context = store.register_source(str(files / "a.tar"))
    assert [entry.path for entry in store.files(context)] == ["a/" * 64 + "a_" * 36 + "b", "c" * 1024]


def test_a_compressed_file_of_many_members_is_read_in_large_pieces(store: Store, files: Path) -> None:
    (files / "a.gz").write_bytes(gzip.compress(b"a\n") * 40_000)
    assert store.text(store.register_source(str(files / "a.gz"))) == "a\n" * 40_000

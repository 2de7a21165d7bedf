"""The format of a file, found by its first bytes: compressed, an archive, a document, or a text as it is.

Files on disk, members of archives and files of a git revision are all read the same way. Compressions are taken off
first, one after the other. Archives inside an archive are unpacked too, since they cannot be registered by themselves.
"""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedReader
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from rlm_mcp.contexts.sources import archive, compressed, documents
from rlm_mcp.contexts.sources.compressed import CountedFile, Expansion
from rlm_mcp.contexts.sources.content_key import content_key
from rlm_mcp.contexts.sources.file import open_raw, open_regular
from rlm_mcp.contexts.sources.source import AccessPolicy, OpenPiece, Piece, Readable, Remark, Source
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import SourceRefused

HEAD_BYTES = 512
"""Includes the magic numbers of all formats; the last is that of tar, at 257."""

LARGE_BYTES = 1 << 20
"""In a directory, a file above this size is opened once more to see whether it may be referenced where it lies."""

MAX_COMPRESSIONS = 3
MAX_NESTED = 3
"""Archives inside each other: a bundle holds those of its machines, which hold their logs."""

SPOOLED_IN_MEMORY_BYTES = 8 << 20
MAX_SPOOLED_BYTES = 1 << 30
"""For a member that is read from several places, as zip archives and documents are: it is copied to a file first."""

UNPACK_IT = "unpack it yourself and register the directory"

_OTHER_ARCHIVES = {
    b"7z\xbc\xaf\x27\x1c": "7z archive",
    b"Rar!\x1a\x07": "RAR archive",
    b"MSCF\0\0\0\0": "cabinet archive",
    b"\xed\xab\xee\xdb": "RPM package",
    b"xar!": "xar archive",
    b"\x04\x22\x4d\x18": "file compressed by lz4",
    b"\x1f\x9d": "file compressed by compress",
    b"LZIP\x01": "file compressed by lzip",
    b"\x89LZO\0\r\n\x1a\n": "file compressed by lzop",
    b"\xff\x06\0\0sNaPpY": "file compressed by snappy",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a file holds once compressions are taken off; it is read once. `head` are the first bytes of `file`.

    `path` is for errors. `on_disk` is set if the bytes are those of the file at `path`.
    """

    name: str
    path: Path
    file: Readable
    head: bytes
    notes: list[str]
    expansion: Expansion
    on_disk: bool


def source_from_file(path: Path, policy: AccessPolicy) -> Source:
    """Decides how a file that was named by itself is read. Raises SourceRefused."""
    with _open_content(path) as content:
        if not content.head:
            raise SourceRefused(f"{path} is empty: there is nothing to register")
        is_document = documents.converter(content.name, content.head) is not None
        is_archive = not is_document and _is_archive(content)
        is_plain = not is_document and content.on_disk
    if is_archive:
        return Source(kind="files", name=path.name, location=str(path), pieces=_members_of_file(path, policy))
    opening = partial(_open_text, path, policy, by_itself=True)
    piece = Piece(path=content.name, open=opening, plain=path if is_plain else None)
    return Source(kind="text", name=path.name, location=str(path), pieces=iter([piece]))


def piece_in_directory(path: Path, *, shown: str, size: int, policy: AccessPolicy) -> Piece | Skipped:
    """Decides how a regular file that was found in a directory is read; most files are only opened to be read."""
    plain: Path | None = path
    if size > LARGE_BYTES:
        try:
            with _open_content(path) as content:
                is_document = documents.converter(content.name, content.head, in_directory=True) is not None
                plain = path if content.on_disk and not is_document and not _is_archive(content) else None
        except SourceRefused as error:
            return Skipped(path=shown, reason=str(error))
    return Piece(path=shown, open=partial(_open_text, path, policy, by_itself=False), plain=plain)


def piece_with_content(piece: Piece, path: Path, policy: AccessPolicy) -> Piece:
    """A piece whose bytes are read as those of a file in a directory are."""
    return replace(piece, open=partial(_open_piece, piece, path, policy))


@contextmanager
def _open_piece(piece: Piece, path: Path, policy: AccessPolicy) -> Iterator[OpenPiece]:
    with piece.open() as opened:
        counted = CountedFile(opened.file)
        expansion = Expansion(path.name, lambda: counted.consumed)
        content = _uncovered(counted, path, expansion=expansion, notes=opened.notes, on_disk=False)
        with _as_text(content, policy, by_itself=False) as text:
            yield text


@contextmanager
def _open_text(path: Path, policy: AccessPolicy, *, by_itself: bool) -> Iterator[OpenPiece]:
    with _open_content(path) as content, _as_text(content, policy, by_itself=by_itself) as text:
        yield text


@contextmanager
def _open_content(path: Path) -> Iterator[Content]:
    with open_regular(path) as opened:
        counted = CountedFile(opened.file)
        expansion = Expansion(path.name, lambda: counted.consumed)
        yield _uncovered(counted, path, expansion=expansion, notes=opened.notes, on_disk=True)


def _uncovered(file: Readable, path: Path, *, expansion: Expansion, notes: list[str], on_disk: bool) -> Content:
    """Takes off the compressions of a file. Raises SourceRefused."""
    name = path.name
    for _ in range(MAX_COMPRESSIONS + 1):
        peeked = _Peeked(file)
        if (method := compressed.compression(peeked.head)) is None:
            return Content(
                name=name, path=path, file=peeked, head=peeked.head, notes=notes, expansion=expansion, on_disk=on_disk
            )
        file = compressed.decompress(peeked, method, path=path, expansion=expansion, notes=notes)
        name, on_disk = compressed.without_suffix(name), False
    raise SourceRefused(f"{path} is compressed over {MAX_COMPRESSIONS} times: unpack it yourself and register that")


class _Peeked:
    """A file of which the first bytes are known before it is read."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._rest = self.head = _read_fully(file, HEAD_BYTES)

    def read(self, size: int, /) -> bytes:
        if not self._rest:
            return self._file.read(size)
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _read_fully(file: Readable, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data


@contextmanager
def _as_text(content: Content, policy: AccessPolicy, *, by_itself: bool) -> Iterator[OpenPiece]:
    """The text of a document, or the bytes as they are. Raises SourceRefused for an archive."""
    convert = documents.converter(content.name, content.head, in_directory=not by_itself)
    if convert is not None:
        with (
            _seekable(content) as whole,
            documents.open_document(whole, content.path, convert, converting=policy.converting) as text,
        ):
            text.notes.extend(content.notes)
            yield text
        return
    if (pointer := _pointer(content.head)) is not None:
        raise SourceRefused(f"{content.path} is {pointer}, not the file itself: fetch that and register again")
    if _is_archive(content):
        raise SourceRefused("archive inside a directory: register it by itself")
    if (other := _other_archive(content.head)) is not None:
        raise SourceRefused(f"{content.path} is a {other}, which cannot be read here: unpack it and register that")
    yield OpenPiece(file=content.file, notes=content.notes)


def _pointer(head: bytes) -> str | None:
    """What stands in for a large file in a repository."""
    if head.startswith(b"version https://git-lfs.github.com/spec/v1\n") and len(head) < HEAD_BYTES:
        size = re.search(rb"\nsize (\d{1,18})\n", head)
        return f"a pointer of Git LFS to {int(size[1]):,} bytes" if size else "a pointer of Git LFS"
    return "a pointer of git-annex" if head.startswith(b"/annex/objects/") and len(head) < HEAD_BYTES else None


def _is_archive(content: Content) -> bool:
    return archive.is_tar(content.head) or archive.is_zip(content.head, content.name)


def _other_archive(head: bytes) -> str | None:
    return next((name for magic, name in _OTHER_ARCHIVES.items() if head.startswith(magic)), None)


def _members_of_file(path: Path, policy: AccessPolicy) -> Iterator[Piece | Skipped | Remark]:
    with _from_disk(path) as file:
        key = content_key(file)
    with policy.converting(key, path, instead=UNPACK_IT), _open_content(path) as content:
        yield from _members(content, policy, nested=0)


def _members(content: Content, policy: AccessPolicy, *, nested: int) -> Iterator[Piece | Skipped | Remark]:
    """The members of an archive as pieces, and those of archives in it."""
    if archive.is_tar(content.head):
        found = archive.tar_members(content.file, content.path, expansion=content.expansion, policy=policy)
        yield from _with_content(found, content, policy, nested=nested)
    else:
        with _seekable(content) as whole:
            expansion = content.expansion if not content.on_disk else _expansion_of(whole, content.path)
            found = archive.zip_members(whole, content.path, expansion=expansion, policy=policy)
            yield from _with_content(found, replace(content, expansion=expansion), policy, nested=nested)
    yield from (Remark(text=note) for note in content.notes)


def _expansion_of(file: BinaryIO, path: Path) -> Expansion:
    """The expansion of a zip archive on disk, which is not read in order."""
    size = file.seek(0, os.SEEK_END)
    return Expansion(path.name, lambda: size)


def _with_content(
    members: Iterator[Piece | Skipped | Remark], content: Content, policy: AccessPolicy, *, nested: int
) -> Iterator[Piece | Skipped | Remark]:
    for member in members:
        if isinstance(member, Piece):
            yield from _pieces_of_member(member, content, policy, nested=nested)
        else:
            yield member


def _pieces_of_member(
    member: Piece, around: Content, policy: AccessPolicy, *, nested: int
) -> Iterator[Piece | Skipped | Remark]:
    """A member, or what is in it if it is an archive. It stays open until the next one is asked for."""
    try:
        with member.open() as opened:
            path = around.path / member.path
            content = _uncovered(opened.file, path, expansion=around.expansion, notes=opened.notes, on_disk=False)
            is_document = documents.converter(content.name, content.head, in_directory=True) is not None
            if is_document or not _is_archive(content):
                yield Piece(path=member.path, open=partial(_as_text, content, policy, by_itself=False))
            elif nested == MAX_NESTED:
                yield Skipped(
                    path=member.path, reason=f"archive inside {MAX_NESTED} others: unpack it and register what it holds"
                )
            else:
                for found in _members(content, policy, nested=nested + 1):
                    yield found if isinstance(found, Remark) else replace(found, path=f"{member.path}/{found.path}")
    except SourceRefused as error:
        yield Skipped(path=member.path, reason=str(error))


def _seekable(content: Content) -> AbstractContextManager[BinaryIO]:
    """The content as a file that can be read from any place."""
    return _from_disk(content.path) if content.on_disk else _spooled(content)


@contextmanager
def _from_disk(path: Path) -> Iterator[BinaryIO]:
    with open_raw(path) as raw, BufferedReader(raw) as file:
        yield file


@contextmanager
def _spooled(content: Content) -> Iterator[BinaryIO]:
    with SpooledTemporaryFile(max_size=SPOOLED_IN_MEMORY_BYTES) as whole:
        while data := content.file.read(1 << 18):
            whole.write(data)
            if whole.tell() > MAX_SPOOLED_BYTES:
                raise SourceRefused(
                    f"{content.path} is over {MAX_SPOOLED_BYTES >> 20:,} MiB: unpack it yourself and register that"
                )
        whole.seek(0)
        yield cast("BinaryIO", whole)

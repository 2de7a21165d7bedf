"""Archives: zip and tar. Their members become files of a context without ever being written under their own names.

So a member cannot be written outside the store. Members whose names lead outside the archive, links, devices and
nested archives are listed as skipped.
"""

import os
import posixpath
import re
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from rlm_mcp.contexts.sources.compressed import check_ratio, damaged, open_compressed
from rlm_mcp.contexts.sources.file import open_raw, open_regular, printable
from rlm_mcp.contexts.sources.secrets import HOLDS_CREDENTIALS, is_secret
from rlm_mcp.contexts.sources.source import MAX_FILES, AccessPolicy, OpenPiece, Piece, Readable
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import SourceRefused

TAR_MAGIC_AT = 257
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
"""The first is that of an archive with members, the second that of an empty one."""
MAX_HEADER_BYTES = 256 << 10
"""For the names, attributes and maps of one member of a tar archive; a path of Linux has at most 4 kB."""
MAX_GLOBAL_BYTES = 16 << 10
"""For headers that hold for all members: they are copied for each. `git archive` writes one of 52 bytes."""
_EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"X")
_MANY_DIGITS = re.compile(rb"[0-9]{64}")
"""Older versions of tarfile look for a keyword after every sequence of digits, from each of the digits on."""
UNIX_LINK = 0xA
"""S_IFLNK, as the top four bits of a zip member's Unix mode."""


def is_tar(head: bytes) -> bool:
    """Whether a file is a tar archive, by its first 512 bytes."""
    return head[TAR_MAGIC_AT : TAR_MAGIC_AT + 5] == b"ustar"


def zip_members(path: Path, *, policy: AccessPolicy) -> Iterator[Piece | Skipped]:
    """The members of a zip archive in order of name."""
    with open_raw(path) as file, _open_zip(path, file) as archive:
        members = archive.infolist()
        _check_count(path, len(members))
        # A member cannot expand beyond the size it declares: zipfile stops there.
        check_ratio(
            path.name, produced=sum(info.file_size for info in members), consumed=os.fstat(file.fileno()).st_size
        )
        for info in sorted(members, key=lambda info: info.filename):
            if info.is_dir():
                continue
            shown = _path_in_context(info.filename)
            if skipped := _refused(shown, info.filename, policy):
                yield skipped
            elif info.flag_bits & 1:
                yield Skipped(path=shown, reason="encrypted: unpack the archive yourself and register the directory")
            elif (info.external_attr >> 28) == UNIX_LINK:
                yield Skipped(path=shown, reason="link inside an archive")
            else:
                yield Piece(path=shown, open=partial(_open_zip_member, path, archive, info))


def tar_members(path: Path, *, method: str | None, policy: AccessPolicy) -> Iterator[Piece | Skipped]:
    """The members of a tar archive in the order of the stream."""
    with open_compressed(path, method) if method else open_regular(path) as opened:
        headers = _HeaderBudget(opened.file, path)
        members = _tar_infos(path, headers)
        try:
            for count, (archive, member) in enumerate(members, 1):
                _check_count(path, count)
                yield _tar_member(path, archive, member, policy)
        finally:
            members.close()


def _tar_infos(path: Path, headers: "_HeaderBudget") -> Generator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The headers of all members that are no directories. Raises SourceRefused for a damaged archive and for a bomb."""
    with open_raw(path) as file:
        consumed = os.fstat(file.fileno()).st_size
    produced = 0
    try:
        with tarfile.open(fileobj=cast("BinaryIO", headers), mode="r|", tarinfo=headers.tarinfo) as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # they hold a copy of all global headers each
                if not member.isdir():
                    produced += max(member.size, 0) if member.isreg() else 0
                    # A sparse member declares any size, and is read as so many zeros.
                    check_ratio(path.name, produced=produced, consumed=consumed)
                    yield archive, member
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise damaged(path, error) from error


def _tar_member(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, policy: AccessPolicy) -> Piece | Skipped:
    shown = _path_in_context(member.name)
    if skipped := _refused(shown, member.name, policy):
        return skipped
    if member.issym() or member.islnk():
        return Skipped(path=shown, reason="link inside an archive")
    if not member.isreg():
        return Skipped(path=shown, reason="device or FIFO in an archive")
    return Piece(path=shown, open=partial(_open_tar_member, path, archive, member))


class _HeaderBudget:
    """The stream of a tar archive, of which the headers of one member may take so many bytes and no more.

    tarfile reads long names, pax headers and the maps of sparse members whole, at the size that they declare.
    """

    def __init__(self, file: Readable, path: Path) -> None:
        self._file = file
        self._path = path
        self._left: int | None = None
        self._global_bytes = 0
        budget = self

        class BoundedInfo(tarfile.TarInfo):
            """A header that is read within the budget."""

            def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
                with budget.spent(self):
                    return cast("tarfile.TarInfo", super()._proc_member(archive))  # type: ignore[misc]

            def _proc_pax(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
                size = self._block(self.size)  # type: ignore[attr-defined]
                data = cast("BinaryIO", archive.fileobj).read(size)
                if not _is_orderly(data[: self.size]):
                    raise tarfile.InvalidHeaderError("a pax header is not made of records")  # type: ignore[attr-defined]
                archive.fileobj = cast("BinaryIO", _ReadAgain(archive, data))
                return cast("tarfile.TarInfo", super()._proc_pax(archive))  # type: ignore[misc]

        self.tarinfo = BoundedInfo

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise self._refusal()
        return data

    @contextmanager
    def spent(self, header: tarfile.TarInfo) -> Iterator[None]:
        """Reads what belongs to a header, which may itself be followed by the next."""
        if header.type == tarfile.XGLTYPE:
            self._global_bytes += header.size
        extends = header.type in _EXTENSIONS and not 0 <= header.size <= MAX_HEADER_BYTES
        if extends or self._global_bytes > MAX_GLOBAL_BYTES:
            raise self._refusal()
        if self._left is not None:
            yield
            return
        self._left = MAX_HEADER_BYTES
        try:
            yield
        finally:
            self._left = None

    def _refusal(self) -> SourceRefused:
        return SourceRefused(
            f"{self._path} has a header of over {MAX_HEADER_BYTES >> 10:,} kB, as bombs do: "
            "unpack it yourself if you trust it, and register the result"
        )


class _ReadAgain:
    """Gives bytes that were already read to the next reader of an archive, and the archive its own file back."""

    def __init__(self, archive: tarfile.TarFile, data: bytes) -> None:
        self._archive = archive
        self._file = archive.fileobj
        self._data = data

    def read(self, _: int, /) -> bytes:
        self._archive.fileobj = self._file
        return self._data


def _is_orderly(header: bytes) -> bool:
    """Whether a pax header is made of records `length keyword=value` that tarfile parses in linear time."""
    at = 0
    while at < len(header):
        space = header.find(b" ", at, at + 8)
        if space < 0 or not header[at:space].isdigit():
            return False
        end = at + int(header[at:space])
        if end > len(header) or header.find(b"=", space, end) < 0 or not header.endswith(b"\n", at, end):
            return False
        at = end
    return _MANY_DIGITS.search(header) is None


def _open_zip(path: Path, file: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise damaged(path, error) from error


@contextmanager
def _open_zip_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[OpenPiece]:
    try:
        with archive.open(info) as file:
            yield OpenPiece(file=file)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise damaged(path / info.filename, error) from error


@contextmanager
def _open_tar_member(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[OpenPiece]:
    file = archive.extractfile(member)
    if file is None:
        raise SourceRefused(f"{member.name} in {path} has no content")
    try:
        with file:
            yield OpenPiece(file=file)
    except tarfile.TarError as error:
        raise damaged(path, error) from error


def _path_in_context(name: str) -> str:
    """The path of a member inside the context: without leading slash or `./`, with `/` for a backslash."""
    return printable(posixpath.normpath(name.replace("\\", "/")).lstrip("/"))


def _refused(shown: str, name: str, policy: AccessPolicy) -> Skipped | None:
    if ".." in name.replace("\\", "/").split("/") or name.startswith(("/", "\\")) or name[1:2] == ":":
        return Skipped(path=shown, reason="its name leads outside the archive")
    if not policy.secrets and is_secret(shown):
        return Skipped(path=shown, reason=HOLDS_CREDENTIALS)
    return None


def _check_count(path: Path, count: int) -> None:
    if count > MAX_FILES:
        raise SourceRefused(f"{path} holds more than {MAX_FILES:,} files: unpack it and register a directory inside it")

"""Archives: zip and tar. Their members become files of a context without ever being written under their own names.

So a member cannot be written outside the store, whatever its name is. Links and devices are listed as skipped.
"""

import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self, cast

from rlm_mcp.contexts.sources.compressed import Expansion, damaged, is_damage
from rlm_mcp.contexts.sources.file import printable
from rlm_mcp.contexts.sources.member_names import TarNames, decoded_names, member_path
from rlm_mcp.contexts.sources.secrets import HOLDS_CREDENTIALS, is_secret
from rlm_mcp.contexts.sources.source import MAX_FILES, AccessPolicy, OpenPiece, Piece, Readable, Remark
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import SourceRefused

TAR_MAGIC_AT = 257
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
"""The first is that of an archive with members, the second that of an empty one, the third that of a part."""
ZIP_SUFFIXES = (".zip", ".jar", ".war", ".ear", ".whl", ".apk")
MAX_HEADER_BYTES = 256 << 10
"""For the names, attributes and maps of one member of a tar archive; a path of Linux has at most 4 kB."""
MAX_GLOBAL_BYTES = 16 << 10
"""For headers that hold for all members: they are copied for each. `git archive` writes one of 52 bytes."""
_EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"X")
_MANY_DIGITS = re.compile(rb"[0-9]{64}")
"""Older versions of tarfile look for a keyword after every sequence of digits, from each of the digits on."""
_REST_BYTES = 1 << 16
UTF8_FLAG = 0x800
"""The bit of a zip member that says that its name is UTF-8."""
UNIX_LINK = 0xA
"""S_IFLNK, as the top four bits of a zip member's Unix mode."""


def is_tar(head: bytes) -> bool:
    """Whether a file is a tar archive, by its first 512 bytes."""
    return head[TAR_MAGIC_AT : TAR_MAGIC_AT + 5] == b"ustar" or _is_old_tar(head)


def _is_old_tar(head: bytes) -> bool:
    """Whether this is a header of the format before POSIX, which has no magic number but a checksum."""
    if len(head) < tarfile.BLOCKSIZE or not head[0] or b"\0" not in head:
        return False
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


def is_zip(head: bytes, name: str) -> bool:
    """Whether a file is a zip archive, by its first bytes; one that begins with something else, by its name."""
    return head.startswith(ZIP_MAGICS) or (b"\0" in head and name.lower().endswith(ZIP_SUFFIXES))


def zip_members(file: BinaryIO, path: Path, *, expansion: Expansion, policy: AccessPolicy) -> Iterator[Piece | Skipped]:
    """The members of a zip archive in order of name, as they are packed."""
    with _open_zip(path, file) as archive:
        members = archive.infolist()
        _count_members(path, expansion, len(members))
        # A member cannot expand beyond the size it declares: zipfile stops there.
        expansion.check(sum(info.file_size for info in members))
        names = decoded_names([_name_bytes(info) for info in members])
        for name, info in sorted(zip(names, members, strict=True), key=lambda pair: pair[0]):
            if name.endswith("/"):
                continue
            shown = member_path(name)
            if skipped := _refused(shown, policy):
                yield skipped
            elif info.flag_bits & 1:
                yield Skipped(path=shown, reason="encrypted: unpack the archive yourself and register the directory")
            elif (info.external_attr >> 28) == UNIX_LINK:
                yield Skipped(path=shown, reason="link inside an archive")
            else:
                yield Piece(path=shown, open=partial(_open_zip_member, path / shown, archive, info, expansion))


def _name_bytes(info: zipfile.ZipInfo) -> bytes | str:
    """The name of a member as it is written; a string if the archive says that it is UTF-8, or in ASCII."""
    name = info.orig_filename
    if info.flag_bits & UTF8_FLAG or name.isascii():
        return info.filename
    return name.encode("cp437").partition(b"\0")[0]


def tar_members(
    file: Readable, path: Path, *, expansion: Expansion, policy: AccessPolicy
) -> Iterator[Piece | Skipped | Remark]:
    """The members of a tar archive in the order of the stream, as they are packed."""
    members = _tar_infos(path, _HeaderBudget(file, path), expansion)
    names = TarNames()
    try:
        for archive, member in members:
            _count_members(path, expansion, 1)
            yield _tar_member(path, archive, member, policy, names)
    except _TarEnds as error:
        yield Remark(text=f"{path.name} {error}")
    finally:
        members.close()


def _goes_on(archive: tarfile.TarFile) -> int:
    """The number of bytes, up to a block of reading, from the first that is no zero after the end of an archive."""
    file = cast("BinaryIO", archive.fileobj)
    while data := file.read(_REST_BYTES):
        if rest := data.lstrip(b"\0"):
            return len(rest)
    return 0


class _TarEnds(Exception):
    """A tar archive ends before its end, or goes on where it cannot be read."""


def _tar_infos(
    path: Path, headers: "_HeaderBudget", expansion: Expansion
) -> Generator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The headers of all members that are no directories.

    Raises SourceRefused for an archive of which nothing can be read and for a bomb, _TarEnds after its last member.
    """
    produced = count = 0
    try:
        with tarfile.open(fileobj=cast("BinaryIO", headers), mode="r|", tarinfo=headers.tarinfo) as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # they hold a copy of all global headers each
                count += 1
                if not member.isdir():
                    produced += max(member.size, 0) if member.isreg() else 0
                    # A sparse member declares any size, and is read as so many zeros.
                    expansion.check(produced)
                    yield archive, member
            headers.goes_on = _goes_on(archive)
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        if not count:
            raise damaged(path, error) from error
        headers.broken = headers.broken or str(error)
    if headers.goes_on and not headers.broken:
        raise _TarEnds(
            f"goes on after its end with {headers.goes_on:,} bytes or more that were not read, as joined archives do: "
            "unpack it with `tar --ignore-zeros` and register the directory"
        )
    if headers.broken:
        raise _TarEnds(
            f"is damaged or cut short after its first {count:,} members ({headers.broken}): what follows is missing"
        )


def _tar_member(
    path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, policy: AccessPolicy, names: TarNames
) -> Piece | Skipped:
    shown = member_path(names.decode(os.fsencode(member.name)))
    if skipped := _refused(shown, policy):
        return skipped
    if member.issym() or member.islnk():
        return Skipped(path=shown, reason=f"link inside an archive, to {printable(member.linkname)}")
    if not member.isreg():
        return Skipped(path=shown, reason="device or FIFO in an archive")
    return Piece(path=shown, open=partial(_open_tar_member, path / shown, archive, member))


class _HeaderBudget:
    """The stream of a tar archive, of which the headers of one member may take so many bytes and no more.

    tarfile reads long names, pax headers and the maps of sparse members whole, at the size that they declare.
    """

    def __init__(self, file: Readable, path: Path) -> None:
        self._file = file
        self._path = path
        self._left: int | None = None
        self._global_bytes = 0
        self.goes_on = 0
        self.broken = ""
        """why headers between or after the members could not be read"""
        budget = self

        class BoundedInfo(tarfile.TarInfo):
            """A header that is read within the budget."""

            @classmethod
            def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
                try:
                    return super().fromtarfile(archive)
                except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined] # undocumented
                    budget.broken = str(error)
                    raise

            def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
                with budget.spent(self):
                    return cast("tarfile.TarInfo", super()._proc_member(archive))  # type: ignore[misc] # likewise

            def _proc_pax(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
                size = self._block(self.size)  # type: ignore[attr-defined] # likewise
                data = cast("BinaryIO", archive.fileobj).read(size)
                if not _is_orderly(data[: self.size]):
                    problem = "a pax header is not made of records"
                    raise tarfile.InvalidHeaderError(problem)  # type: ignore[attr-defined] # likewise
                archive.fileobj = cast("BinaryIO", _ReadAgain(archive, data))
                return cast("tarfile.TarInfo", super()._proc_pax(archive))  # type: ignore[misc] # likewise

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
    except Exception as error:  # zipfile raises any, such as IndexError, for what it cannot parse
        raise damaged(path, error) from error


class _MemberReader:
    """The content of a member. Reading raises SourceRefused for a damaged one and for a bomb."""

    def __init__(self, read: Callable[[int], bytes], path: Path, count: Callable[[int], None]) -> None:
        self._read = read
        self._path = path
        self._count = count

    def read(self, size: int, /) -> bytes:
        try:
            data = self._read(size)
        except Exception as error:  # decoders raise different ones; `is_damage` tells which
            if isinstance(error, zipfile.BadZipFile | tarfile.TarError) or is_damage(error):
                raise damaged(self._path, error) from error
            raise
        self._count(len(data))
        return data


@contextmanager
def _open_zip_member(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, expansion: Expansion
) -> Iterator[OpenPiece]:
    try:
        file = archive.open(info)
    except NotImplementedError as error:
        raise SourceRefused(
            f"{path} is packed by a method that cannot be read here ({error}): unpack the archive yourself and "
            "register the directory"
        ) from error
    except Exception as error:  # zipfile raises any, as above
        raise damaged(path, error) from error
    with file:
        yield OpenPiece(file=_MemberReader(file.read, path, expansion.add))


@contextmanager
def _open_tar_member(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[OpenPiece]:
    file = archive.extractfile(member)
    if file is None:
        raise SourceRefused(f"{path} has no content: unpack the archive yourself and register the directory")
    with file:
        yield OpenPiece(file=_MemberReader(file.read, path, lambda _: None))


def _refused(shown: str, policy: AccessPolicy) -> Skipped | None:
    if not policy.secrets and is_secret(shown):
        return Skipped(path=shown, reason=HOLDS_CREDENTIALS)
    return None


def _count_members(path: Path, expansion: Expansion, count: int) -> None:
    expansion.members += count
    if expansion.members > MAX_FILES:
        raise SourceRefused(f"{path} holds more than {MAX_FILES:,} files: unpack it and register a directory inside it")

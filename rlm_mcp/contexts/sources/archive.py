"""Archives: zip and tar. Their members become files of a context without ever being written under their own names.

So a member cannot be written outside the store. Members whose names lead outside the archive, links, devices and
nested archives are listed as skipped.
"""

import os
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from rlm_mcp.contexts.sources.compressed import check_ratio, damaged, open_compressed
from rlm_mcp.contexts.sources.file import open_raw, open_regular, printable
from rlm_mcp.contexts.sources.secrets import HOLDS_CREDENTIALS, is_secret
from rlm_mcp.contexts.sources.source import MAX_FILES, AccessPolicy, OpenPiece, Piece
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import SourceRefused

TAR_MAGIC_AT = 257
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
"""The first is that of an archive with members, the second that of an empty one."""
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
        try:
            with tarfile.open(fileobj=cast("BinaryIO", opened.file), mode="r|") as archive:
                count = 0
                for member in archive:
                    if member.isdir():
                        continue
                    count += 1
                    _check_count(path, count)
                    shown = _path_in_context(member.name)
                    if skipped := _refused(shown, member.name, policy):
                        yield skipped
                    elif not member.isreg():
                        kind = (
                            "link inside an archive"
                            if member.issym() or member.islnk()
                            else "device or FIFO in an archive"
                        )
                        yield Skipped(path=shown, reason=kind)
                    else:
                        yield Piece(path=shown, open=partial(_open_tar_member, path, archive, member))
        except tarfile.TarError as error:
            raise damaged(path, error) from error


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

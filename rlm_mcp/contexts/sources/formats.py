"""The format of a regular file, found by its first bytes: compressed, an archive, a document, or a text as it is."""

from functools import partial
from pathlib import Path

from rlm_mcp.contexts.sources import archive, compressed, documents
from rlm_mcp.contexts.sources.file import file_piece, open_regular
from rlm_mcp.contexts.sources.source import AccessPolicy, Piece, Source
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import SourceRefused

HEAD_BYTES = 512
"""Includes the magic numbers of all formats; the last is that of tar, at 257."""

_SPECIAL_SUFFIXES = {".gz", ".bz2", ".xz", ".zst", ".tgz", ".tar", ".zip", ".whl", ".jar"} | documents.SUFFIXES
"""In a directory only files with these are opened to find their format: most files of a checkout are opened once."""


def source_from_file(path: Path, policy: AccessPolicy) -> Source:
    """Decides how a file that was named by itself is read. Raises SourceRefused."""
    head = _head(path)
    if not head:
        raise SourceRefused(f"{path} is empty: there is nothing to register")
    location, name = str(path), path.name
    if method := compressed.compression(head):
        with compressed.open_compressed(path, method) as opened:
            inner = opened.file.read(HEAD_BYTES)
        if archive.is_tar(inner):
            pieces = archive.tar_members(path, method=method, policy=policy)
            return Source(kind="files", name=name, location=location, pieces=pieces)
        piece = Piece(path=compressed.without_suffix(name), open=partial(compressed.open_compressed, path, method))
        return Source(kind="text", name=name, location=location, pieces=iter([piece]))
    if archive.is_tar(head):
        return Source(
            kind="files", name=name, location=location, pieces=archive.tar_members(path, method=None, policy=policy)
        )
    if convert := documents.converter(path, head):
        piece = Piece(path=name, open=partial(convert, path))
        return Source(kind="text", name=name, location=location, pieces=iter([piece]))
    if head.startswith(archive.ZIP_MAGICS):
        return Source(kind="files", name=name, location=location, pieces=archive.zip_members(path, policy=policy))
    return Source(kind="text", name=name, location=location, pieces=iter([file_piece(path, shown=name)]))


def piece_in_directory(path: Path, *, shown: str) -> Piece | Skipped:
    """Decides how a regular file that was found in a directory is read."""
    if path.suffix.lower() not in _SPECIAL_SUFFIXES:
        return file_piece(path, shown=shown)
    try:
        head = _head(path)
    except SourceRefused as error:
        return Skipped(path=shown, reason=str(error))
    if method := compressed.compression(head):
        if ".tar." in path.name.lower() or path.suffix.lower() == ".tgz":
            return Skipped(path=shown, reason="archive inside a directory: register it by itself")
        return Piece(path=shown, open=partial(compressed.open_compressed, path, method))
    if archive.is_tar(head):
        return Skipped(path=shown, reason="archive inside a directory: register it by itself")
    if path.suffix.lower() not in documents.SOURCE_LIKE and (convert := documents.converter(path, head)):
        return Piece(path=shown, open=partial(convert, path))
    if head.startswith(archive.ZIP_MAGICS):
        return Skipped(path=shown, reason="archive inside a directory: register it by itself")
    return file_piece(path, shown=shown)


def _head(path: Path) -> bytes:
    with open_regular(path) as opened:
        return opened.file.read(HEAD_BYTES)

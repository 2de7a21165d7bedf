"""Sources that are copied here first: from an address, or from standard input.

The copy lies in a directory of the registration and is deleted with it. What was fetched is told in a note and recorded
with its version, so that one can see years later which state of the source the citations are about.
"""

import os
import select
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

from rlm_mcp.contexts.processes import POLL_SECONDS
from rlm_mcp.contexts.sources import git
from rlm_mcp.contexts.sources.address import RemoteAddress, parse_address
from rlm_mcp.contexts.sources.file import printable
from rlm_mcp.contexts.sources.formats import source_from_file
from rlm_mcp.contexts.sources.remote import RemoteAccess
from rlm_mcp.contexts.sources.secrets import is_secret
from rlm_mcp.contexts.sources.source import AccessPolicy, AnyPiece, OpenPiece, Piece, Remark, Source
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import SourceChanged, SourceRefused

STDIN = "stdin"
"""The source of a context that came from standard input."""

LEFT_OUT = "left_out"
"""Recorded of what was fetched with a secret: what the recorded address lacks."""

NAME_CHARS = 100


def open_address(
    source: str, *, scratch: Path, access: RemoteAccess, policy: AccessPolicy, check_cancelled: Callable[[], None]
) -> Source:
    """Fetches what an address names into `scratch`, a directory that does not exist yet. Raises SourceRefused."""
    address = parse_address(source)
    access.check_host(address)
    scratch.mkdir(parents=True, mode=0o700)
    policy = replace(policy, roots=None, store=None)
    if address.kind == "git":
        return _from_repository(address, scratch / "repository", access, policy, check_cancelled)
    return _from_download(address, scratch, access, policy, check_cancelled)


def open_stream(
    stream: BinaryIO, *, scratch: Path, policy: AccessPolicy, check_cancelled: Callable[[], None]
) -> Source:
    """Copies standard input into `scratch`. Raises SourceRefused."""
    scratch.mkdir(parents=True, mode=0o700)
    path = scratch / STDIN
    with path.open("xb") as file:
        while data := _read_when_ready(stream, check_cancelled):
            file.write(data)
    return _from_copy(path, STDIN, replace(policy, roots=None, store=None), remark=None)


def _read_when_ready(stream: BinaryIO, check_cancelled: Callable[[], None]) -> bytes:
    """The next bytes. While none come, the caller may still be cancelled."""
    check_cancelled()
    while os.name == "posix" and not select.select([stream], [], [], POLL_SECONDS)[0]:
        check_cancelled()
    return os.read(stream.fileno(), 1 << 20)


def _from_repository(
    address: RemoteAddress,
    directory: Path,
    access: RemoteAccess,
    policy: AccessPolicy,
    check_cancelled: Callable[[], None],
) -> Source:
    from rlm_mcp.contexts.sources.clone import fetch_revision

    with _renamed(directory, address.shown):
        found, commit = fetch_revision(address, directory, access, check_cancelled=check_cancelled)
        pieces = git.at_revision(directory, commit, policy=policy, check_cancelled=check_cancelled)
    facts = {"address": found.shown, "commit": commit, "at": _now(), **_left_out(address)}
    remark = f"fetched from {found.shown} at commit {commit} on {facts['at']}"
    return Source(
        kind="files",
        name=address.name,
        location=address.shown,
        pieces=_with_names(remark, pieces, directory, address.shown),
        fetched=facts,
    )


def _from_download(
    address: RemoteAddress,
    scratch: Path,
    access: RemoteAccess,
    policy: AccessPolicy,
    check_cancelled: Callable[[], None],
) -> Source:
    from rlm_mcp.contexts.sources.download import download

    path = scratch / _file_name(address.name)
    if not policy.secrets and is_secret(path.name):
        raise SourceRefused(f"{address.shown} is not fetched because its name says that it holds credentials")
    found = download(address, path, access, check_cancelled=check_cancelled)
    facts = {"address": found.address.shown, "sha256": found.sha256, "at": _now(), **_left_out(address)}
    facts |= {"etag": found.etag} if found.etag else {}
    facts |= {"last_modified": found.last_modified} if found.last_modified else {}
    version = f", ETag {found.etag}" if found.etag else ""
    remark = (
        f"fetched from {found.address.shown} on {facts['at']}: {found.bytes:,} bytes, SHA-256 {found.sha256}{version}"
    )
    return replace(_from_copy(path, address.shown, policy, remark=remark), fetched=facts)


def _left_out(address: RemoteAddress) -> dict[str, str]:
    """Says that the recorded address lacks a secret, so that it cannot be fetched again."""
    return {LEFT_OUT: "a login or secret of the address"} if address.has_secret else {}


def _from_copy(path: Path, shown: str, policy: AccessPolicy, *, remark: str | None) -> Source:
    """A source of which the file at `path` is a copy that will be deleted."""
    with _renamed(path, shown):
        source = source_from_file(path, policy)
    return replace(source, location=shown, pieces=_with_names(remark, source.pieces, path, shown))


def _with_names(remark: str | None, pieces: Iterator[AnyPiece], path: Path, shown: str) -> Iterator[AnyPiece]:
    """Pieces of a copy at `path`, whose errors and reasons name the source instead, and which are never referenced."""
    if remark:
        yield Remark(text=remark)
    try:
        with _renamed(path, shown):
            for piece in pieces:
                match piece:
                    case Piece():
                        yield replace(piece, open=partial(_open_renamed, piece, path, shown), plain=None)
                    case Skipped():
                        yield replace(piece, reason=piece.reason.replace(str(path), shown))
                    case Remark():
                        yield Remark(text=piece.text.replace(str(path), shown))
    finally:
        if isinstance(pieces, Generator):  # releases what it holds, such as a subprocess
            pieces.close()


@contextmanager
def _open_renamed(piece: Piece, path: Path, shown: str) -> Iterator[OpenPiece]:
    with _renamed(path, shown), piece.open() as opened:
        yield opened


@contextmanager
def _renamed(path: Path, shown: str) -> Iterator[None]:
    """Names the source in errors about the copy at `path`."""
    try:
        yield
    except (SourceRefused, SourceChanged) as error:
        if str(path) in str(error):
            raise type(error)(str(error).replace(str(path), shown)) from None
        raise


def _file_name(name: str) -> str:
    """The last part of an address as the name of a file on disk."""
    bare = printable(name).replace("/", "_").replace("\0", "_").lstrip(".") or "file"
    dotted = f".{bare}" if name.startswith(".") else bare
    stem, dot, suffix = dotted.rpartition(".")
    return dotted if len(dotted) <= NAME_CHARS else stem[: NAME_CHARS - 20] + dot + suffix[:19]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

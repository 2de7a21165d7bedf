"""Finds the source that a user named: a path, a glob, `repository@revision`, or an address, also of a bucket.

Roots are checked against the path with all links resolved.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from rlm_mcp.bucket_address import has_bucket_scheme
from rlm_mcp.contexts.sources import directory, git, pattern
from rlm_mcp.contexts.sources.address import is_address
from rlm_mcp.contexts.sources.bucket_access import BucketAccess
from rlm_mcp.contexts.sources.fetched import open_address, open_stream
from rlm_mcp.contexts.sources.file import refusal, what_it_is
from rlm_mcp.contexts.sources.formats import source_from_file
from rlm_mcp.contexts.sources.objects import open_objects
from rlm_mcp.contexts.sources.remote import RemoteAccess
from rlm_mcp.contexts.sources.secrets import is_secret
from rlm_mcp.contexts.sources.source import AccessPolicy, NoteConversion, Piece, Remark, Source, no_note
from rlm_mcp.contexts.text.globs import is_glob
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import OutsideRoots, SourceRefused


def open_source(
    source: str,
    *,
    roots: Sequence[Path] | None,
    store: Path | None = None,
    secrets: bool = False,
    converting: NoteConversion = no_note,
    check_cancelled: Callable[[], None] = lambda: None,
    scratch: Path,
    access: RemoteAccess,
    buckets: BucketAccess,
    stdin: BinaryIO | None = None,
) -> Source:
    """Finds out what a source is; its files are opened later, one after the other. Raises SourceRefused, OutsideRoots.

    `converting` is entered around each conversion. `check_cancelled` is called many times a second while files are
    listed and may raise to end that. What an address names, or `stdin` for the source `-`, is copied to the directory
    `scratch`, which the caller deletes.
    """
    if not source.strip():
        raise SourceRefused("the source is empty: name a file, directory or glob, or pass the text itself as `text`")
    policy = AccessPolicy(
        roots=None if roots is None else tuple(Path(os.path.realpath(root)) for root in roots),
        store=None if store is None else Path(os.path.realpath(store)),
        secrets=secrets,
        converting=converting,
    )
    if has_bucket_scheme(source) and not os.path.lexists(source):
        return open_objects(source, access=buckets, secrets=secrets, check_cancelled=check_cancelled)
    if is_address(source) and not os.path.lexists(source):
        return open_address(source, scratch=scratch, access=access, policy=policy, check_cancelled=check_cancelled)
    if source == "-" and stdin is not None:
        return open_stream(stdin, scratch=scratch, policy=policy, check_cancelled=check_cancelled)
    written = _path_of_address(source) if source.startswith("file:") else source
    if "\0" in written:
        raise refusal(source, ValueError("it holds a NUL"))
    given = Path(os.path.expanduser(written))  # noqa: PTH111 - keeps an unknown ~user as it is, instead of raising
    if os.path.lexists(given):
        return _from_path(_resolved(given, policy, written=written), policy, check_cancelled)
    if is_glob(written):
        base = _resolved(pattern.fixed_part(str(given)), policy, written=written)
        return Source(
            kind="files",
            name=base.name or "files",
            location=str(base / pattern.wild_part(str(given))),
            pieces=pattern.match(str(given), base=base, policy=policy, check_cancelled=check_cancelled),
        )
    if found := git.split_revision(written, check_cancelled=check_cancelled):
        base = _resolved(found[0], policy, written=written)
        return Source(
            kind="files",
            name=f"{base.name}@{found[1].replace('/', '-')}",
            location=f"{base}@{found[1]}",
            pieces=git.at_revision(base, found[1], policy=policy, check_cancelled=check_cancelled),
        )
    _resolved(given, policy, written=written)
    raise SourceRefused(f"{written} does not exist: check the path")


def _path_of_address(source: str) -> str:
    try:
        parts = urlsplit(source)
    except ValueError as error:
        raise refusal(source, error) from error
    if parts.netloc not in {"", "localhost"}:
        raise SourceRefused(f"{source} is on another machine: only files of this one can be registered")
    return unquote(parts.path)


def _resolved(given: Path, policy: AccessPolicy, *, written: str) -> Path:
    """Resolves all links and checks the roots. The error does not reveal whether a path outside them exists."""
    try:
        _check_covered(Path(os.path.realpath(given)), policy, written=written)  # which raises when a link disappears
        real = given.resolve(strict=True)
    except (OSError, ValueError) as error:
        raise refusal(written, error) from error
    except RuntimeError as error:  # raised for a loop of links before Python 3.13
        raise SourceRefused(f"{written} is a loop of symbolic links: name what it should lead to") from error
    _check_covered(real, policy, written=written)
    return real


def _check_covered(real: Path, policy: AccessPolicy, *, written: str) -> None:
    if not policy.covers(real):
        where = ", ".join(str(root) for root in policy.roots or ()) or "none are configured"
        raise OutsideRoots(
            f"{written} is outside the directories that may be registered ({where}): add its directory to RLM_MCP_ROOTS"
        )


def _from_path(path: Path, policy: AccessPolicy, check_cancelled: Callable[[], None]) -> Source:
    if policy.is_store(path):
        raise SourceRefused(f"{path} lies in the store of contexts itself: register what it was made from")
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise refusal(path, error) from error
    if stat.S_ISDIR(mode):
        return _from_directory(path, policy, check_cancelled)
    if not stat.S_ISREG(mode):
        raise SourceRefused(f"{path} is {what_it_is(mode)}, not a regular file: name a file, directory or glob")
    if not policy.secrets and is_secret(path):
        raise SourceRefused(
            f"{path} is not registered because its name says that it holds credentials: "
            "copy what is needed to a file of another name, or use `rlm-mcp contexts add --include-secrets`"
        )
    return source_from_file(path, policy)


def _from_directory(path: Path, policy: AccessPolicy, check_cancelled: Callable[[], None]) -> Source:
    pieces: Iterator[Piece | Skipped | Remark] | None = None
    remarks: list[Remark] = []
    if git.is_repository(path, check_cancelled=check_cancelled):
        pieces = git.tracked(path, policy=policy, check_cancelled=check_cancelled)
    elif (path / ".git").exists():
        remarks = [Remark(text=git.UNREADABLE)]
    if pieces is None:
        pieces = chain(remarks, directory.walk(path, policy=policy, check_cancelled=check_cancelled))
    return Source(kind="files", name=path.name or "root", location=str(path), pieces=pieces)

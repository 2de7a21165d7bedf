"""A directory: every text under it. Links are followed only to files that may be read; other files are skipped."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from rlm_mcp.contexts.sources.file import file_piece, printable, refusal, what_it_is
from rlm_mcp.contexts.sources.formats import piece_in_directory
from rlm_mcp.contexts.sources.secrets import HOLDS_CREDENTIALS, is_secret
from rlm_mcp.contexts.sources.source import MAX_FILES, AccessPolicy, Piece
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import SourceRefused

OUTSIDE = "link to outside the directories that may be registered"

NOT_WORTH_READING = {
    ".git": "the repository itself",
    ".hg": "the repository itself",
    ".svn": "the repository itself",
    "node_modules": "installed packages",
    ".venv": "installed packages",
    "__pycache__": "compiled files",
    ".mypy_cache": "a cache",
    ".pytest_cache": "a cache",
    ".ruff_cache": "a cache",
    ".hypothesis": "a cache",
    ".tox": "installed packages",
}
"""Directories that are skipped when their parent is registered; each can be registered by itself."""


def walk(directory: Path, *, policy: AccessPolicy, check_cancelled: Callable[[], None]) -> Iterator[Piece | Skipped]:
    """The files under a directory in order of path."""
    entries = list(islice(files_below(directory, policy=policy, check_cancelled=check_cancelled), MAX_FILES + 1))
    check_count(directory, len(entries))
    for path, entry in entries:
        yield entry if isinstance(entry, Skipped) else piece_or_skip(Path(entry.path), shown=path, policy=policy)


def check_count(directory: Path, count: int) -> None:
    """Raises SourceRefused for a directory that holds too many files."""
    if count > MAX_FILES:
        raise SourceRefused(
            f"{directory} holds more than {MAX_FILES:,} files: register a directory inside it, or a glob"
        )


def piece_or_skip(path: Path, *, shown: str, policy: AccessPolicy) -> Piece | Skipped:
    """Decides whether a file found in a directory becomes a piece or is skipped."""
    if not policy.secrets and is_secret(path):
        return Skipped(path=shown, reason=HOLDS_CREDENTIALS)
    try:
        if policy.is_store(path):
            return Skipped(path=shown, reason="the store of contexts itself")
        if not policy.covers(Path(os.path.realpath(path.parent))):
            return Skipped(path=shown, reason=OUTSIDE)
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            target = path.resolve(strict=True)
            if not policy.covers(target):
                return Skipped(path=shown, reason=OUTSIDE)
            if not policy.secrets and is_secret(target):
                return Skipped(path=shown, reason="secret: a link to a file whose name says that it holds credentials")
            status = target.stat()
            if stat.S_ISDIR(status.st_mode):
                return Skipped(path=shown, reason="link to a directory")
            path = target
    except RuntimeError:  # raised for a loop of links before Python 3.13
        return Skipped(path=shown, reason=str(refusal(shown, OSError(errno.ELOOP, "loop"))))
    except (OSError, ValueError) as error:
        return Skipped(path=shown, reason=str(refusal(shown, error)))
    if not stat.S_ISREG(status.st_mode):
        return Skipped(path=shown, reason=f"{what_it_is(status.st_mode)}, not a regular file")
    return piece_in_directory(path, shown=shown) if status.st_size else file_piece(path, shown=shown)


def files_below(
    directory: Path,
    *,
    policy: AccessPolicy,
    check_cancelled: Callable[[], None],
    depth: int | None = None,
    prefix: str = "",
) -> Iterator[tuple[str, "os.DirEntry[str] | Skipped"]]:
    """Walks a directory in sorted order, at most `depth` directories deep, without following links.

    Directories not worth reading and unreadable ones are yielded as Skipped. `check_cancelled` is called for every
    directory and may raise to end the walk.
    """
    check_cancelled()
    try:
        with os.scandir(directory) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        yield prefix, Skipped(path=prefix or ".", reason=str(refusal(prefix or ".", error)))
        return
    for entry in entries:
        shown = prefix + printable(entry.name)
        if not entry.is_dir(follow_symlinks=False):
            yield shown, entry
        elif (reason := _not_entered(entry, policy)) is not None:
            yield shown, Skipped(path=f"{shown}/", reason=reason)
        elif depth is None or depth > 0:
            deeper = None if depth is None else depth - 1
            yield from files_below(
                Path(entry.path), policy=policy, check_cancelled=check_cancelled, depth=deeper, prefix=f"{shown}/"
            )


def _not_entered(entry: "os.DirEntry[str]", policy: AccessPolicy) -> str | None:
    if policy.is_store(Path(entry.path)):
        return "the store of contexts itself"
    if entry.name in NOT_WORTH_READING:
        return f"{NOT_WORTH_READING[entry.name]}: register it by itself if it matters"
    return None

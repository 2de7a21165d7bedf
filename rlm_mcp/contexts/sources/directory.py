"""A directory: every text under it. Links are followed only to files that may be read; other files are skipped."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from rlm_mcp.contexts.sources.file import printable, refusal, what_it_is
from rlm_mcp.contexts.sources.formats import piece_in_directory
from rlm_mcp.contexts.sources.no_links import can_open_directories, open_directory
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
    for shown, entry in entries:
        yield entry if isinstance(entry, Skipped) else piece_or_skip(entry, shown=shown, policy=policy)


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
        directory = policy.resolve_directory(path.parent)
        if not policy.covers(directory):
            return Skipped(path=shown, reason=OUTSIDE)
        path = directory / path.name  # as it was checked; what is no longer there is not opened
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            target = path.resolve(strict=True)
            if not policy.covers(target):
                return Skipped(path=shown, reason=OUTSIDE)
            if not policy.secrets and is_secret(target):
                return Skipped(path=shown, reason="secret: a link to a file whose name says that it holds credentials")
            if policy.is_store(target):
                return Skipped(path=shown, reason="the store of contexts itself")
            status = target.lstat()
            if stat.S_ISDIR(status.st_mode):
                return Skipped(path=shown, reason="link to a directory")
            path = target
    except RuntimeError:  # raised for a loop of links before Python 3.13
        return Skipped(path=shown, reason=str(refusal(shown, OSError(errno.ELOOP, "loop"))))
    except (OSError, ValueError) as error:
        return Skipped(path=shown, reason=str(refusal(shown, error)))
    if not stat.S_ISREG(status.st_mode):
        return Skipped(path=shown, reason=f"{what_it_is(status.st_mode)}, not a regular file")
    return piece_in_directory(path, shown=shown, size=status.st_size, policy=policy)


def files_below(
    directory: Path,
    *,
    policy: AccessPolicy,
    check_cancelled: Callable[[], None],
    depth: int | None = None,
    prefix: str = "",
) -> Iterator[tuple[str, Path | Skipped]]:
    """Walks a directory in sorted order, at most `depth` directories deep, without following links.

    Directories not worth reading and unreadable ones are yielded as Skipped. `check_cancelled` is called for every
    directory and may raise to end the walk.
    """
    check_cancelled()
    try:
        entries = sorted(_entries(directory))
    except OSError as error:
        yield prefix, Skipped(path=prefix or ".", reason=str(refusal(prefix or ".", error)))
        return
    for name, is_directory in entries:
        shown, path = prefix + printable(name), directory / name
        if not is_directory:
            yield shown, path
        elif (reason := _not_entered(path, policy)) is not None:
            yield shown, Skipped(path=f"{shown}/", reason=reason)
        elif depth is None or depth > 0:
            deeper = None if depth is None else depth - 1
            yield from files_below(
                path, policy=policy, check_cancelled=check_cancelled, depth=deeper, prefix=f"{shown}/"
            )


def _entries(directory: Path) -> list[tuple[str, bool]]:
    """The names in a directory, and whether each is a directory itself. Raises OSError, also if it became a link."""
    if not can_open_directories():
        with os.scandir(directory) as scan:
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan]
    descriptor = open_directory(directory)
    try:
        with os.scandir(descriptor) as scan:
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan]
    finally:
        os.close(descriptor)


def _not_entered(path: Path, policy: AccessPolicy) -> str | None:
    if policy.is_store(path):
        return "the store of contexts itself"
    if path.name in NOT_WORTH_READING:
        return f"{NOT_WORTH_READING[path.name]}: register it by itself if it matters"
    return None

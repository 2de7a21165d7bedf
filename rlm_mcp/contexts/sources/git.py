"""A git repository: its work tree without what `.gitignore` names, or its files as of a revision.

The repository may be hostile: nothing it configures is run (no hooks, no file system monitor, no filters, no fetching).
"""

import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

from rlm_mcp.contexts.context import Skipped
from rlm_mcp.contexts.sources.directory import check_count, consider, printable
from rlm_mcp.contexts.sources.secrets import HOLDS_CREDENTIALS, is_secret
from rlm_mcp.contexts.sources.source import Allowed, Opened, Piece
from rlm_mcp.errors import SourceRefused

GIT_SECONDS = 60.0
"""Listing a million files takes about ten."""

_TAME = (
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.quotePath=false",
    "-c",
    "core.pager=cat",
)
_LINK, _SUBMODULE = "120000", "160000"


def is_repository(directory: Path) -> bool:
    """Tell whether a directory lies in the work tree of a repository, or is a bare one, that git can read."""
    if (
        not any((parent / ".git").exists() for parent in (directory, *directory.parents))
        and not (directory / "HEAD").exists()
    ):
        return False
    return which("git") is not None and _git(directory, "rev-parse", "--git-dir") is not None


def tracked(directory: Path, *, allowed: Allowed) -> Iterator[Piece | Skipped] | None:
    """Give the files of a work tree that git tracks or would add; None when git lists nothing here."""
    listed = _git(directory, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate", "--", ".")
    if not listed:
        return None
    return _pieces(directory, sorted(set(listed.split(b"\0")) - {b""}), allowed)


def _pieces(directory: Path, names: list[bytes], allowed: Allowed) -> Iterator[Piece | Skipped]:
    check_count(directory, len(names))
    for name in names:
        path = directory / os.fsdecode(name)
        shown = _shown(name)
        if path.is_dir() and not path.is_symlink():
            yield Skipped(path=shown, reason="submodule: register it by itself")
        elif path.exists() or path.is_symlink():
            yield consider(path, shown=shown, allowed=allowed)
        else:
            yield Skipped(path=shown, reason="deleted in the work tree")


def split_revision(source: str) -> tuple[Path, str] | None:
    """Take `path@revision` apart when the path is a repository that has the revision."""
    path, at, revision = source.rpartition("@")
    directory = Path(path).expanduser()
    if (
        not (path and at and revision)
        or revision.startswith("-")
        or not directory.is_dir()
        or not is_repository(directory)
    ):
        return None
    return directory, revision


def at_revision(directory: Path, revision: str, *, allowed: Allowed) -> Iterator[Piece | Skipped]:
    """Give the files of a revision, read from the repository, whatever the work tree holds. Raises SourceRefused."""
    objects = _git(directory, "rev-parse", "--git-common-dir")
    if objects is None or not allowed.covers(Path(os.path.realpath(directory / os.fsdecode(objects.rstrip(b"\n"))))):
        raise SourceRefused(f"the repository of {directory} lies outside the directories that may be registered")
    commit = _git(directory, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        raise SourceRefused(f"{directory} has no revision {revision!r}: `git -C {directory} log` shows what it has")
    listed = _git(directory, "ls-tree", "-r", "-z", commit.decode().strip())
    if listed is None:
        raise SourceRefused(f"git cannot list {directory} at {revision}: run `git fsck` there")
    entries = [entry for entry in listed.split(b"\0") if entry]
    check_count(directory, len(entries))
    return _objects(directory, entries, allowed)


def _objects(directory: Path, entries: list[bytes], allowed: Allowed) -> Iterator[Piece | Skipped]:
    with _cat_file(directory) as process:
        for entry in entries:
            facts, _, name = entry.partition(b"\t")
            mode, _, sha = facts.decode().split(" ")
            shown = _shown(name)
            if mode == _SUBMODULE:
                yield Skipped(path=shown, reason="submodule: register it by itself")
            elif mode == _LINK:
                yield Skipped(path=shown, reason="link inside a revision")
            elif not allowed.secrets and is_secret(shown):
                yield Skipped(path=shown, reason=HOLDS_CREDENTIALS)
            else:
                yield Piece(path=shown, open=lambda sha=sha: _open_object(process, sha))  # type: ignore[misc]  # sha is bound here


@contextmanager
def _cat_file(directory: Path) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(  # noqa: S603 - git, with arguments made here
        _command(directory, "cat-file", "--batch"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _open_object(process: "subprocess.Popen[bytes]", sha: str) -> Iterator[Opened]:
    """Read one object whole: git keeps large files elsewhere, and an object that is not read blocks the next."""
    if process.stdin is None or process.stdout is None:
        raise SourceRefused("git was started without pipes")
    process.stdin.write(f"{sha}\n".encode())
    process.stdin.flush()
    header = process.stdout.readline().split()
    if len(header) != 3:
        raise SourceRefused(
            f"the repository lacks object {sha}: fetch it in full (`git fetch --unshallow`) and register again"
        )
    data = process.stdout.read(int(header[2]))
    process.stdout.read(1)
    yield Opened(file=io.BytesIO(data))


def _git(directory: Path, *arguments: str) -> bytes | None:
    """Run git and give what it prints, or None when it fails: not a repository, or one owned by somebody else."""
    try:
        done = subprocess.run(  # noqa: S603 - git; a path cannot become an option, a revision is checked
            _command(directory, *arguments),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=GIT_SECONDS,
            env=_environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _command(directory: Path, *arguments: str) -> list[str]:
    return [which("git") or "git", *_TAME, "-C", str(directory), *arguments]


def _environment() -> dict[str, str]:
    """Give git what it needs to find its user's safe directories, and no way to ask, to fetch or to be redirected."""
    return {
        "PATH": os.defpath,
        "HOME": os.path.expanduser("~"),  # noqa: PTH111 - Path.home() raises where there is none
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
    }


def _shown(name: bytes) -> str:
    return printable(os.fsdecode(name))

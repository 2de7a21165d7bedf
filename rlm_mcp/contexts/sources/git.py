"""A git repository: its work tree without the files that `.gitignore` names, or its files at a revision.

What a repository lacks is told: files that a sparse checkout leaves out, submodules that are not checked out, and the
objects of a partial or shallow clone, which are never fetched.

The repository may be hostile: nothing that it configures is run (hooks, file system monitor, filters, fetching).
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from shutil import which
from tempfile import SpooledTemporaryFile

from rlm_mcp.contexts.processes import PROCESSES, OutputTooLong, Process
from rlm_mcp.contexts.sources.directory import check_count, piece_or_skip
from rlm_mcp.contexts.sources.file import open_raw, printable
from rlm_mcp.contexts.sources.formats import piece_with_content
from rlm_mcp.contexts.sources.secrets import HOLDS_CREDENTIALS, is_secret
from rlm_mcp.contexts.sources.source import MAX_FILES, AccessPolicy, OpenPiece, Piece, Remark
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import SourceChanged, SourceRefused

GIT_SECONDS = 60.0
"""Listing a million files takes about ten."""

FETCH_ALL = "`git fetch --refetch --no-filter`"

CHUNK_BYTES = 1 << 20
"""How much of an object is read between two checks for cancellation."""
LISTING_BYTES = 64 << 20
"""Size of a listing: 200,000 paths of 335 bytes. Ten trees inside each other can stand for ten billion files."""
IN_MEMORY_BYTES = 8 << 20
"""A larger object is kept in a file while it is read."""

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
_NOT_OBJECTS = frozenset({"modules", "hooks", "logs", "lfs", "annex"})
"""Directories of a repository in which git does not look for commits and files."""

ALTERNATES_BYTES = 1 << 16

DirectoryState = tuple[Path, int, int]
"""A directory with its inode and the time of its last change, which nobody can set back."""

_LINK, _SUBMODULE = "120000", "160000"
_SKIPPED = b"S"
"""The tag of a file that a sparse checkout leaves out."""
_SUBMODULE_REASON = "submodule: register it by itself"
_EMPTY_SUBMODULE_REASON = (
    "submodule that is not checked out: run `git submodule update --init`, then register it by itself"
)
UNREADABLE = (
    "git does not read this repository, as when it is not installed or another user owns the directory: "
    "files that it would ignore are included"
)


def is_repository(directory: Path, *, check_cancelled: Callable[[], None]) -> bool:
    """Whether a directory is a bare repository, or lies in the work tree of a repository, that git can read.

    Here and below, `check_cancelled` is called many times a second while git runs, and may raise to end it.
    """
    if (
        not any((parent / ".git").exists() for parent in (directory, *directory.parents))
        and not (directory / "HEAD").exists()
    ):
        return False
    return (
        which("git") is not None
        and run_git(directory, "rev-parse", "--git-dir", check_cancelled=check_cancelled) is not None
    )


def tracked(
    directory: Path, *, policy: AccessPolicy, check_cancelled: Callable[[], None]
) -> Iterator[Piece | Skipped | Remark] | None:
    """The files of a work tree that git tracks or would add; None if there are none.

    Raises SourceRefused for a bare repository, which has no work tree.
    """
    which_files = ("-t", "--cached", "--others", "--exclude-standard", "--deduplicate")
    top = run_git(directory, "rev-parse", "--show-toplevel", check_cancelled=check_cancelled)
    if top is None and _is_bare(directory, check_cancelled=check_cancelled):
        raise SourceRefused(
            f"{directory} is a bare git repository, without a work tree: name a revision, such as {directory}@HEAD"
        )
    if top is None or not directory.is_relative_to(os.path.realpath(os.fsdecode(top.rstrip(b"\n")))):
        return None  # a work tree that its configuration puts elsewhere
    listed = run_git(directory, "ls-files", "-z", *which_files, "--", ".", check_cancelled=check_cancelled)
    if not listed:
        return None
    # Names that are only in the index of a repository outside the roots are not told.
    names_are_told = _way_out(directory, policy=policy, check_cancelled=check_cancelled) is None
    names = {entry[2:]: entry[:1] for entry in listed.split(b"\0") if entry}
    sparse = [name for name, tag in names.items() if tag == _SKIPPED and not os.path.lexists(_path_of(directory, name))]
    return _pieces(directory, sorted(names.keys() - set(sparse)), policy, deleted=names_are_told, sparse=len(sparse))


def _is_bare(directory: Path, *, check_cancelled: Callable[[], None]) -> bool:
    printed = run_git(
        directory, "rev-parse", "--is-bare-repository", "--absolute-git-dir", check_cancelled=check_cancelled
    )
    is_bare, _, git_directory = (printed or b"").partition(b"\n")
    return is_bare == b"true" and os.path.realpath(os.fsdecode(git_directory.rstrip(b"\n"))) == str(directory)


def _path_of(directory: Path, name: bytes) -> str:
    return os.path.join(directory, os.fsdecode(name))  # noqa: PTH118 - of hundreds of thousands of files


def _pieces(
    directory: Path, names: list[bytes], policy: AccessPolicy, *, deleted: bool, sparse: int
) -> Iterator[Piece | Skipped | Remark]:
    if sparse:
        yield Remark(
            text=f"a sparse checkout leaves out {sparse:,} tracked file{'s' * (sparse > 1)}: {directory}@HEAD has them"
        )
    check_count(directory, len(names))
    for name in names:
        path = directory / os.fsdecode(name)
        shown = _path_in_context(name)
        if path.is_dir() and not path.is_symlink():
            is_checked_out = os.path.lexists(path / ".git")
            yield Skipped(path=shown, reason=_SUBMODULE_REASON if is_checked_out else _EMPTY_SUBMODULE_REASON)
        elif path.exists() or path.is_symlink():
            yield piece_or_skip(path, shown=shown, policy=policy)
        elif deleted:
            yield Skipped(path=shown, reason="deleted in the work tree")


def split_revision(source: str, *, check_cancelled: Callable[[], None]) -> tuple[Path, str] | None:
    """Splits `path@revision`; None if the path is not a repository."""
    path, at, revision = source.rpartition("@")
    directory = Path(path).expanduser()
    if (
        not (path and at and revision)
        or revision.startswith("-")
        or not directory.is_dir()
        or not is_repository(directory, check_cancelled=check_cancelled)
    ):
        return None
    return directory, revision


def at_revision(
    directory: Path, revision: str, *, policy: AccessPolicy, check_cancelled: Callable[[], None]
) -> Iterator[Piece | Skipped]:
    """The files of a revision, read from the repository, not from the work tree. Raises SourceRefused."""
    state = _check_inside(directory, policy=policy, check_cancelled=check_cancelled)
    wanted = f"{revision}^{{commit}}"
    commit = run_git(
        directory, "rev-parse", "--verify", "--quiet", "--end-of-options", wanted, check_cancelled=check_cancelled
    )
    if commit is None:
        raise SourceRefused(_no_revision(directory, revision, check_cancelled=check_cancelled))
    name = commit.decode().strip()
    listed = run_git(directory, "ls-tree", "-r", "-z", name, check_cancelled=check_cancelled)
    is_partial = _is_partial(directory, check_cancelled=check_cancelled)
    if listed is None:
        remedy = f"fetch it in full ({FETCH_ALL})" if is_partial else "run `git fsck` there"
        raise SourceRefused(f"git cannot list {directory} at {revision}: {remedy}")
    entries = [entry for entry in listed.split(b"\0") if entry]
    check_count(directory, len(entries))
    missing = _missing(directory, name, check_cancelled=check_cancelled) if is_partial else frozenset()
    blobs = [sha for _, sha, _ in map(_facts, entries) if sha]
    if blobs and missing.issuperset(blobs):
        raise SourceRefused(
            f"{directory} lacks all {len(blobs):,} files of {revision}, as a partial clone does: "
            f"fetch it in full ({FETCH_ALL}) and register again"
        )
    return _objects(directory, entries, policy, check_cancelled, state, missing=missing)


def _no_revision(directory: Path, revision: str, *, check_cancelled: Callable[[], None]) -> str:
    shallow = run_git(directory, "rev-parse", "--is-shallow-repository", check_cancelled=check_cancelled)
    if shallow is not None and shallow.strip() == b"true":
        return f"{directory} is a shallow clone without {revision!r}: run `git fetch --unshallow` and register again"
    if run_git(directory, "rev-parse", "--verify", "--quiet", "HEAD", check_cancelled=check_cancelled) is None:
        return f"{directory} has no revision {revision!r}, and no commit at HEAD: name a branch, or register its files"
    return f"{directory} has no revision {revision!r}: `git -C {directory} log` shows what it has"


def _is_partial(directory: Path, *, check_cancelled: Callable[[], None]) -> bool:
    """Whether a repository is a clone that may lack objects."""
    pattern = r"^(remote\..*\.(promisor|partialclonefilter)|extensions\.partialclone)$"
    return run_git(directory, "config", "--get-regexp", pattern, check_cancelled=check_cancelled) is not None


def _missing(directory: Path, commit: str, *, check_cancelled: Callable[[], None]) -> frozenset[str]:
    """The objects of a commit that the repository lacks. Asked for one of them, git would end."""
    listing = ("rev-list", "--objects", "--no-walk", "--missing=print", commit)
    printed = run_git(directory, *listing, check_cancelled=check_cancelled) or b""
    return frozenset(line[1:].decode() for line in printed.split(b"\n") if line.startswith(b"?"))


def _facts(entry: bytes) -> tuple[str, str, bytes]:
    """The mode of a file in a listing, its object unless it is a submodule or link, and its name."""
    facts, _, name = entry.partition(b"\t")
    mode, _, sha = facts.decode().split(" ")
    return mode, "" if mode in {_SUBMODULE, _LINK} else sha, name


def _objects(
    directory: Path,
    entries: list[bytes],
    policy: AccessPolicy,
    check_cancelled: Callable[[], None],
    state: frozenset[DirectoryState],
    *,
    missing: frozenset[str],
) -> Iterator[Piece | Skipped]:
    command = git_command(directory, "cat-file", "--batch")
    with PROCESSES.running(command, env=environment(), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        for entry in entries:
            mode, sha, name = _facts(entry)
            shown = _path_in_context(name)
            if mode == _SUBMODULE:
                yield Skipped(path=shown, reason=_SUBMODULE_REASON)
            elif mode == _LINK:
                yield Skipped(path=shown, reason="link inside a revision")
            elif not policy.secrets and is_secret(f"{directory}/{shown}"):
                yield Skipped(path=shown, reason=HOLDS_CREDENTIALS)
            elif sha in missing:
                yield Skipped(path=shown, reason=f"not in this partial clone: fetch it in full ({FETCH_ALL})")
            else:
                piece = Piece(path=shown, open=partial(_open_object, process, sha, check_cancelled))
                yield piece_with_content(piece, directory / shown, policy)
    # Nothing is stored if this raises: somebody may have put links there and taken them away again.
    if _check_inside(directory, policy=policy, check_cancelled=check_cancelled) != state:
        raise SourceChanged(f"the repository of {directory} changed while it was read: register it again")


def _check_inside(
    directory: Path, *, policy: AccessPolicy, check_cancelled: Callable[[], None]
) -> frozenset[DirectoryState]:
    """The state of a repository. Raises SourceRefused for one that git would read outside the roots."""
    states: set[DirectoryState] = set()
    way_out = _way_out(directory, policy=policy, check_cancelled=check_cancelled, states=states)
    if way_out is not None:
        raise SourceRefused(
            f"the repository of {directory} lies outside the directories that may be registered ({way_out}): "
            "register a clone inside them"
        )
    return frozenset(states)


def _way_out(
    directory: Path,
    *,
    policy: AccessPolicy,
    check_cancelled: Callable[[], None],
    states: set[DirectoryState] | None = None,
) -> str | None:
    """What leads from a repository out of the roots: its directories, a link in them, or borrowed objects.

    The states of all directories that git reads are added to `states`.
    """
    if policy.roots is None:
        return None
    found = run_git(directory, "rev-parse", "--git-dir", "--git-common-dir", check_cancelled=check_cancelled)
    names = [] if found is None else found.removesuffix(b"\n").split(b"\n")
    if len(names) != 2 or not policy.covers(Path(os.path.realpath(directory))):
        return "its directory"
    waiting, seen = [directory / os.fsdecode(name) for name in names], set[Path]()
    try:
        while waiting:
            check_cancelled()
            named = waiting.pop()
            real = Path(os.path.realpath(named))
            if not policy.covers(real):
                return str(named)
            if real not in seen and real.is_dir():
                seen.add(real)
                if states is not None:
                    status = real.lstat()
                    states.add((real, status.st_ino, status.st_ctime_ns))
                waiting.extend(_read_by_git(real))
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _read_by_git(directory: Path) -> Iterator[Path]:
    """The directories and links in a directory of a repository, and those from which it borrows objects."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_symlink() or (entry.name not in _NOT_OBJECTS and entry.is_dir(follow_symlinks=False)):
                yield Path(entry.path)
            if entry.name == "alternates":
                with open_raw(Path(os.path.realpath(entry.path))) as file:
                    lines = file.read(ALTERNATES_BYTES).splitlines()
                yield from (directory.parent / os.fsdecode(_unquoted(line)) for line in lines if line[:1] != b"#")


def _unquoted(line: bytes) -> bytes:
    """A path in a file of alternates. Raises ValueError for one with escapes, which git quotes."""
    if line.startswith(b'"'):
        raise ValueError(f"a quoted path of alternates, {os.fsdecode(line)}")
    return line


@contextmanager
def _open_object(process: Process, sha: str, check_cancelled: Callable[[], None]) -> Iterator[OpenPiece]:
    """Reads one object whole: an unread object blocks the next, and git repositories keep large files elsewhere."""
    if process.stdin is None or process.stdout is None:
        raise SourceRefused("git was started without pipes")
    with suppress(BrokenPipeError):  # git ended; then nothing can be read either
        process.stdin.write(f"{sha}\n".encode())
        process.stdin.flush()
    header = process.stdout.readline().split()
    if len(header) != 3:
        raise SourceRefused(
            f"the repository lacks object {sha}: fetch it in full (`git fetch --unshallow`) and register again"
        )
    left = int(header[2])
    with SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as data:
        while left:
            check_cancelled()
            chunk = process.stdout.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise SourceRefused(f"git ended in the middle of object {sha}: run `git fsck` there")
            left -= data.write(chunk)
        process.stdout.read(1)
        data.seek(0)
        yield OpenPiece(file=data)


def run_git(directory: Path, *arguments: str, check_cancelled: Callable[[], None]) -> bytes | None:
    """Runs git and returns its output; None if it fails, as for a directory that is no repository of this user.

    Raises SourceRefused when it takes too long: otherwise the files that git ignores would be ingested.
    """
    timeout = Timeout(GIT_SECONDS)
    try:
        printed = PROCESSES.read_output(
            git_command(directory, *arguments),
            env=environment(),
            timeout=timeout,
            check_cancelled=check_cancelled,
            most_bytes=LISTING_BYTES,
        )
    except OutputTooLong as error:
        raise SourceRefused(
            f"{directory} holds more than {MAX_FILES:,} files: register a directory inside it, or a glob"
        ) from error
    except OSError:
        return None
    if printed is None and timeout.expired:
        raise SourceRefused(
            f"git needs more than {GIT_SECONDS:.0f} s to read {directory}: register a directory inside it, or a glob"
        )
    return printed


def git_command(directory: Path, *arguments: str) -> list[str]:
    """The command for git in a directory, with which nothing that the repository configures is run."""
    return [which("git") or "git", *_TAME, "-C", str(directory), *arguments]


def environment() -> dict[str, str]:
    """The environment of git: it finds the user's safe directories, and cannot prompt, fetch or be redirected."""
    return {
        "PATH": os.defpath,
        "HOME": _home(),
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",  # older versions do not know the line above
        "GIT_NO_REPLACE_OBJECTS": "1",
    }


def _home() -> str:
    """The user's home; none in a worker process, which may not read it: git would fail instead of going without."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    try:
        os.scandir(home).close()
    except PermissionError:
        return os.devnull
    except OSError:  # git goes without one that does not exist
        pass
    return home


def _path_in_context(name: bytes) -> str:
    return printable(os.fsdecode(name))

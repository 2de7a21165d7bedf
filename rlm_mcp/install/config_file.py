"""Reads and replaces the configuration file of a client, with a backup of the original.

A file is replaced as a whole or not at all: the new text is written beside it and renamed over it, with the same
permissions and owner, and only if the file still holds what was read. A symbolic link is followed and stays a link.
"""

import contextlib
import errno
import glob
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from rlm_mcp.errors import ClientConfigError
from rlm_mcp.files import replacing

BACKUP_SUFFIX = ".before-rlm-mcp"
_BOM = "\ufeff"

Write = Callable[[int, bytes], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A file as it was read. `target` is `path` with links resolved; `content` and `backup` are None if missing."""

    path: Path
    target: Path
    content: bytes | None = None
    backup: bytes | None = None
    mode: int = 0o600

    @property
    def backup_path(self) -> Path:
        """The path of the backup."""
        return self.target.with_name(self.target.name + BACKUP_SUFFIX)

    @property
    def text(self) -> str:
        """The text of the file, without a byte order mark. Raises ClientConfigError."""
        return decode(self.content or b"", self.path)

    def encode(self, text: str) -> bytes:
        """The bytes of a new text, with a byte order mark if the file has one."""
        has_mark = (self.content or b"").startswith(_BOM.encode())
        return ((_BOM if has_mark else "") + text).encode()


def decode(content: bytes, path: Path) -> str:
    """Decodes UTF-8 and removes a byte order mark. Raises ClientConfigError, which names `path`."""
    try:
        return content.decode("utf-8").removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise ClientConfigError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8 and try again") from error


def find_config_path(candidates: Sequence[PurePath]) -> Path:
    """The first candidate whose folder exists, otherwise the last; a `*` in a candidate matches any name."""
    for candidate in candidates:
        if "*" not in str(candidate):
            if Path(candidate).parent.is_dir():
                return Path(candidate)
        elif found := sorted(glob.glob(str(candidate.parent))):  # noqa: PTH207 - the pattern is a whole path
            return Path(found[0], candidate.name)
    return Path(candidates[-1])


def read_config(path: Path) -> ConfigFile:
    """Reads the file at `path` and its backup. Raises ClientConfigError."""
    try:
        target = path.resolve()
        content, mode = _read(target)
        backup, _ = _read(target.with_name(target.name + BACKUP_SUFFIX))
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise ClientConfigError(f"{path} cannot be read ({_why(error)}): nothing was changed") from error
    return ConfigFile(path=path, target=target, content=content, backup=backup, mode=mode)


def replace_config(file: ConfigFile, content: bytes | None, *, write: Write = os.write) -> None:
    """Writes `content` as the file; None removes the file. Raises ClientConfigError, with the file left unchanged."""
    if file.content is not None and not file.mode & 0o222:
        raise ClientConfigError(f"{file.target} is read-only: nothing was changed; make it writable and try again")
    try:
        if content is None:
            _check_unchanged(file)
            file.target.unlink(missing_ok=True)
        else:
            file.target.parent.mkdir(parents=True, exist_ok=True)
            _replace(file.target, content, file, write)
    except OSError as error:
        raise ClientConfigError(f"{file.target} cannot be written ({_why(error)}): nothing was changed") from error


def write_backup(file: ConfigFile, *, write: Write = os.write) -> Path | None:
    """Writes the backup beside the file; returns its path, or None if there was no file to copy."""
    if file.content is None:
        return None
    try:
        _replace(file.backup_path, file.content, file, write)
    except OSError as error:
        raise ClientConfigError(
            f"{file.backup_path} cannot be written ({_why(error)}): nothing was changed, since no backup could be made"
        ) from error
    return file.backup_path


def remove_backup(file: ConfigFile) -> None:
    """Removes the backup after the original content has been restored."""
    with contextlib.suppress(OSError):
        file.backup_path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[bytes | None, int]:
    try:
        with open(path, "rb", opener=_open_without_waiting) as opened:
            facts = os.fstat(opened.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            return opened.read(), stat.S_IMODE(facts.st_mode)
    except FileNotFoundError:
        return None, 0o600


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe waits for a writer otherwise


def _check_unchanged(file: ConfigFile) -> None:
    if read_config(file.path).content != file.content:
        raise ClientConfigError(
            f"{file.target} was changed by another program in the meantime: nothing was written; try again"
        )


def _replace(target: Path, content: bytes, file: ConfigFile, write: Write) -> None:
    """Replaces `target` by `content`, with the permissions of `file`, unless `file` has changed since it was read."""
    with replacing(target, mode=0o600) as new:
        descriptor = new.fileno()
        if hasattr(os, "fchown"):  # Windows has fchmod alone, from Python 3.13 on
            os.fchmod(descriptor, file.mode)
            with contextlib.suppress(OSError):  # only root may change the owner, and only root needs to
                owner = target.stat() if target.exists() else target.parent.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        rest = memoryview(content)
        while rest:
            rest = rest[write(descriptor, bytes(rest)) :]
        os.fsync(descriptor)
        _check_unchanged(file)


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

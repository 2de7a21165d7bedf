"""A regular file, read as it was when it was opened, or refused with a reason."""

import errno
import io
import os
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlm_mcp.contexts.sources.no_links import open_file
from rlm_mcp.contexts.sources.source import OpenPiece
from rlm_mcp.errors import SourceChanged, SourceRefused
from rlm_mcp.redact import ellipsize

SHOWN_PATH_CHARS = 200


@contextmanager
def open_raw(path: Path) -> Iterator[io.FileIO]:
    """Opens a regular file at a resolved path, where a link is not followed. Raises SourceRefused."""
    try:
        descriptor = open_file(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SourceRefused(f"{path} became a link while it was registered: register what it leads to") from error
        raise refusal(path, error) from error
    except ValueError as error:
        raise refusal(path, error) from error
    with open(descriptor, "rb", buffering=0) as raw:  # noqa: PTH123 - a descriptor, not a path
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise SourceRefused(f"{path} is {what_it_is(mode)}, not a regular file: name a file, directory or glob")
        yield raw


@contextmanager
def open_regular(path: Path) -> Iterator[OpenPiece]:
    """Opens a regular file. On leaving, raises SourceChanged if what was read is not a state that the file ever had."""
    with open_raw(path) as raw:
        before = os.fstat(raw.fileno())
        file = _FirstBytes(path, raw, before.st_size)
        opened = OpenPiece(file=file)
        yield opened
        after = os.fstat(raw.fileno())
        if file.missing and file.ended:
            raise SourceChanged(
                f"{path} shrank from {before.st_size:,} to {after.st_size:,} bytes while it was read: "
                "register it again when nothing writes to it, or register a copy"
            )
        if after.st_size > before.st_size:
            opened.notes.append(
                f"{path.name} grew while it was read: its first {before.st_size:,} bytes are registered"
            )
        elif after.st_mtime_ns != before.st_mtime_ns:
            raise SourceChanged(
                f"{path} was overwritten while it was read: "
                "register it again when nothing writes to it, or register a copy"
            )


class _FirstBytes:
    """The first `size` bytes of a file that may be growing."""

    def __init__(self, path: Path, raw: io.FileIO, size: int) -> None:
        self._path = path
        self._raw = raw
        self.missing = size
        self.ended = False

    def read(self, size: int, /) -> bytes:
        wanted = min(size, self.missing)
        try:
            data = self._raw.read(wanted) or b""
        except OSError as error:
            raise refusal(self._path, error) from error
        self.missing -= len(data)
        self.ended |= wanted > len(data) == 0
        return data


def printable(name: str) -> str:
    """A file name, which may not be UTF-8 and may hold line ends, as one line of text; blanks of any width are kept."""
    text = os.fsencode(name).decode(errors="replace")
    return text if text.isprintable() else "".join(char if _is_shown(char) else "\ufffd" for char in text)


def _is_shown(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def what_it_is(mode: int) -> str:
    """The kind of a file, for an error."""
    kinds = {
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
    }
    return kinds.get(stat.S_IFMT(mode), "something special")


def refusal(path: Path | str, error: OSError | ValueError) -> SourceRefused:
    """The error for a path that cannot be read, in one sentence."""
    shown = ellipsize(str(path), SHOWN_PATH_CHARS)
    match getattr(error, "errno", None):
        case errno.ENOENT | errno.ENOTDIR:
            relative_to = "" if Path(path).is_absolute() else f", which is relative to {Path.cwd()}"
            return SourceRefused(f"{shown} does not exist: check the path{relative_to}")
        case errno.EACCES | errno.EPERM:
            return SourceRefused(f"{shown} may not be read by this user: change its permissions or register a copy")
        case errno.ELOOP:
            return SourceRefused(f"{shown} is a loop of symbolic links: name what it should lead to")
        case errno.ENAMETOOLONG:
            return SourceRefused(f"{shown} is too long for a path: to register text itself, pass it as `text`")
        case errno.ENXIO:
            return SourceRefused(f"{shown} is a socket or a device without a driver: name a file, directory or glob")
        case None:
            return SourceRefused(f"{shown!r} cannot be a path ({error}): name a file, directory or glob")
        case _:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return SourceRefused(f"{shown} cannot be read ({reason}): check the disk it lies on, or register a copy")

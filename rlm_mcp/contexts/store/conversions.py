"""Which documents ended the processes that converted them: such a document is tried twice, and then refused.

    contexts/conversions/VERSION.TOKEN    what a process is converting now, one slot of 32 bytes for each thread

Theory of operation. Parsers run in this process, and one that crashes, or hangs until somebody kills the process, takes
everything else with it. So before a conversion its thread writes the key of the content into its slot, and clears it
afterwards: two writes to a small file, which the system keeps when the process dies. A key that stands in the files of
two dead processes is refused. A conversion that succeeds clears its key everywhere, so that a document that only
happened to be converted when a process died counts for nothing.

Nested conversions have one slot, with the innermost: a document that ends the process says nothing about the archive
around it. The version is that of rlm-mcp and its parsers; another version knows nothing of what this one could not do.
"""

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rlm_mcp.contexts.store.blobs import disk_errors
from rlm_mcp.contexts.store.process_locks import is_alive
from rlm_mcp.errors import ConversionGivenUp, SourceRefused
from rlm_mcp.version import __version__

MOST_TRIES = 2

KEY_BYTES = 32
_NONE = bytes(KEY_BYTES)

FORGOTTEN_SECONDS = 30 * 24 * 3600.0
"""A file that ended a process is tried again after this time."""

MOST_FILES = 100
"""Files of dead processes: all are read before each conversion."""

_PARSERS = ("mammoth", "openpyxl", "pypdf", "python-oxmsg", "python-pptx", "striprtf", "xlrd")


@cache
def converter_version() -> str:
    """Identifies this rlm-mcp and the parsers that are installed with it."""
    return hashlib.sha256("\0".join([__version__, *map(_installed, _PARSERS)]).encode()).hexdigest()[:12]


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


@dataclass(slots=True)
class _ConversionSlot:
    """What one thread is converting: the place of its slot in the file, and the keys, the innermost last."""

    at: int = 0
    keys: list[bytes] = field(default_factory=list)


class _ThreadSlots(threading.local):
    """Gives each thread a slot of its own."""

    def __init__(self) -> None:
        self.own = _ConversionSlot()


class ConversionJournal:
    """The conversions of one process, under the `token` of its lock in `holders`, and those that ended others."""

    def __init__(self, directory: Path, *, holders: Path, token: str) -> None:
        self._directory = directory
        self._holders = holders
        self._token = token
        self._lock = threading.Lock()
        self._threads = _ThreadSlots()
        self._free: list[int] = []
        self._places = 0
        self._descriptor: int | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<ConversionJournal {self._directory}, {self._places - len(self._free)} conversions>"

    @contextmanager
    def converting(self, key: bytes, path: Path, *, instead: str) -> Iterator[None]:
        """Notes that this thread converts the content with this key. `instead` tells what to do about one that fails.

        Raises ConversionGivenUp where that has ended two processes, StoreFull and StoreDamaged.
        """
        ended = self._files_with(key)
        if len(ended) >= MOST_TRIES:
            raise ConversionGivenUp(
                f"{path} was being converted when {len(ended)} processes died, so that it is not tried again: {instead}"
            )
        slot = self._threads.own
        with disk_errors():
            self._enter(slot, key)
        is_over = False
        try:
            yield
            is_over = True
        except SourceRefused:
            is_over = True
            raise
        finally:
            self._leave(slot)
            for file in ended if is_over else ():
                _clear(file, key)

    def close(self) -> None:
        """Forgets what this process is converting: it ends in an orderly way. What begins from now on is not noted."""
        with self._lock:
            self._is_closed = True
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
                self._own_file().unlink(missing_ok=True)

    def remove_old(self) -> None:
        """Deletes the files of dead processes that say nothing any more, and the oldest where there are too many."""
        oldest = time.time() - FORGOTTEN_SECONDS
        kept = 0
        for written, file in sorted(self._written(), reverse=True):
            with suppress(OSError):
                made_by, _, token = file.name.partition(".")
                is_old = kept >= MOST_FILES or made_by != converter_version() or written < oldest
                if (is_old or not _keys_in(file)) and not is_alive(self._holders, token):
                    file.unlink()
                else:
                    kept += 1

    def _written(self) -> Iterator[tuple[float, Path]]:
        for file in self._directory.glob("*.*"):
            with suppress(OSError):
                yield file.stat().st_mtime, file

    def _own_file(self) -> Path:
        return self._directory / f"{converter_version()}.{self._token}"

    def _files_with(self, key: bytes) -> list[Path]:
        """The files of dead processes that were converting the content with this key."""
        found = []
        with suppress(FileNotFoundError):
            for entry in os.scandir(self._directory):
                made_by, _, token = entry.name.partition(".")
                is_other = token != self._token and made_by == converter_version()
                if is_other and key in _keys_in(Path(entry.path)) and not is_alive(self._holders, token):
                    found.append(Path(entry.path))
        return found

    def _enter(self, slot: _ConversionSlot, key: bytes) -> None:
        if not slot.keys:
            slot.at = self._take_place()
        slot.keys.append(key)
        try:
            self._write(slot.at, key)
        except BaseException:  # a signal too: the place must not stay taken
            self._leave(slot)
            raise

    def _leave(self, slot: _ConversionSlot) -> None:
        """Writes what the thread goes on with: the conversion around this one, or none."""
        slot.keys.pop()
        with suppress(OSError):  # written over what is there, which needs no space
            self._write(slot.at, slot.keys[-1] if slot.keys else _NONE)
        if not slot.keys:
            with self._lock:
                self._free.append(slot.at)

    def _take_place(self) -> int:
        with self._lock:
            if self._free:
                return self._free.pop()
            self._places += 1
            return (self._places - 1) * KEY_BYTES

    def _write(self, at: int, key: bytes) -> None:
        with self._lock:
            if self._is_closed:
                return
            if self._descriptor is None:
                self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._descriptor = os.open(self._own_file(), os.O_RDWR | os.O_CREAT, 0o600)
            os.lseek(self._descriptor, at, os.SEEK_SET)
            os.write(self._descriptor, key)


def _keys_in(file: Path) -> set[bytes]:
    """The keys in a file of a process; none if it is gone."""
    try:
        data = file.read_bytes()
    except OSError:
        return set()
    return {data[at : at + KEY_BYTES] for at in range(0, len(data), KEY_BYTES)} - {_NONE}


def _clear(file: Path, key: bytes) -> None:
    """Removes a key from the file of a dead process."""
    rest = _keys_in(file) - {key}
    with suppress(OSError):
        if rest:
            file.write_bytes(b"".join(sorted(rest)))
        else:
            file.unlink(missing_ok=True)

"""Texts on disk, named by the SHA-256 of their UTF-8 bytes, so that the same text is kept once.

Theory of operation. A text is staged: written under `incoming/<token>/`, where no other process looks, and hashed,
counted and indexed on the way. Then it is flushed and placed. It is published by a rename to its name, while the caller
holds the catalogue's write lock; blobs are deleted under the same lock. So a blob that the catalogue names exists
whichever process was killed, and one that it does not name is garbage. All but the largest are flushed to the disk
before they are published, so that this holds after a power failure too.

A blob that another program changed is not shown. Hashing it at each use would be slow, so its modification time is set
to one that is made of its name (`_mark_ns`), which any write replaces. A blob with another time (copied, or stored
before this was done) is hashed once and marked.
"""

import errno
import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rlm_mcp.contexts.text.encoding import Encoding
from rlm_mcp.contexts.text.line_index import Counts, LineIndex, build_index, map_index
from rlm_mcp.contexts.text.reading import ReadBytes
from rlm_mcp.errors import StoreDamaged, StoreFull

INDEXED_ABOVE_BYTES = 1 << 20
"""A smaller text is indexed again at each use: that takes a millisecond and saves half of the files."""

INDEXES_KEPT = 256
"""Indexes kept in memory, so that a text that is read line by line is not indexed each time. A blob never changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedText:
    """A text that is in the staging area and not published yet."""

    blob: str
    path: Path
    index: LineIndex
    encoding: Encoding
    invalid_bytes: int
    nuls: int

    @property
    def counts(self) -> Counts:
        """Sizes of the stored UTF-8 text."""
        return self.index.counts


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class LocalText:
    """A file of this machine with a text, which stays where it is for the life of this object."""

    path: Path


class FileBlobs:
    """The blob files of one store. Callers of the methods that change them hold the catalogue's write lock."""

    looked_for_at_once = 1

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._indexes: dict[str, LineIndex] = {}
        self._verified: dict[str, tuple[tuple[int, int, int], bool]] = {}
        """blob -> modification time, size and inode of the file when its hash was computed, and whether it was right"""
        directory.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"<FileBlobs {self._directory}>"

    def path(self, blob: str) -> Path:
        """The path of a blob, whether it exists or not."""
        return self._directory / blob[:2] / f"{blob}.txt"

    def prepare(self, blobs: Collection[str]) -> None:
        """Does nothing: names are places."""

    def local_text(self, blob: str, size: int) -> LocalText:
        """The file of a blob, once its size and integrity are verified. Raises StoreDamaged."""
        path = self.path(blob)
        try:
            found = path.stat().st_size
            if found == size and not self._is_intact(blob):
                raise StoreDamaged(f"{path} was changed on the disk since it was stored: register it again")
        except FileNotFoundError as error:
            raise StoreDamaged(f"{path} is missing: register it again") from error
        except OSError as error:
            raise StoreDamaged(
                f"{path} cannot be read ({error.strerror}): check its permissions and the disk"
            ) from error
        if found != size:
            raise StoreDamaged(f"{path} has {found:,} bytes instead of {size:,}: register it again")
        return LocalText(path)

    def _is_intact(self, blob: str) -> bool:
        """Tells whether a blob is still the text that it was stored as. Raises OSError."""
        path = self.path(blob)
        status = path.stat()
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if status.st_mtime_ns == _mark_ns(blob):
            return True
        if (verified := self._verified.get(blob)) is not None and verified[0] == seen:
            return verified[1]
        with path.open("rb") as file:
            is_intact = hashlib.file_digest(file, "sha256").hexdigest() == blob
        self._verified[blob] = (seen, is_intact)
        if not is_intact:
            return False
        if path.stat().st_mtime_ns == status.st_mtime_ns:
            _mark(path, blob)
        return True

    def link_to(self, link: Path, blob: str, *, size: int) -> bool:
        """Gives an existing blob a second name, which survives its deletion; False if there is no such blob."""
        try:
            if not self._is_intact(blob):
                return False
            os.link(self.path(blob), link)
        except OSError:  # it does not exist, or the file system has no hard links
            return False
        if link.stat().st_size != size:
            link.unlink()
            return False
        return True

    def part_reader(self, blob: str, size: int) -> ReadBytes | None:  # noqa: ARG002 - all are there
        """None: all texts are files of this machine."""
        return None

    def index(self, blob: str) -> LineIndex:
        """The line index of a blob: from memory, mapped, or built. Raises StoreDamaged when the blob is gone."""
        index = self._indexes.get(blob)
        if index is None:
            index = self._load_index(blob)
            self._keep_index(blob, index)
        return index

    def _keep_index(self, blob: str, index: LineIndex) -> None:
        if len(self._indexes) >= INDEXES_KEPT:
            self._indexes.clear()
        self._indexes[blob] = index

    def _load_index(self, blob: str) -> LineIndex:
        path = self.path(blob)
        try:
            if path.stat().st_size <= INDEXED_ABOVE_BYTES:
                return build_index(path.read_bytes())
            return map_index(path.with_suffix(".index"))
        except FileNotFoundError as error:
            raise StoreDamaged(f"{error.filename} is missing from the store: register it again") from error
        except OSError as error:
            raise StoreDamaged(
                f"{path} cannot be read ({error.strerror}): check its permissions and the disk"
            ) from error
        except ValueError as error:
            raise StoreDamaged(f"{error}: register it again") from error

    def place(self, texts: Sequence[StagedText], *, check: Callable[[], object]) -> None:
        """Does all that it can before the caller takes the catalogue's write lock; `publish` does the rest."""
        for staged in texts:
            check()
            _mark(staged.path, staged.blob)
            self.path(staged.blob).parent.mkdir(exist_ok=True)

    def publish(self, texts: Sequence[StagedText], *, check: Callable[[], object]) -> None:
        """Moves texts that were placed to their names. The caller holds the catalogue's write lock."""
        for staged in texts:
            check()
            self._publish(staged)

    def _publish(self, staged: StagedText) -> None:
        path = self.path(staged.blob)
        if path.exists() and path.stat().st_size == staged.counts.bytes and self._is_intact(staged.blob):
            return  # not replaced: a sandbox may have this very file open
        self._keep_index(staged.blob, staged.index)
        if staged.counts.bytes > INDEXED_ABOVE_BYTES:
            staged.path.with_suffix(".index").replace(path.with_suffix(".index"))
        staged.path.replace(path)

    def delete(self, blobs: Sequence[str]) -> int:
        """Deletes blobs and returns their size together. The caller holds the catalogue's write lock."""
        return sum(map(self._delete, blobs))

    def _delete(self, blob: str) -> int:
        path = self.path(blob)
        size = path.stat().st_size if path.exists() else 0
        path.unlink(missing_ok=True)
        path.with_suffix(".index").unlink(missing_ok=True)
        return size

    def names(self) -> Iterator[str]:
        """The names of all blobs, and of indexes whose blob is missing."""
        for path in self._directory.glob("??/*"):
            yield path.stem


def _mark_ns(blob: str) -> int:
    """The modification time of an unchanged blob: an even second, which every file system can keep, up to 2018."""
    return (1_000_000_000 + 2 * int(blob[:7], 16)) * 1_000_000_000


def _mark(path: Path, blob: str) -> None:
    with suppress(OSError):  # not permitted: then it is hashed once by each process
        os.utime(path, ns=(time.time_ns(), _mark_ns(blob)))


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns OSErrors into StoreFull or StoreDamaged; used around every write of the store."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise StoreFull(
                f"the disk that holds the store is full ({error.strerror}): free some space or set RLM_MCP_DATA_DIR "
                "to a directory on another disk; nothing was stored"
            ) from error
        if error.errno is None:  # not from a system call, but from the decompressor of a source
            raise
        raise StoreDamaged(
            f"the store cannot be written ({error.strerror}, {error.filename or 'while writing'}): "
            "check the permissions of its directory and the disk; nothing was stored"
        ) from error

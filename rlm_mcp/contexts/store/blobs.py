"""Texts on disk, named by the SHA-256 of their UTF-8 bytes, so that the same text is kept once.

Theory of operation. A text is written under `incoming/<token>/`, where nobody looks, and hashed, counted and indexed
on the way. It gets its name by a rename, while the caller holds the catalogue's write lock; deleting happens under the
same lock. So a blob that the catalogue names exists, whatever was killed, and one that it does not name is rubbish. All
but the largest are flushed to the disk before they are named, so that this holds for a power failure too.
"""

import errno
import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Self

from rlm_mcp.contexts.sources.source import Readable
from rlm_mcp.contexts.text.encoding import SAMPLE_BYTES, UTF8, Utf8Stream, detect
from rlm_mcp.contexts.text.line_index import Counts, IndexBuilder, LineIndex, build_index, map_index, write_index
from rlm_mcp.errors import SourceRefused, StoreDamaged, StoreFull

CHUNK_BYTES = 1 << 18
"""Measured best of 64 KiB to 4 MiB: Python's own work per chunk does not count, the chunks stay in the CPU's cache."""

INDEXED_ABOVE_BYTES = 1 << 20
"""A smaller text is indexed again at each use: that takes a millisecond, and saves half of the files."""

INDEXES_KEPT = 256
"""A blob never changes, so neither does its index; kept ones save reading a text that is read line by line."""

IN_FLIGHT = 3
"""Chunks handed to the writing thread at a time: enough to keep both busy, little memory."""

UNFLUSHED_ABOVE_BYTES = 64 << 20
"""A larger text is left to the system to flush: waiting for the disk would take most of the time of registering it.
What a power failure then does to it is noticed by its size."""

FLUSHERS = 8
"""Threads that flush, when all is written. File systems group flushes that come together: measured on ext4, 5,000 files
take 26 s one by one and 0.4 s by eight."""

FLUSHED_AT_ONCE = 64 * FLUSHERS
"""Files between two looks at whether it is still wanted; as fast as all at once."""

MEMORY_BYTES = 4 << 20
"""A text up to this size is held in memory until its hash is known, and not written at all if the store has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedText:
    """A text that was taken in but has no name yet."""

    blob: str
    path: Path
    index: LineIndex
    encoding: str
    had_bom: bool
    invalid_bytes: int
    nuls: int

    @property
    def counts(self) -> Counts:
        """Sizes of the stored UTF-8 text."""
        return self.index.counts


class NotText(SourceRefused):
    """The bytes are not a text in any encoding that is known here."""


class Blobs:
    """The blob files of one store; everything that changes them is called by one that holds the catalogue's lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._indexes: dict[str, LineIndex] = {}
        directory.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"<Blobs {self._directory}>"

    def path(self, blob: str) -> Path:
        """Where a blob is, or would be."""
        return self._directory / blob[:2] / f"{blob}.txt"

    def checked(self, blob: str, size: int) -> Path:
        """The path of a blob that has the size it should have. Raises StoreDamaged."""
        path = self.path(blob)
        found = path.stat().st_size if path.exists() else None
        if found != size:
            state = "is missing" if found is None else f"has {found:,} bytes instead of {size:,}"
            raise StoreDamaged(f"{path} {state}: register it again")
        return path

    def link_to(self, blob: str, staged: Path, *, size: int) -> bool:
        """Gives a blob that is there a second name, under which it survives its removal; False when it is not there."""
        try:
            os.link(self.path(blob), staged)
        except OSError:  # not there, or the file system has no hard links
            return False
        if staged.stat().st_size != size:
            staged.unlink()
            return False
        return True

    def index(self, blob: str) -> LineIndex:
        """The line index of a blob, kept, mapped or made. Raises StoreDamaged when the blob is gone."""
        index = self._indexes.get(blob)
        if index is None:
            if len(self._indexes) >= INDEXES_KEPT:
                self._indexes.clear()
            index = self._indexes[blob] = self._load_index(blob)
        return index

    def _load_index(self, blob: str) -> LineIndex:
        path = self.path(blob)
        try:
            if path.stat().st_size <= INDEXED_ABOVE_BYTES:
                return build_index(path.read_bytes())
            return map_index(path.with_suffix(".index"))
        except FileNotFoundError as error:
            raise StoreDamaged(f"{error.filename} is missing from the store: register it again") from error
        except ValueError as error:
            raise StoreDamaged(f"{error}: register it again") from error

    def publish(self, staged: StagedText) -> None:
        """Gives a part its name. The caller holds the catalogue's write lock."""
        path = self.path(staged.blob)
        if path.exists() and path.stat().st_size == staged.counts.bytes:
            return  # not replaced: a sandbox that reads it holds on to the very file
        path.parent.mkdir(exist_ok=True)
        if staged.counts.bytes > INDEXED_ABOVE_BYTES:
            staged.path.with_suffix(".index").replace(path.with_suffix(".index"))
        staged.path.replace(path)

    def delete(self, blob: str) -> int:
        """Deletes a blob and gives its size. The caller holds the catalogue's write lock."""
        path = self.path(blob)
        size = path.stat().st_size if path.exists() else 0
        path.unlink(missing_ok=True)
        path.with_suffix(".index").unlink(missing_ok=True)
        return size

    def names(self) -> Iterator[str]:
        """The name of every blob, and of an index that lost its blob."""
        for path in self._directory.glob("??/*"):
            yield path.stem


class StagingArea:
    """Takes texts in for one registration; leaving the `with` block deletes what was not placed.

    `tick` is called again and again with the bytes read since the last time. It may raise to break everything off.
    """

    def __init__(
        self, blobs: Blobs, directory: Path, *, room_bytes: int | None, on_bytes: Callable[[int], None] = lambda _: None
    ) -> None:
        self._blobs = blobs
        self._directory = directory
        self._room = room_bytes
        self._on_bytes = on_bytes
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="blob-writer")
        self._hasher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="blob-hasher")
        self._unflushed: list[Path] = []
        self._count = 0

    def __enter__(self) -> Self:
        with disk_errors():
            self._directory.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        for threads in (self._writer, self._hasher):
            threads.shutdown(cancel_futures=True)
        shutil.rmtree(self._directory, ignore_errors=True)

    def stage(self, file: Readable, *, already_text: bool = False) -> StagedText:
        """Reads a file to its end. Raises NotText, StoreFull, and what reading the file raises."""
        sample = _read_fully(file, SAMPLE_BYTES)
        encoding = UTF8 if already_text else detect(sample)
        if encoding is None:
            raise NotText("it is binary, not text")
        stream = Utf8Stream(encoding)
        blob, path, index = self._stage_chunks(stream.convert(self._chunks(sample, file)))
        return StagedText(
            blob=blob,
            path=path,
            index=index,
            encoding=stream.codec,
            had_bom=encoding.bom_bytes > 0,
            invalid_bytes=stream.invalid_bytes,
            nuls=stream.nuls,
        )

    def flush(self) -> None:
        """Waits until everything taken in is on the disk; call before placing. Raises StoreFull."""
        with disk_errors(), ThreadPoolExecutor(max_workers=FLUSHERS, thread_name_prefix="blob-flusher") as flushers:
            for start in range(0, len(self._unflushed), FLUSHED_AT_ONCE):
                self._on_bytes(0)
                some = self._unflushed[start : start + FLUSHED_AT_ONCE]
                for _ in flushers.map(_flush, [some[n::FLUSHERS] for n in range(FLUSHERS)]):
                    pass
        self._unflushed.clear()

    def publish(self, texts: Iterable[StagedText]) -> None:
        """Gives these parts their names. The caller holds the catalogue's write lock."""
        for staged in texts:
            self._on_bytes(0)
            self._blobs.publish(staged)

    def _chunks(self, sample: bytes, file: Readable) -> Iterator[bytes]:
        """What is read of a file, its sample first."""
        rest = iter(partial(file.read, CHUNK_BYTES), b"") if len(sample) == SAMPLE_BYTES else ()
        for chunk in chain([sample], rest):
            self._on_bytes(len(chunk))
            yield chunk

    def _stage_chunks(self, chunks: Iterator[bytes]) -> tuple[str, Path, LineIndex]:
        """Takes in a text, held whole in memory first if it is small."""
        held: list[bytes] = []
        for data in chunks:
            held.append(data)
            if sum(map(len, held)) > MEMORY_BYTES:
                return self._stage_large(chain(held, chunks))
        return self._stage_small(b"".join(held))

    def _stage_small(self, data: bytes) -> tuple[str, Path, LineIndex]:
        """Takes in a small text, which need not be written if the store has it."""
        blob = hashlib.sha256(data).hexdigest()
        index = build_index(data)
        path = self._next_path()
        self._write_index(index, path)
        if not self._blobs.link_to(blob, path, size=len(data)):
            self._reserve(len(data))
            with disk_errors(), path.open("xb", buffering=0) as file:
                _write_all(file, data)
            self._unflushed.append(path)
        return blob, path, index

    def _stage_large(self, chunks: Iterable[bytes]) -> tuple[str, Path, LineIndex]:
        """Takes in a large text in constant memory: this thread counts while one writes and one hashes."""
        digest = hashlib.sha256()
        builder = IndexBuilder()
        path = self._next_path()
        with disk_errors(), path.open("xb", buffering=0) as file:
            begun: deque[Future[None]] = deque()
            for data in chunks:
                self._reserve(len(data))
                while len(begun) >= 2 * IN_FLIGHT:
                    begun.popleft().result()
                begun.append(self._writer.submit(_write_all, file, data))
                begun.append(self._hasher.submit(digest.update, data))
                builder.feed(data)
            for future in begun:
                future.result()
        index = builder.index()
        self._write_index(index, path)
        if index.counts.bytes <= UNFLUSHED_ABOVE_BYTES:
            self._unflushed.append(path)
        return digest.hexdigest(), path, index

    def _write_index(self, index: LineIndex, path: Path) -> None:
        if index.counts.bytes > INDEXED_ABOVE_BYTES:
            with disk_errors(), path.with_suffix(".index").open("xb") as file:
                write_index(index, file)

    def _next_path(self) -> Path:
        self._count += 1
        return self._directory / f"{self._count}.txt"

    def _reserve(self, size: int) -> None:
        if self._room is None:
            return
        self._room -= size
        if self._room < 0:
            raise StoreFull(
                "this would take the store over its quota: remove contexts (`rlm-mcp contexts rm NAME`), "
                "collect what is unused (`rlm-mcp contexts gc`), or raise RLM_MCP_QUOTA_BYTES"
            )


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _flush(paths: Iterable[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_fully(file: Readable, size: int) -> bytes:
    """Reads `size` bytes, or to the end; a raw file may give less at a time."""
    data = file.read(size)
    while 0 < len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns "no space left" into an error that says what to do; used around every write of the store."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise StoreFull(
                f"the disk that holds the store is full ({error.strerror}): free some space or set RLM_MCP_DATA_DIR "
                "to a directory on another disk; nothing was stored"
            ) from error
        if error.errno is None:  # no system call failed: the source's decompressor complains so
            raise
        raise StoreDamaged(
            f"the store cannot be written ({error.strerror}, {error.filename or 'while writing'}): "
            "check the permissions of its directory and the disk; nothing was stored"
        ) from error

"""Staging: the texts of one registration are converted, hashed, indexed and written before they are published."""

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Self

from rlm_mcp.contexts.sources.source import Readable
from rlm_mcp.contexts.store.blobs import INDEXED_ABOVE_BYTES, StagedText, disk_errors
from rlm_mcp.contexts.store.protocols import Blobs
from rlm_mcp.contexts.text.encoding import SAMPLE_BYTES, UTF8, Encoding, Utf8Stream, detect, marked_encoding
from rlm_mcp.contexts.text.line_index import IndexBuilder, LineIndex, build_index, write_index
from rlm_mcp.errors import SourceRefused, StoreFull

CHUNK_BYTES = 1 << 18
"""Measured best of 64 KiB to 4 MiB: Python's overhead per chunk is negligible, and chunks stay in the CPU's cache."""

IN_FLIGHT = 3
"""Chunks in the queue of the writing thread: enough to keep both threads busy, in little memory."""

UNFLUSHED_ABOVE_BYTES = 64 << 20
"""A larger text is left to the system to flush: waiting for the disk would take most of the time of registering it.
Damage by a power failure is then detected by its size."""

FLUSHERS = 8
"""Threads that flush files once all are written. File systems group concurrent flushes: measured on ext4, 5,000 files
take 26 s one by one and 0.4 s on eight threads."""

FLUSHED_AT_ONCE = 64 * FLUSHERS
"""Files flushed between two checks for cancellation; as fast as all at once."""

MEMORY_BYTES = 4 << 20
"""A text up to this size is held in memory until its hash is known, and is not written if the store has it."""


class NotText(SourceRefused):
    """The bytes are not a text in any known encoding."""


class StagingArea:
    """Stages the texts of one registration; leaving the `with` block deletes those that were not published.

    `on_bytes` is called many times a second with the bytes read since its last call. It may raise to end the staging.
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

    def stage(self, file: Readable, *, is_utf8: bool = False, named: Encoding | None = None) -> StagedText:
        """Reads a file to its end; its encoding is detected unless the user has `named` it or it is known.

        Raises NotText, StoreFull, and what reading the file raises.
        """
        sample = _read_fully(file, SAMPLE_BYTES)
        encoding = UTF8 if is_utf8 else (named and (marked_encoding(sample) or named)) or detect(sample)
        if encoding is None:
            raise NotText("it is binary, not text")
        stream = Utf8Stream(encoding)
        staged = self.stage_utf8(stream.convert(self._chunks(sample, file)))
        return replace(staged, encoding=stream.encoding, invalid_bytes=stream.invalid_bytes, nuls=stream.nuls)

    def _flush(self) -> None:
        with disk_errors(), ThreadPoolExecutor(max_workers=FLUSHERS, thread_name_prefix="blob-flusher") as flushers:
            for start in range(0, len(self._unflushed), FLUSHED_AT_ONCE):
                self._check()
                some = self._unflushed[start : start + FLUSHED_AT_ONCE]
                first, *others = [some[n::FLUSHERS] for n in range(min(FLUSHERS, len(some)))]
                flushed = flushers.map(_flush, others)  # starts a thread for each
                _flush(first)
                for _ in flushed:
                    pass
        self._unflushed.clear()

    def place(self, texts: Sequence[StagedText]) -> None:
        """Flushes and places staged texts, so that little is left to do under the write lock. Raises StoreFull."""
        self._flush()
        with disk_errors():
            self._blobs.place(texts, check=self._check)

    def publish(self, texts: Sequence[StagedText]) -> None:
        """Publishes texts that were placed. The caller holds the catalogue's write lock."""
        self._blobs.publish(texts, check=self._check)

    def _check(self) -> None:
        self._on_bytes(0)

    def _chunks(self, sample: bytes, file: Readable) -> Iterator[bytes]:
        """The chunks of a file, the first of which is its sample."""
        rest = iter(partial(file.read, CHUNK_BYTES), b"") if len(sample) == SAMPLE_BYTES else ()
        for chunk in chain([sample], rest):
            self._on_bytes(len(chunk))
            yield chunk

    def stage_utf8(self, chunks: Iterator[bytes]) -> StagedText:
        """Writes a text that is UTF-8, which is first held whole in memory if it is small. Raises StoreFull."""
        blob, path, index = self._stage_chunks(chunks)
        return StagedText(blob=blob, path=path, index=index, encoding=UTF8, invalid_bytes=0, nuls=0)

    def _stage_chunks(self, chunks: Iterator[bytes]) -> tuple[str, Path, LineIndex]:
        held: list[bytes] = []
        size = 0
        for data in chunks:
            held.append(data)
            size += len(data)
            if size > MEMORY_BYTES:
                return self._stage_large(chain(held, chunks))
        return self._stage_small(b"".join(held))

    def _stage_small(self, data: bytes) -> tuple[str, Path, LineIndex]:
        """Links a small text if the store has it already, else writes it."""
        blob = hashlib.sha256(data).hexdigest()
        index = build_index(data)
        path = self._next_path()
        self._write_index(index, path)
        if not self._blobs.link_to(path, blob, size=len(data)):
            self._reserve(len(data))
            with disk_errors(), path.open("xb", buffering=0) as file:
                _write_all(file, data)
            self._unflushed.append(path)
        return blob, path, index

    def _stage_large(self, chunks: Iterable[bytes]) -> tuple[str, Path, LineIndex]:
        """Writes a large text in constant memory: this thread indexes while one writes and another hashes."""
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
            raise over_quota()


def over_quota() -> StoreFull:
    """The error of a registration for which the quota has no room."""
    return StoreFull(
        "this would exceed the quota of the store: remove contexts (`rlm-mcp contexts rm NAME`), "
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
    """Reads `size` bytes, or to the end of the file; one read of a raw file may return less."""
    data = file.read(size)
    while 0 < len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data

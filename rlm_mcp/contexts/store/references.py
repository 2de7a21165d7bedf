"""Texts referenced where they lie: large files of this machine, and objects of buckets.

Reads work at once: one that needs a line beyond the indexed part advances the index itself. The index of a file is
built in the background too; that of an object as far as it is read, or when its text is fetched.

The fingerprint of a file is its size, modification time and inode and a hash of samples, so taking it does not read the
whole file. A change that keeps size and modification time is not detected. An object is identified by its ETag.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from rlm_mcp.bucket_address import BucketAddress
from rlm_mcp.contexts.sources.buckets import ListedObject
from rlm_mcp.contexts.sources.file import open_raw
from rlm_mcp.contexts.store.blobs import INDEXES_KEPT
from rlm_mcp.contexts.text.encoding import UTF8, detect
from rlm_mcp.contexts.text.line_index import Counts, IndexBuilder, LineIndex, map_index, write_index
from rlm_mcp.contexts.text.reading import ReadBytes
from rlm_mcp.errors import ContextError, SourceChanged
from rlm_mcp.files import replacing

STEP_BYTES = 4 << 20
"""How far the index is advanced while the lock is held: about 4 ms."""

SAMPLE_BYTES = 1 << 16
"""How much is read at each of the places from which a file is fingerprinted and its counts are estimated."""

PREFIX = "ref:"
_OBJECT = f'{PREFIX}{{"bucket":'
"""The beginning of the keys of objects, which no other key has."""


class Referenced(Protocol):
    """A text that is referenced, and can be read."""

    @property
    def key(self) -> str:
        """The name of this content in the catalogue."""

    @property
    def index_name(self) -> str:
        """The name of the index file, without its suffix."""

    @property
    def size(self) -> int:
        """In bytes."""

    @property
    def read(self) -> ReadBytes:
        """Reads the bytes `[start:end]`. Calling it raises SourceChanged, and what reading raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A file as it was when it was registered."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    samples: str

    @property
    def key(self) -> str:
        """The name of this content in the catalogue; `reference_of` reads it back."""
        return PREFIX + json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)

    @property
    def index_name(self) -> str:
        """The name of the index file, without its suffix."""
        return hashlib.sha256(self.key.encode()).hexdigest()

    def read(self, start: int, end: int) -> bytes:
        """The bytes `[start:end]`. Raises SourceChanged."""
        with open_raw(self.check()) as file:
            file.seek(start)
            return file.read(end - start)

    def check(self) -> Path:
        """The path, if the file is still as it was when it was registered. Raises SourceChanged."""
        remedy = (
            "`register_context` with this path or `rlm-mcp contexts refresh NAME` takes it as it is now; "
            "older citations may not hold"
        )
        try:
            status = Path(self.path).stat()
        except OSError as error:
            raise SourceChanged(
                f"{self.path}, registered by reference, is gone ({error.strerror}): put it back, or remove the context "
                "with `remove_context` or `rlm-mcp contexts rm NAME`"
            ) from error
        if status.st_size != self.size:
            raise SourceChanged(
                f"{self.path} changed from {self.size:,} to {status.st_size:,} bytes since it was registered: {remedy}"
            )
        if status.st_mtime_ns != self.mtime_ns or status.st_ino != self.inode:
            raise SourceChanged(f"{self.path} was written to since it was registered: {remedy}")
        return Path(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectReference:
    """An object of a bucket as it was when it was registered. `version` is its ETag, or what stands for one."""

    bucket: str
    object: str
    size: int
    version: str

    @property
    def key(self) -> str:
        """The name of this content in the catalogue; `reference_of` reads it back."""
        facts = {"bucket": self.bucket, "object": self.object, "size": self.size, "version": self.version}
        return PREFIX + json.dumps(facts, separators=(",", ":"), ensure_ascii=False)

    @property
    def index_name(self) -> str:
        """The name of the index file, and of the text in a cache, without their suffixes."""
        return hashlib.sha256(self.key.encode()).hexdigest()

    @property
    def address(self) -> BucketAddress:
        """The address of the object."""
        return BucketAddress(bucket=self.bucket, prefix=self.object)

    def check(self, found: ListedObject) -> None:
        """Raises SourceChanged unless what was found is this version of the object."""
        if found.version != self.version:
            raise SourceChanged(
                f"{self.address.shown} has changed since it was registered (ETag {self.version.strip(chr(34))}, now"
                f" {found.version.strip(chr(34))}): `register_context` with its address or `rlm-mcp contexts refresh"
                " NAME` takes it as it is now; older citations may not hold"
            )


def is_reference(blob: str) -> bool:
    """Whether a name of a text in the catalogue is that of a reference."""
    return blob.startswith(PREFIX)


def is_object(blob: str) -> bool:
    """Whether a name of a text in the catalogue is that of a reference to an object."""
    return blob.startswith(_OBJECT)


def object_of(blob: str) -> ObjectReference:
    """The reference to an object with this name in the catalogue."""
    return ObjectReference(**json.loads(blob.removeprefix(PREFIX)))


def reference_of(blob: str) -> Reference | ObjectReference:
    """The reference with this name in the catalogue."""
    return object_of(blob) if is_object(blob) else Reference(**json.loads(blob.removeprefix(PREFIX)))


def refer_to(path: Path) -> tuple[Reference, Counts] | None:
    """Fingerprints a file and estimates its counts from samples; None if it is not UTF-8 and must be converted."""
    with open_raw(path) as file:
        status = os.fstat(file.fileno())
        samples = []
        for tenth in range(10):
            file.seek(status.st_size * tenth // 10)
            samples.append(file.read(SAMPLE_BYTES))
        file.seek(max(status.st_size - SAMPLE_BYTES, 0))
        samples.append(file.read(SAMPLE_BYTES))
    if detect(samples[0]) != UTF8 or any(not _is_utf8_inside(sample) for sample in samples):
        return None
    seen = b"".join(samples)
    ratio = status.st_size / max(len(seen), 1)
    estimate = Counts(
        bytes=status.st_size,
        chars=round(len(seen.decode(errors="ignore")) * ratio),
        lines=max(round(seen.count(b"\n") * ratio), 1),
        longest_line=max(map(len, seen.split(b"\n"))),
    )
    reference = Reference(
        path=str(path),
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        inode=status.st_ino,
        samples=hashlib.sha256(seen).hexdigest(),
    )
    return reference, estimate


def _is_utf8_inside(sample: bytes) -> bool:
    """Whether a piece of a file is valid UTF-8 except for characters cut at either end."""
    return sample.isascii() or "\ufffd" not in sample[3:-3].strip(bytes(range(0x80, 0x100))).decode(errors="replace")


class GrowingIndex:
    """The index of one referenced file while it is being built; any thread may advance it."""

    def __init__(
        self, reference: Referenced, *, saved_as: Path, parts: Path, on_complete: Callable[[Counts], None]
    ) -> None:
        self._reference = reference
        self._saved_as = saved_as
        self._parts = parts
        self._on_complete = on_complete
        self._builder = IndexBuilder()
        self._lock = threading.Lock()
        self.complete = False

    def __repr__(self) -> str:
        done = f"{self._builder.bytes_seen:,} of {self._reference.size:,} bytes"
        return f"<GrowingIndex {self._reference.index_name}, {done}>"

    def reach(self, far_enough: Callable[[Counts], bool]) -> LineIndex:
        """The index, once its counts satisfy `far_enough` or it is complete."""
        while True:
            with self._lock:
                if self.complete or far_enough(self._builder.counts()):
                    return self._builder.index()
            self.step()

    def step(self) -> bool:
        """Indexes the next piece of the file; False if there is none. Raises SourceChanged."""
        with self._lock:
            if self.complete:
                return False
            seen = self._builder.bytes_seen
            data = self._reference.read(seen, min(seen + STEP_BYTES, self._reference.size))
            if data:
                self._builder.feed(data)
            if self._builder.bytes_seen < self._reference.size:
                return True
            self._save()
            self.complete = True
        self._on_complete(self._builder.counts())
        return False

    def _save(self) -> None:
        _save_index(self._builder.index(), self._saved_as, self._parts)


def _save_index(index: LineIndex, path: Path, parts: Path) -> None:
    """Writes an index for other processes; if that fails, they build their own."""
    with suppress(OSError):
        parts.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        with replacing(path, part=parts / path.name) as file:
            write_index(index, file)


class ReferenceIndexes:
    """The indexes of referenced texts: mapped when they are on disk, else built, for files in the background.

    They are written under `parts` and moved to `directory` when they are complete.
    """

    def __init__(self, directory: Path, *, parts: Path, on_complete: Callable[[str, Counts], None]) -> None:
        """`on_complete` is called with the key of a reference and its counts."""
        self._directory = directory
        self._parts = parts
        self._on_complete = on_complete
        self._growing: dict[str, GrowingIndex] = {}
        self._mapped: dict[str, LineIndex] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def __repr__(self) -> str:
        return f"<ReferenceIndexes {len(self._growing)} growing, {len(self._mapped)} mapped>"

    def index(self, reference: Referenced, far_enough: Callable[[Counts], bool]) -> LineIndex:
        """An index that is complete or whose counts satisfy `far_enough`. Raises SourceChanged."""
        mapped = self.find(reference.key, reference.index_name)
        return mapped or self.grow(reference).reach(far_enough)

    def find(self, key: str, name: str) -> LineIndex | None:
        """The index of a reference, if it is complete."""
        with self._lock:
            growing = self._growing.get(key)
            if growing is not None and not growing.complete:
                return None
            if (mapped := self._mapped.get(key)) is None:
                try:
                    mapped = growing.reach(lambda _: True) if growing else map_index(self._path(name))
                except (FileNotFoundError, ValueError):
                    return None
                if len(self._mapped) >= INDEXES_KEPT:
                    self._mapped.clear()
                self._growing.pop(key, None)
                self._mapped[key] = mapped
            return mapped

    def keep(self, key: str, name: str, index: LineIndex) -> None:
        """Keeps the index of a text that was fetched, for the time when the cache has it no longer."""
        with self._lock:
            self._growing.pop(key, None)
        if not self._path(name).exists():
            _save_index(index, self._path(name), self._parts)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.index"

    def grow(self, reference: Referenced) -> GrowingIndex:
        """The index of a text that is not indexed yet; that of a file also grows in the background from now on."""
        with self._lock:
            growing = self._growing.get(reference.key)
            if growing is None:
                growing = GrowingIndex(
                    reference,
                    saved_as=self._path(reference.index_name),
                    parts=self._parts,
                    on_complete=lambda counts: self._on_complete(reference.key, counts),
                )
                self._growing[reference.key] = growing
                if not isinstance(reference, Reference):
                    self._forget_old_objects()
                    return growing
                thread = threading.Thread(
                    target=self._run, args=(reference, growing), name="context-index", daemon=True
                )
                self._threads.append(thread)
                thread.start()
        return growing

    def _forget_old_objects(self) -> None:
        """Forgets the oldest incomplete index of an object, if there are many: it is built again when it is needed."""
        objects = [key for key in self._growing if is_object(key)]
        if len(objects) > INDEXES_KEPT:
            del self._growing[objects[0]]

    def _run(self, reference: Referenced, growing: GrowingIndex) -> None:
        try:
            while not self._closed.is_set() and growing.step():
                pass
        except (ContextError, OSError):
            pass  # the next read of the context raises it again
        finally:
            with self._lock:
                self._growing.pop(reference.key, None)
                if growing.complete:
                    self._mapped[reference.key] = growing.reach(lambda _: True)

    def wait(self, seconds: float) -> bool:
        """Waits until all started indexes are complete; False when that takes longer."""
        for thread in tuple(self._threads):
            thread.join(seconds)
        return not any(thread.is_alive() for thread in self._threads)

    def names(self) -> list[str]:
        """The names of the indexes on disk."""
        return [path.stem for path in self._directory.glob("*.index")]

    def delete(self, name: str) -> None:
        """Deletes an index that no context needs."""
        self._path(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Stops indexing; an incomplete index is built again by the next process that needs it."""
        self._closed.set()
        for thread in self._threads:
            thread.join()

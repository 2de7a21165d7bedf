"""Large files referenced where they lie: a fingerprint identifies the content, an index is built in the background.

Reads work at once: one that needs a line beyond the indexed part advances the index itself. The fingerprint is the
size, modification time and inode of the file and a hash of samples, so taking it does not read the whole file. A change
that keeps size and modification time is not detected.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rlm_mcp.contexts.sources.file import open_raw
from rlm_mcp.contexts.text.encoding import UTF8, detect
from rlm_mcp.contexts.text.line_index import Counts, IndexBuilder, LineIndex, map_index, write_index
from rlm_mcp.errors import ContextError, SourceChanged
from rlm_mcp.files import replacing

STEP_BYTES = 4 << 20
"""How far the index is advanced while the lock is held: about 4 ms."""

SAMPLE_BYTES = 1 << 16
"""How much is read at each of the places from which a file is fingerprinted and its counts are estimated."""

PREFIX = "ref:"


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


def is_reference(blob: str) -> bool:
    """Whether a name of a text in the catalogue is that of a reference."""
    return blob.startswith(PREFIX)


def reference_of(blob: str) -> Reference:
    """The reference with this name in the catalogue."""
    return Reference(**json.loads(blob.removeprefix(PREFIX)))


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
        self, reference: Reference, *, saved_as: Path, parts: Path, on_complete: Callable[[Counts], None]
    ) -> None:
        self._reference = reference
        self._saved_as = saved_as
        self._parts = parts
        self._on_complete = on_complete
        self._builder = IndexBuilder()
        self._lock = threading.Lock()
        self.complete = False

    def __repr__(self) -> str:
        return f"<GrowingIndex {self._reference.path}, {self._builder.bytes_seen:,} of {self._reference.size:,} bytes>"

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
            path = self._reference.check()
            with open_raw(path) as file:
                file.seek(seen)
                data = file.read(min(STEP_BYTES, self._reference.size - seen))
            if data:
                self._builder.feed(data)
            if self._builder.bytes_seen < self._reference.size:
                return True
            self._save()
            self.complete = True
        self._on_complete(self._builder.counts())
        return False

    def _save(self) -> None:
        """Writes the index for other processes; if that fails, they build their own."""
        with suppress(OSError):
            self._parts.mkdir(parents=True, exist_ok=True)
            self._saved_as.parent.mkdir(exist_ok=True)
            with replacing(self._saved_as, part=self._parts / self._saved_as.name) as file:
                write_index(self._builder.index(), file)


class ReferenceIndexes:
    """The indexes of referenced files: mapped when they are on disk, else built in the background.

    They are written under `parts` and moved to `directory` when they are complete.
    """

    def __init__(self, directory: Path, *, parts: Path, on_complete: Callable[[Reference, Counts], None]) -> None:
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

    def index(self, reference: Reference, far_enough: Callable[[Counts], bool]) -> LineIndex:
        """An index that is complete or whose counts satisfy `far_enough`. Raises SourceChanged."""
        with self._lock:
            mapped = self._mapped.get(reference.key)
            growing = self._growing.get(reference.key)
        if mapped:
            return mapped
        if growing is None:
            try:
                mapped = map_index(self._directory / f"{reference.index_name}.index")
            except (FileNotFoundError, ValueError):
                growing = self.grow(reference)
            else:
                with self._lock:
                    self._mapped[reference.key] = mapped
                return mapped
        return growing.reach(far_enough)

    def grow(self, reference: Reference) -> GrowingIndex:
        """Starts to index a file in the background, unless that was started before."""
        with self._lock:
            growing = self._growing.get(reference.key)
            if growing is None:
                growing = GrowingIndex(
                    reference,
                    saved_as=self._directory / f"{reference.index_name}.index",
                    parts=self._parts,
                    on_complete=lambda counts: self._on_complete(reference, counts),
                )
                self._growing[reference.key] = growing
                thread = threading.Thread(
                    target=self._run, args=(reference, growing), name="context-index", daemon=True
                )
                self._threads.append(thread)
                thread.start()
        return growing

    def _run(self, reference: Reference, growing: GrowingIndex) -> None:
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
        (self._directory / f"{name}.index").unlink(missing_ok=True)

    def close(self) -> None:
        """Stops indexing; an incomplete index is built again by the next process that needs it."""
        self._closed.set()
        for thread in self._threads:
            thread.join()

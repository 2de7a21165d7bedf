"""The memory that all sessions made from one template start with, instead of the memory of the image."""

import hashlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from wasm_runtime.machine.memory import HOST_PAGE_BYTES, GuestMemory, MemoryRuns

# Of most pages that a session has written it has changed a few words, such as counts of references: a state in blocks
# of this length takes a fifth of one in pages, in less time.
_BLOCK_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateMemory:
    """A whole memory that many sessions share until they write to it.

    runs          where it differs from the image, and what it has there
    image         what the image has in those places
    memory_bytes  its length
    whole         all of its bytes
    file          the descriptor of a file that holds it, for `MappedPages`; else None
    """

    runs: MemoryRuns = field(repr=False)
    image: MemoryRuns = field(repr=False)
    memory_bytes: int
    whole: bytes | mmap.mmap = field(repr=False)
    file: int | None

    def digest(self, free: range) -> str:
        """Return a SHA-256 by which equal memories on equal images are known; what lies in `free` does not matter."""
        image = dict(_pages(self.image))
        found = hashlib.sha256()
        for at, page in sorted(_pages(self.runs)):
            if at not in free and page != image[at]:
                found.update(at.to_bytes(8, "little") + page)
        return found.hexdigest()

    def difference(self, runs: MemoryRuns) -> MemoryRuns:
        """Return what is left of `runs`, of which none overlap, without the blocks that this memory has too."""
        found: MemoryRuns = []
        for start, data in runs:
            before = self.whole[start : start + len(data)]
            found += [(start + first, data[first:end]) for first, end in _differing(data, before)]
        return found

    def with_runs(self, runs: MemoryRuns) -> MemoryRuns:
        """Return where this memory with `runs` written to it may differ from the image, and what it has there."""
        covered = {at for at, page in _pages(runs) if len(page) == HOST_PAGE_BYTES}
        return [*((at, page) for at, page in _pages(self.runs) if at not in covered), *runs]

    def close(self) -> None:
        """Close the file; memories that map it keep its pages."""
        if self.file is not None:
            os.close(self.file)


def make_template_memory(memory: GuestMemory, runs: MemoryRuns, *, in_file: bool) -> TemplateMemory:
    """Write `runs` to `memory`, which must be as in the image, and return the result as a template's memory."""
    image = [(start, bytes(memory.view(start, len(data)))) for start, data in runs]
    for start, data in runs:
        memory.view(start, len(data))[:] = data
    whole = memory.view(0, memory.size)
    file = _read_only_file(whole) if in_file else None
    return TemplateMemory(
        runs=runs,
        image=image,
        memory_bytes=memory.size,
        # Mapped, it can be read after the file was closed too.
        whole=bytes(whole) if file is None else mmap.mmap(file, len(whole), prot=mmap.PROT_READ),
        file=file,
    )


def _pages(runs: MemoryRuns) -> Iterator[tuple[int, bytes]]:
    for start, data in runs:
        for at in range(0, len(data), HOST_PAGE_BYTES):
            yield start + at, data[at : at + HOST_PAGE_BYTES]


def _differing(data: bytes, before: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each sequence of blocks begins and ends that are others than `before`, which may be shorter."""
    if not before:
        yield 0, len(data)
        return
    first = end = 0
    for page in range(0, len(data), HOST_PAGE_BYTES):
        if data[page : page + HOST_PAGE_BYTES] == before[page : page + HOST_PAGE_BYTES]:
            continue
        for at in range(page, min(page + HOST_PAGE_BYTES, len(data)), _BLOCK_BYTES):
            if data[at : at + _BLOCK_BYTES] != before[at : at + _BLOCK_BYTES]:
                if at != end:
                    if end:
                        yield first, end
                    first = at
                end = at + _BLOCK_BYTES
    if end:
        yield first, min(end, len(data))


def _read_only_file(data: memoryview) -> int:
    """Return the descriptor of a memory file that holds `data`, open for reading only. Pages of zeros take no space.

    The file is not sealed: F_SEAL_WRITE fails with EBUSY while the kernel holds one of its pages, which was seen once
    in 22,000 times.
    """
    file, zeros = os.memfd_create("template-memory", os.MFD_CLOEXEC), bytes(HOST_PAGE_BYTES)
    try:
        os.ftruncate(file, len(data))
        # As bytes, because memoryviews are compared one element after the other.
        pages = range(0, len(data), HOST_PAGE_BYTES)
        for occupied, run in groupby(pages, lambda at: data[at : at + HOST_PAGE_BYTES].tobytes() != zeros):
            if occupied:
                starts = list(run)
                os.pwrite(file, data[starts[0] : starts[-1] + HOST_PAGE_BYTES], starts[0])
        return os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(file)

"""The memory that all sessions made from one template start with, instead of the memory of the image."""

import os
from dataclasses import dataclass, field
from itertools import groupby

from wasm_runtime.machine.memory import HOST_PAGE_BYTES, Extents, GuestMemory, MemoryRuns


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateMemory:
    """A whole memory that many sessions share until they write to it.

    extents       where it differs from the image
    image         what the image has in those places
    memory_bytes  its length
    whole         all of its bytes, for `CopiedPages`; empty for `MappedPages`
    file          the descriptor of a file that holds it, for `MappedPages`; else None
    """

    extents: Extents
    image: MemoryRuns = field(repr=False)
    memory_bytes: int
    whole: bytes = field(repr=False)
    file: int | None

    def close(self) -> None:
        """Close the file; memories that map it keep its pages."""
        if self.file is not None:
            os.close(self.file)


def make_template_memory(memory: GuestMemory, runs: MemoryRuns, *, in_file: bool) -> TemplateMemory:
    """Write `runs` to `memory`, which must be as in the image, and return the result as a template's memory."""
    extents = [(start, len(data)) for start, data in runs]
    image = [(start, bytes(memory.view(start, length))) for start, length in extents]
    for start, data in runs:
        memory.view(start, len(data))[:] = data
    whole = memory.view(0, memory.size)
    return TemplateMemory(
        extents=extents,
        image=image,
        memory_bytes=memory.size,
        whole=b"" if in_file else bytes(whole),
        file=_read_only_file(whole) if in_file else None,
    )


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

"""Which pages of a guest's memory were written: the interface, and the implementation that works on every system.

`CopiedPages` copies and compares whole memories. `MappedPages` (Linux) asks the kernel and gives the same results in
less time.
"""

import mmap
from dataclasses import dataclass
from typing import Protocol

from wasm_runtime.machine.memory import HOST_PAGE_BYTES, Extents, GuestMemory, MemoryRuns
from wasm_runtime.machine.template_memory import TemplateMemory


@dataclass(frozen=True, slots=True)
class SavedPages:
    """The written pages at one moment: where they are, and their bytes one after the other."""

    extents: Extents
    buffer: bytearray


class Pages(Protocol):
    """The written pages of one guest's memory. The memory starts as the image, or as a template's memory."""

    def save(self) -> SavedPages:
        """Save the state, so that `restore` can return to it. Only the last saved state can be restored."""

    def restore(self, saved: SavedPages) -> None:
        """Return to the last saved state. Memory that was added since then is filled with zeros."""

    def forget(self, saved: SavedPages) -> None:
        """Release what is kept for `restore`."""

    def written(self) -> MemoryRuns:
        """Return everything that differs from the memory's initial state, for checkpoints and forks."""

    def written_then(self, saved: SavedPages) -> MemoryRuns:
        """Return the same for the last saved state, also while the guest runs."""

    def replace(self, runs: MemoryRuns) -> None:
        """Make the memory its initial state plus `runs`, which may overlap."""

    def close(self) -> None:
        """Release what is held outside guest memory."""


class CopiedPages:
    """`Pages` by copying and comparing. `image` is the content of a fresh memory, shared by all sessions."""

    def __init__(self, memory: GuestMemory, image: bytes, *, template: TemplateMemory | None = None) -> None:
        self._memory = memory
        self._initial = image if template is None else template.whole
        if template is not None:
            self.replace([])

    def save(self) -> SavedPages:
        return SavedPages([(0, self._memory.size)], bytearray(self._memory.view(0, self._memory.size)))

    def restore(self, saved: SavedPages) -> None:
        self._fill(saved.buffer)

    def forget(self, saved: SavedPages) -> None:
        """Do nothing: the copy is freed with its last reference."""

    def written(self) -> MemoryRuns:
        data = bytes(self._memory.view(0, self._memory.size))
        before, zeros = self._initial, bytes(HOST_PAGE_BYTES)
        extents: Extents = []
        for start in range(0, len(data), HOST_PAGE_BYTES):
            if data[start : start + HOST_PAGE_BYTES] != (before[start : start + HOST_PAGE_BYTES] or zeros):
                if extents and sum(extents[-1]) == start:
                    extents[-1] = (extents[-1][0], extents[-1][1] + HOST_PAGE_BYTES)
                else:
                    extents.append((start, HOST_PAGE_BYTES))
        return [(start, data[start : start + length]) for start, length in extents]

    def written_then(self, saved: SavedPages) -> MemoryRuns:
        return [(0, bytes(saved.buffer))]

    def replace(self, runs: MemoryRuns) -> None:
        self._fill(self._initial)
        for start, data in runs:
            self._memory.view(start, len(data))[:] = data

    def close(self) -> None:
        """Do nothing: nothing is held outside guest memory."""

    def _fill(self, data: bytes | bytearray | mmap.mmap) -> None:
        """Write `data` at the beginning and zeros behind it."""
        view = self._memory.view(0, self._memory.size)
        view[: len(data)] = data
        view[len(data) :] = bytes(len(view) - len(data))

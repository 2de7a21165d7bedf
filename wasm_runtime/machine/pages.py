"""Which pages of guest memory were written, without looking at them.

Theory of operation (Linux). Wasmtime maps the image privately from the compiled file, and a page that the
guest writes becomes anonymous: in `/proc/self/pagemap` it is present (or swapped) and not file-mapped. From
Linux 6.7 on one ioctl lists the runs of such pages; before, the map is read, eight bytes a page, and every eighth
byte and one regular expression find them. Neither needs privileges.
`madvise(MADV_DONTNEED)` on a private mapping drops the written pages, and the next read sees the file again.

So going back to the image is one system call, and a saved state is the bytes of the written pages. A session
that holds much would copy much before every cell; long runs are therefore *settled*: written to a memory
file and mapped privately from it. They count as unwritten from then on, and DONTNEED returns to their settled bytes.
A *start* is the same for many sessions: a whole memory in one file, mapped over the image by all that begin in it.

Where there is no pagemap (macOS, Windows), `CopiedPages` copies and compares whole memory: same results, more
time. Sources: Documentation/admin-guide/mm/pagemap.rst; madvise(2).
"""

import ctypes
import fcntl
import functools
import mmap
import os
import re
import struct
import threading
from dataclasses import dataclass, field
from typing import Protocol

from wasm_runtime.machine.memory import GuestMemory

PAGE = 4096
# Runs at least this long are settled once a session has written more than SETTLE_ABOVE in all.
_LONG_RUN = 64 * PAGE
_SETTLE_ABOVE = 4 << 20
# The high byte of an entry: 0x80 present, 0x40 swapped, 0x20 file-mapped or shared.
# Up to two unwritten pages in between are taken along: copying them is cheaper than another run.
_RUN = rb"[\x40-\x5f\x80-\x9f\xc0-\xdf]+"
_WRITTEN = re.compile(_RUN + rb"(?:.{1,2}" + _RUN + rb")*", re.DOTALL)
# PAGEMAP_SCAN, _IOWR('f', 16, struct pm_scan_arg), and that struct: size, flags, start, end, walk_end, vec, vec_len,
# max_pages, category_inverted, category_mask, category_anyof_mask, return_mask. It fills vec with regions of three
# words: start, end, categories.
_PAGEMAP_SCAN = 0xC0606610
_SCAN = struct.Struct("12Q")
_WALK_END = 4
_REGIONS = 2048
_IS_FILE, _IS_PRESENT, _IS_SWAPPED, _IS_ZERO_PAGE = 1 << 2, 1 << 3, 1 << 4, 1 << 5
_PROT_READ_WRITE = 0x3
_MAP_PRIVATE_FIXED = 0x02 | 0x10
_MAP_ANONYMOUS = 0x20

Runs = list[tuple[int, bytes]]  # (address, bytes)
Extent = tuple[int, int]
Extents = list[Extent]  # (address, length)


class Buffers:
    """Memory to save pages into, used again by the next cell of any session: fresh memory costs a fault a page."""

    _KEPT_BYTES = 8 << 20
    # Cells that compute at once, on a large machine; many more may wait for the host, each with its buffer.
    _KEPT = 8

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        """Return a buffer of at least `size` bytes."""
        try:
            buffer = self._free.pop()
        except IndexError:
            return bytearray(max(size, 1 << 20))
        return buffer if len(buffer) >= size else bytearray(size * 3 // 2)

    def give_back(self, buffer: bytearray) -> None:
        """Keep a buffer for the next cell, unless it is uncommonly large or there are enough."""
        if len(buffer) <= self._KEPT_BYTES and len(self._free) < self._KEPT:
            self._free.append(buffer)


@dataclass(frozen=True, slots=True)
class SavedPages:
    """Where the pages were that had been written when it was made, and their bytes one after the other."""

    extents: Extents
    buffer: bytearray


@dataclass(frozen=True, slots=True)
class Start:
    """A memory that many sessions begin with in the place of the image."""

    extents: Extents
    """where it differs from the image"""
    image: Runs = field(repr=False)
    """what the image has there"""
    memory_bytes: int
    whole: bytes = field(repr=False)
    """all of it, where pages are copied"""
    file: int | None
    """the descriptor of a file of it, where pages are mapped"""

    def close(self) -> None:
        """Let go of the file; memories that map it keep it."""
        if self.file is not None:
            os.close(self.file)


class Pages(Protocol):
    """The written pages of one guest's memory."""

    def save(self) -> SavedPages:
        """Remember this state, so that `restore` can return to it; the last one saved is the one that counts."""

    def restore(self, saved: SavedPages) -> None:
        """Put memory back to the last saved state; what grew since is zeros."""

    def forget(self, saved: SavedPages) -> None:
        """Give back what is kept for `restore`."""

    def changed(self) -> Runs:
        """Everything that differs from the image: what a checkpoint needs."""

    def written(self) -> Runs:
        """Everything that differs from what memory began as: what a fork needs."""

    def replace(self, runs: Runs) -> None:
        """Make memory what it began as plus `runs`, whatever it was."""

    def close(self) -> None:
        """Give back what is held outside guest memory."""


class MappedPages:
    """`Pages` by page map."""

    def __init__(
        self, memory: GuestMemory, buffers: Buffers, *, image_bytes: int, dead: Extent, start: Start | None = None
    ) -> None:
        """`image_bytes`: where the image ends; beyond it fresh pages are zero.

        `dead`: the free part of the C stack between two cells, whose bytes mean nothing and are not saved.
        `start`: its file is mapped over the image; `memory` is at least as long.
        """
        self._memory = memory
        self._buffers = buffers
        self._mapped_bytes = image_bytes
        self._start_extents: Extents = []
        self._dead_start, self._dead_end = dead[0] // PAGE * PAGE, dead[1] // PAGE * PAGE
        self._settled: Extents = []
        self._file: int | None = None
        self._find = _scanned if _scan_available() else _looked_up
        if start is not None and start.file is not None:
            _map(memory.base, start.memory_bytes, 0, start.file, 0)
            self._mapped_bytes, self._start_extents = start.memory_bytes, start.extents

    def save(self) -> SavedPages:
        extents = self._written()
        if sum(length for _, length in extents) > _SETTLE_ABOVE:
            # Only beyond what memory began as: there it was zeros, which need no file to come back to.
            long = [e for e in extents if e[1] >= _LONG_RUN and e[0] >= self._mapped_bytes]
            for start, length in long:
                self._settle(start, length)
            extents = [e for e in extents if e not in long]
        buffer = self._buffers.take(sum(length for _, length in extents))
        whole, copy, position = self._memory.view(0, self._memory.size), memoryview(buffer), 0
        for start, length in extents:
            end = position + length
            copy[position:end] = whole[start : start + length]
            position = end
        return SavedPages(extents, buffer)

    def restore(self, saved: SavedPages) -> None:
        self._drop_written()
        position = 0
        for start, length in saved.extents:
            self._memory.view(start, length)[:] = memoryview(saved.buffer)[position : position + length]
            position += length

    def forget(self, saved: SavedPages) -> None:
        self._buffers.give_back(saved.buffer)

    def changed(self) -> Runs:
        return self._bytes(_union([*self._written(), *self._settled, *self._start_extents]))

    def written(self) -> Runs:
        return self._bytes(_union([*self._written(), *self._settled]))

    def replace(self, runs: Runs) -> None:
        for start, length in self._settled:
            _map(self._memory.base + start, length, _MAP_ANONYMOUS, -1, 0)
        self._settled = []
        self._drop_written()
        self._put(runs)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _written(self) -> Extents:
        # Divided where the mapped file ends: a run that began inside it could not be settled.
        edges = [(0, self._dead_start), (self._dead_end, self._mapped_bytes), (self._mapped_bytes, self._memory.size)]
        return [extent for start, end in edges for extent in self._written_between(start, end)]

    def _written_between(self, start: int, end: int) -> Extents:
        return self._find(self._memory.base, start, end)

    def _settle(self, start: int, length: int) -> None:
        if self._file is None:
            self._file = os.memfd_create("guest-pages", os.MFD_CLOEXEC)
        view, done = self._memory.view(start, length), 0
        while done < length:
            done += os.pwrite(self._file, view[done:], start + done)
        _map(self._memory.base + start, length, 0, self._file, start)
        self._settled = _union([*self._settled, (start, length)])

    def _drop_written(self) -> None:
        if _libc().madvise(ctypes.c_void_p(self._memory.base), ctypes.c_size_t(self._memory.size), mmap.MADV_DONTNEED):
            raise OSError(ctypes.get_errno(), "madvise refused to drop the pages of a guest")

    def _bytes(self, extents: Extents) -> Runs:
        return [(start, bytes(self._memory.view(start, length))) for start, length in extents]

    def _put(self, runs: Runs) -> None:
        for start, data in runs:
            self._memory.view(start, len(data))[:] = data


class CopiedPages:
    """`Pages` by copying: `image` is what a fresh memory holds, shared by all sessions."""

    def __init__(self, memory: GuestMemory, image: bytes, *, start: Start | None = None) -> None:
        self._memory = memory
        self._image = self._began_as = image
        if start is not None:
            self._began_as = start.whole
            self.replace([])

    def save(self) -> SavedPages:
        return SavedPages([(0, self._memory.size)], bytearray(self._memory.view(0, self._memory.size)))

    def restore(self, saved: SavedPages) -> None:
        view = self._memory.view(0, self._memory.size)
        view[: len(saved.buffer)] = saved.buffer
        view[len(saved.buffer) :] = bytes(len(view) - len(saved.buffer))

    def forget(self, saved: SavedPages) -> None:
        """It goes with its last reference."""

    def changed(self) -> Runs:
        return self._since(self._image)

    def written(self) -> Runs:
        return self._since(self._began_as)

    def replace(self, runs: Runs) -> None:
        view = self._memory.view(0, self._memory.size)
        view[: len(self._began_as)] = self._began_as
        view[len(self._began_as) :] = bytes(len(view) - len(self._began_as))
        for start, data in runs:
            view[start : start + len(data)] = data

    def close(self) -> None:
        """Nothing is held outside."""

    def _since(self, before: bytes) -> Runs:
        runs: Runs = []
        data = bytes(self._memory.view(0, self._memory.size))
        blank = bytes(PAGE)
        for start in range(0, len(data), PAGE):
            page = data[start : start + PAGE]
            if page != (before[start : start + PAGE] or blank):
                if runs and runs[-1][0] + len(runs[-1][1]) == start:
                    runs[-1] = (runs[-1][0], runs[-1][1] + page)
                else:
                    runs.append((start, page))
        return runs


def make_start(memory: GuestMemory, runs: Runs, *, in_file: bool) -> Start:
    """Return the memory that `memory`, which is as in the image, becomes by `runs`; it becomes that."""
    extents = [(start, len(data)) for start, data in runs]
    image = [(start, bytes(memory.view(start, length))) for start, length in extents]
    for start, data in runs:
        memory.view(start, len(data))[:] = data
    whole = memory.view(0, memory.size)
    return Start(
        extents=extents,
        image=image,
        memory_bytes=memory.size,
        whole=b"" if in_file else bytes(whole),
        file=_in_file("guest-start", whole) if in_file else None,
    )


def _in_file(name: str, data: memoryview) -> int:
    """Return a memory file that holds `data`, open for reading only; pages of zeros take no room in it.

    Not sealed: F_SEAL_WRITE fails with EBUSY while the kernel happens to hold a page (seen once in 22,000 times).
    """
    file, blank = os.memfd_create(name, os.MFD_CLOEXEC), bytes(PAGE)
    try:
        os.ftruncate(file, len(data))
        for start in range(0, len(data), PAGE):
            if data[start : start + PAGE] != blank:
                os.pwrite(file, data[start : start + PAGE], start)
        return os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(file)


def page_map_available() -> bool:
    """Whether this system can tell written pages: Linux with a readable page map."""
    try:
        return hasattr(os, "memfd_create") and os.fstat(_pagemap(os.getpid())) is not None
    except OSError:
        return False


@functools.lru_cache(maxsize=1)
def _pagemap(_pid: int) -> int:
    # By process: after a fork of the host the old descriptor would still show the parent's memory.
    return os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)


def _looked_up(base: int, start: int, end: int) -> Extents:
    """Return the written runs between two guest addresses from the map itself."""
    entries = os.pread(_pagemap(os.getpid()), (end - start) // PAGE * 8, (base + start) // PAGE * 8)
    runs = (m.span() for m in _WRITTEN.finditer(entries[7::8]))
    return [(start + first * PAGE, (last - first) * PAGE) for first, last in runs]


def _scanned(base: int, start: int, end: int) -> Extents:
    """Return the written runs between two guest addresses, as the kernel lists them."""
    pagemap, found = _pagemap(os.getpid()), _found
    runs: Extents = []
    at, stop = base + start, base + end
    while at < stop:
        request = bytearray(_scan_request(at, stop, found.address))
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, request)
        at = _SCAN.unpack(request)[_WALK_END]
        words = found.words[: 3 * count].tolist()
        runs += [(first - base, last - first) for first, last in zip(words[::3], words[1::3], strict=True)]
    return runs


def _scan_request(start: int, end: int, vec: int) -> bytes:
    other = _IS_FILE | _IS_ZERO_PAGE  # categories that a written page has not; a zero page was read, not written
    written = _IS_PRESENT | _IS_SWAPPED  # those of which it has one
    return _SCAN.pack(_SCAN.size, 0, start, end, 0, vec, _REGIONS, 0, other, other, written, written)


class _Found(threading.local):
    """Room for what one thread's scans find."""

    def __init__(self) -> None:
        vec = (ctypes.c_uint64 * (3 * _REGIONS))()
        self.address = ctypes.addressof(vec)
        self.words = memoryview(vec).cast("B").cast("Q")


_found = _Found()


@functools.cache
def _scan_available() -> bool:
    try:
        fcntl.ioctl(_pagemap(os.getpid()), _PAGEMAP_SCAN, bytearray(_scan_request(0, PAGE, _found.address)))
    except OSError:
        return False
    return True


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    return libc


def _map(address: int, length: int, flags: int, file: int, offset: int) -> None:
    """Map privately and writable at exactly `address`."""
    if _libc().mmap(address, length, _PROT_READ_WRITE, _MAP_PRIVATE_FIXED | flags, file, offset) != address:
        raise OSError(ctypes.get_errno(), "mmap refused to map pages of a guest")


def _union(extents: Extents) -> Extents:
    """Merge extents that touch or overlap."""
    merged: Extents = []
    for start, length in sorted(extents):
        if merged and start <= merged[-1][0] + merged[-1][1]:
            first = merged[-1][0]
            merged[-1] = (first, max(first + merged[-1][1], start + length) - first)
        else:
            merged.append((start, length))
    return merged

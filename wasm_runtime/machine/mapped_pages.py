"""Which pages of a guest's memory were written, as the Linux kernel reports them.

Theory of operation. Wasmtime maps the image privately from the compiled file, and a page that the guest writes
becomes anonymous: `/proc/self/pagemap` then shows it as present (or swapped) and not file-mapped. Since Linux 6.7 one
ioctl lists the runs of such pages. On older kernels the map is read, eight bytes per page, and one regular expression
over every eighth byte finds the runs. Neither needs privileges.
`madvise(MADV_DONTNEED)` on a private mapping drops the written pages, and the next read sees the file again.

So returning to the image is one system call, and a saved state is the bytes of the written pages. A session that
holds much data would have to copy much before every cell; long runs are therefore *moved to a file*: written to a
memory file and mapped privately from it. From then on they count as unwritten, and DONTNEED returns to the bytes in
that file. A template's memory works the same way for many sessions: one file with a whole memory, mapped over the
image by every session made from the template.
When a session is reset, the template's file is mapped again where runs were moved. The image's cannot be, because only
Wasmtime knows the file: its bytes are written there instead, and are written pages from then on.

Systems without a page map (macOS, Windows) use `CopiedPages`. Sources: Documentation/admin-guide/mm/pagemap.rst;
madvise(2).
"""

import ctypes
import functools
import mmap
import os
import re
import struct
import threading
from collections.abc import Callable

from wasm_runtime.machine.memory import HOST_PAGE_BYTES, Extents, GuestMemory, MemoryRuns
from wasm_runtime.machine.pages import SavedPages
from wasm_runtime.machine.template_memory import TemplateMemory

try:
    import fcntl
except ImportError:  # Windows, which has no page map either
    fcntl = None  # type: ignore[assignment] # absent on this system

# Runs of at least this length are moved to a file once a session has written more than _MOVE_ABOVE in all: a context
# that code has read whole would be copied twice a cell, and moving it takes no longer than two copies.
_LONG_RUN = 64 * HOST_PAGE_BYTES
_MOVE_ABOVE = 1 << 20
# The high byte of an entry: 0x80 present, 0x40 swapped, 0x20 file-mapped or shared.
# Up to two unwritten pages between written ones are included: copying them is cheaper than another run.
_RUN = rb"[\x40-\x5f\x80-\x9f\xc0-\xdf]+"
_WRITTEN = re.compile(_RUN + rb"(?:.{1,2}" + _RUN + rb")*", re.DOTALL)
# PAGEMAP_SCAN is _IOWR('f', 16, struct pm_scan_arg). The struct is: size, flags, start, end, walk_end, vec, vec_len,
# max_pages, category_inverted, category_mask, category_anyof_mask, return_mask. The kernel fills vec with regions of
# three words: start, end, categories.
_PAGEMAP_SCAN = 0xC0606610
_SCAN = struct.Struct("12Q")
_WALK_END = 4
_REGIONS = 2048
_IS_FILE, _IS_PRESENT, _IS_SWAPPED, _IS_ZERO_PAGE = 1 << 2, 1 << 3, 1 << 4, 1 << 5
_PROT_READ_WRITE = 0x3
_MAP_PRIVATE_FIXED = 0x02 | 0x10
_MAP_ANONYMOUS = 0x20


class BufferPool:
    """Buffers for saved pages, reused by the next cell of any session: fresh memory costs a page fault per page."""

    _LARGEST_BYTES = 8 << 20
    # Enough for the cells that compute at the same time on a large machine. Many more may wait for the host, each
    # with its own buffer.
    _MOST_BUFFERS = 8

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        """Return a buffer of at least `size` bytes."""
        try:
            buffer = self._free.pop()
        except IndexError:
            return bytearray(size)
        return buffer if len(buffer) >= size else bytearray(size * 3 // 2)

    def give_back(self, buffer: bytearray) -> None:
        """Keep a buffer for the next cell, unless it is unusually large or there are enough."""
        if len(buffer) <= self._LARGEST_BYTES and len(self._free) < self._MOST_BUFFERS:
            self._free.append(buffer)


class MappedPages:
    """`Pages` by the kernel's page map."""

    def __init__(
        self,
        memory: GuestMemory,
        buffers: BufferPool,
        *,
        image_bytes: int,
        free_stack: tuple[int, int],
        image_part: Callable[[int, int], bytes],
        template: TemplateMemory | None = None,
    ) -> None:
        """`image_bytes` is the length of the image; fresh pages beyond it are zero.

        `free_stack` is (start, end) of the part of the C stack that is free between two cells; its bytes mean nothing
        and are not saved. `image_part` returns bytes of the image by address and length. The file of `template` is
        mapped over the image; `memory` must be at least as long as it.
        """
        self._memory = memory
        self._buffers = buffers
        self._mapped_bytes = image_bytes
        self._free_start, self._free_end = (at // HOST_PAGE_BYTES * HOST_PAGE_BYTES for at in free_stack)
        self._moved: Extents = []
        self._image_bytes, self._image_part, self._template = image_bytes, image_part, template
        self._file: int | None = None
        self._find_written = _scan_page_map if _scan_available() else _read_page_map
        if template is not None and template.file is not None:
            _map(memory.base, template.memory_bytes, 0, template.file, 0)
            self._mapped_bytes = template.memory_bytes

    def save(self) -> SavedPages:
        extents = self._written()
        size = sum([length for _, length in extents])
        if size > _MOVE_ABOVE:
            long = [e for e in extents if e[1] >= _LONG_RUN and e[0] >= self._free_end]
            moved = {e for e in long if self._move_to_file(*e)}
            extents = [e for e in extents if e not in moved]
            size = sum([length for _, length in extents])
        buffer = self._buffers.take(size)
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

    def written(self) -> MemoryRuns:
        return self._bytes(_union([*self._written(), *self._moved]))

    def written_then(self, saved: SavedPages) -> MemoryRuns:
        runs: MemoryRuns = []
        if self._file is not None:
            runs += [(start, os.pread(self._file, length, start)) for start, length in self._moved]
        position = 0
        for start, length in saved.extents:
            runs.append((start, bytes(memoryview(saved.buffer)[position : position + length])))
            position += length
        return runs

    def replace(self, runs: MemoryRuns) -> None:
        moved, self._moved = self._moved, []
        for start, length in moved:
            self._map_initial(start, length)
        self._drop_written()
        if self._template is None:
            for start, length in moved:
                inside = min(length, self._image_bytes - start)
                if inside > 0:
                    self._memory.view(start, inside)[:] = self._image_part(start, inside)
        for start, data in runs:
            self._memory.view(start, len(data))[:] = data

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _written(self) -> Extents:
        # Split where the mapped file ends: a run that begins inside it could not be moved to a file.
        edges = [(0, self._free_start), (self._free_end, self._mapped_bytes), (self._mapped_bytes, self._memory.size)]
        return [extent for start, end in edges for extent in self._find_written(self._memory.base, start, end)]

    def _move_to_file(self, start: int, length: int) -> bool:
        """Move a run to the file; False if the system has no room in it (RLIMIT_FSIZE, for one): it is copied then."""
        view, done = self._memory.view(start, length), 0
        try:
            if self._file is None:
                self._file = os.memfd_create("guest-pages", os.MFD_CLOEXEC)
            while done < length:
                done += os.pwrite(self._file, view[done:], start + done)
        except OSError:
            return False
        _map(self._memory.base + start, length, 0, self._file, start)
        self._moved = _union([*self._moved, (start, length)])
        return True

    def _map_initial(self, start: int, length: int) -> None:
        """Map what lies under the written pages of a fresh memory: the template's file, else zeros."""
        inside = 0 if self._template is None else min(length, max(0, self._mapped_bytes - start))
        if inside and self._template is not None and self._template.file is not None:
            _map(self._memory.base + start, inside, 0, self._template.file, start)
        if inside < length:
            _map(self._memory.base + start + inside, length - inside, _MAP_ANONYMOUS, -1, 0)

    def _drop_written(self) -> None:
        if _libc().madvise(ctypes.c_void_p(self._memory.base), ctypes.c_size_t(self._memory.size), mmap.MADV_DONTNEED):
            raise OSError(ctypes.get_errno(), "madvise could not drop the pages of a guest")

    def _bytes(self, extents: Extents) -> MemoryRuns:
        return [(start, bytes(self._memory.view(start, length))) for start, length in extents]


def page_map_available() -> bool:
    """Whether this system reports written pages: Linux with a readable page map, in pages of 4 KiB."""
    if fcntl is None or not hasattr(os, "memfd_create") or mmap.PAGESIZE != HOST_PAGE_BYTES:
        return False
    try:
        return os.fstat(_pagemap(os.getpid())) is not None
    except OSError:
        return False


@functools.lru_cache(maxsize=1)
def _pagemap(_pid: int) -> int:
    # One per process: after the host has forked, the old descriptor would still show the parent's memory.
    return os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)


def _read_page_map(base: int, start: int, end: int) -> Extents:
    """Return the written runs between two guest addresses by reading the map."""
    page = HOST_PAGE_BYTES
    entries = os.pread(_pagemap(os.getpid()), (end - start) // page * 8, (base + start) // page * 8)
    runs = (m.span() for m in _WRITTEN.finditer(entries[7::8]))
    return [(start + first * page, (last - first) * page) for first, last in runs]


def _scan_page_map(base: int, start: int, end: int) -> Extents:
    """Return the written runs between two guest addresses by asking the kernel for them."""
    pagemap, regions = _pagemap(os.getpid()), _regions
    runs: Extents = []
    at, stop = base + start, base + end
    while at < stop:
        request = bytearray(_scan_request(at, stop, regions.address))
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, request)
        at = _SCAN.unpack(request)[_WALK_END]
        words = regions.words[: 3 * count].tolist()
        runs += [(first - base, last - first) for first, last in zip(words[::3], words[1::3], strict=True)]
    return runs


def _scan_request(start: int, end: int, vec: int) -> bytes:
    excluded = _IS_FILE | _IS_ZERO_PAGE  # a zero page was read, not written
    one_of = _IS_PRESENT | _IS_SWAPPED
    return _SCAN.pack(_SCAN.size, 0, start, end, 0, vec, _REGIONS, 0, excluded, excluded, one_of, one_of)


class _ScannedRegions(threading.local):
    """The array that the kernel fills for one thread's scans."""

    def __init__(self) -> None:
        vec = (ctypes.c_uint64 * (3 * _REGIONS))()
        self.address = ctypes.addressof(vec)
        self.words = memoryview(vec).cast("B").cast("Q")


_regions = _ScannedRegions()


@functools.cache
def _scan_available() -> bool:
    try:
        fcntl.ioctl(
            _pagemap(os.getpid()), _PAGEMAP_SCAN, bytearray(_scan_request(0, HOST_PAGE_BYTES, _regions.address))
        )
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
        raise OSError(ctypes.get_errno(), "mmap could not map the pages of a guest")


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

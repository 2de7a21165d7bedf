"""Linear memory from the host's side: bounds-checked views of the guest's bytes.

Wasmtime reserves 4 GiB of address space for a memory, so its base never moves and only its length grows.
Every pointer and length that comes from the guest passes through `GuestMemory.view`.
"""

import ctypes
import struct

WASM_PAGE_BYTES = 64 << 10
HOST_PAGE_BYTES = 4096  # the unit in which written memory is tracked; the page map is not used where pages are larger

MemoryRuns = list[tuple[int, bytes]]  # (address, bytes)
Extent = tuple[int, int]  # (address, length)
Extents = list[Extent]

# Our words in the first KiB of linear memory, which Emscripten leaves empty (data begins at 1024).
INTERRUPT_ADDRESS = 64  # set by the host: the next signal poll reports SIGINT
KILL_ADDRESS = 128  # set by the host: the next loop head of any function traps

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class BadPointer(Exception):
    """The guest passed a pointer or length outside its memory; it becomes EFAULT."""


class GuestMemory:
    """The bytes of one linear memory: `size` bytes at the address `base` of this process."""

    __slots__ = ("_view", "base", "size")

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.resize(size)

    def resize(self, size: int) -> None:
        """Update the size after the memory has grown."""
        self.size = size
        self._view = memoryview((ctypes.c_ubyte * size).from_address(self.base)).cast("B")

    def view(self, address: int, length: int) -> memoryview:
        """Return a writable view of the `length` bytes at `address`. Raises BadPointer if any lies outside."""
        address &= 0xFFFFFFFF
        if length < 0 or address + length > self.size:
            raise BadPointer(f"{length} bytes at {address:#x} are outside the {self.size} bytes of guest memory")
        return self._view[address : address + length]

    def u32(self, address: int) -> int:
        """Return the unsigned 32-bit word at `address`."""
        return int(_U32.unpack(self.view(address, 4))[0])

    def write_u32(self, address: int, value: int) -> None:
        """Store a 32-bit word."""
        _U32.pack_into(self.view(address, 4), 0, value & 0xFFFFFFFF)

    def write_u64(self, address: int, value: int) -> None:
        """Store a 64-bit word."""
        _U64.pack_into(self.view(address, 8), 0, value & 0xFFFFFFFFFFFFFFFF)

    def c_string(self, address: int, limit: int = 8192) -> bytes:
        """Return the NUL-terminated bytes at `address`. Raises BadPointer if there is no NUL within `limit` bytes."""
        address &= 0xFFFFFFFF
        part = bytes(self.view(address, min(limit, max(0, self.size - address))))
        end = part.find(b"\0")
        if end < 0:
            raise BadPointer(f"no end of string within {len(part)} bytes of {address:#x}")
        return part[:end]

    def poke(self, address: int, value: int) -> None:
        """Store one word from any thread while the guest runs; it is aligned, so the guest never sees half of it."""
        ctypes.c_uint32.from_address(self.base + address).value = value

    def peek(self, address: int) -> int:
        """Return one aligned word, from any thread."""
        return ctypes.c_uint32.from_address(self.base + address).value

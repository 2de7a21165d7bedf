r"""A checkpoint: what a session has that the image has not, as a value.

Bytes: b"WRCP1\n", the length of a JSON header (u32, little-endian), the header, then zstd-compressed bytes of
all runs in order, then the file system's dump. The header names the image: addresses mean nothing in another.
"""

import json
import struct
from dataclasses import dataclass, field

import zstandard

from wasm_runtime.errors import SnapshotMismatch
from wasm_runtime.pages import Runs

_MAGIC = b"WRCP1\n"
_LENGTH = struct.Struct("<I")
_LONGEST_HEADER = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a session between cells. Host calls in flight are not part of it."""

    image: str  # sha256 of the image it was made from
    runs: Runs = field(repr=False)
    memory_bytes: int
    globals: tuple[int, ...]
    files: bytes = field(repr=False)
    execs: int

    def to_bytes(self) -> bytes:
        """Return a form that another process with the same image can restore."""
        header = json.dumps(
            {
                "image": self.image,
                "runs": [(start, len(data)) for start, data in self.runs],
                "memory_bytes": self.memory_bytes,
                "globals": self.globals,
                "files": len(self.files),
                "execs": self.execs,
            }
        ).encode()
        body = b"".join([*(data for _, data in self.runs), self.files])
        return _MAGIC + _LENGTH.pack(len(header)) + header + zstandard.ZstdCompressor(level=1).compress(body)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Checkpoint":
        """Return the checkpoint that `to_bytes` wrote; SnapshotMismatch when the bytes are not one."""
        try:
            return cls._parse(data)
        except (ValueError, KeyError, TypeError, struct.error, zstandard.ZstdError, MemoryError) as error:
            raise SnapshotMismatch(
                f"these {len(data)} bytes are not a whole checkpoint ({error}): it was cut short, or is something else"
            ) from error

    @classmethod
    def _parse(cls, data: bytes) -> "Checkpoint":
        if not data.startswith(_MAGIC):
            raise ValueError("they do not start with its mark")
        (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
        start = len(_MAGIC) + _LENGTH.size
        if length > _LONGEST_HEADER:
            raise ValueError("its header is too long")
        header = json.loads(data[start : start + length])
        expected = sum(size for _, size in header["runs"]) + header["files"]
        body = zstandard.ZstdDecompressor().decompress(data[start + length :], max_output_size=expected)
        if len(body) != expected:
            raise ValueError(f"it holds {len(body)} of {expected} bytes")
        runs: Runs = []
        position = 0
        for address, size in header["runs"]:
            runs.append((int(address), body[position : position + size]))
            position += size
        return cls(
            image=str(header["image"]),
            runs=runs,
            memory_bytes=int(header["memory_bytes"]),
            globals=tuple(int(g) for g in header["globals"]),
            files=body[position:],
            execs=int(header["execs"]),
        )

r"""A checkpoint: the difference between a session and the image, or the template that it began in, as a value.

Format: b"WRCP1\n", the length of a JSON header (u32, little-endian), the header, then the zstd-compressed bytes of
all runs in order and of the file system's dump. The header names the image, because addresses mean nothing in
another one.

A checkpoint without what its session has from its template begins with b"WRCP2\n" instead, and its header names the
template too, by the digest of its memory. It can be read where the template has come to the same memory: each process
makes its own, in a session that is `reproducible`.
"""

import json
import struct
from dataclasses import dataclass, field, replace

import zstandard

from wasm_runtime.errors import SnapshotMismatch
from wasm_runtime.machine.interpreter import GLOBALS
from wasm_runtime.machine.memory import MemoryRuns
from wasm_runtime.machine.template_memory import TemplateMemory

_MAGIC, _MAGIC_ON_TEMPLATE = b"WRCP1\n", b"WRCP2\n"
_LENGTH = struct.Struct("<I")
_LONGEST_HEADER = 16 << 20
_LARGEST_MEMORY = 4 << 30
_MALFORMED = (
    ValueError, KeyError, TypeError, OverflowError, RecursionError, MemoryError, struct.error, zstandard.ZstdError
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a session between cells, without the host calls in flight.

    `runs` is what differs from the memory of the template, or of the image if there is no template.
    """

    image: str  # sha256 of the image it was made from
    runs: MemoryRuns = field(repr=False)
    memory_bytes: int
    globals: tuple[int, ...]
    files: bytes = field(repr=False)
    execs: int
    template: "Template | None" = field(default=None, repr=False)

    def whole(self) -> "Checkpoint":
        """Return the same state as the difference from the image."""
        if self.template is None:
            return self
        return replace(self, runs=self.template.memory.with_runs(self.runs), template=None)

    def to_bytes(self, *, with_template: bool = True) -> bytes:
        """Return bytes from which another process with the same image can restore the state.

        If that has the same template, to be passed to `from_bytes`, they can do without what is in there.
        """
        if self.template is None:
            return self._packed(_MAGIC, self.runs, {})
        if with_template:
            return self.whole().to_bytes()
        runs = self.template.memory.difference(self.runs)
        return self._packed(_MAGIC_ON_TEMPLATE, runs, {"template": self.template.digest})

    def _packed(self, magic: bytes, runs: MemoryRuns, told: dict[str, str]) -> bytes:
        header = json.dumps(
            {
                "image": self.image,
                "runs": [(start, len(data)) for start, data in runs],
                "memory_bytes": self.memory_bytes,
                "globals": self.globals,
                "files": len(self.files),
                "execs": self.execs,
                **told,
            }
        ).encode()
        parts = [*(data for _, data in runs), self.files]
        packer = zstandard.ZstdCompressor(level=1).compressobj(size=sum(map(len, parts)))
        packed = [packer.compress(part) for part in parts]  # one by one: joined, they would be in memory twice
        return b"".join([magic, _LENGTH.pack(len(header)), header, *packed, packer.flush()])

    def require_image(self, image: str) -> None:
        """Raise SnapshotMismatch unless the checkpoint was made by the image with this sha256."""
        if self.image != image:
            raise SnapshotMismatch(
                f"this checkpoint was made by image {self.image[:12]}, this runtime has {image[:12]}: "
                "run the cells again in a new session"
            )

    @classmethod
    def from_bytes(cls, data: bytes, template: "Template | None" = None) -> "Checkpoint":
        """Return the checkpoint that `to_bytes` wrote.

        SnapshotMismatch when the bytes are not one, or one without what is in a template, and `template` is another.
        """
        try:
            return cls._parse(data, template)
        except _MALFORMED as error:
            raise SnapshotMismatch(
                f"these {len(data)} bytes are not a whole checkpoint ({error}): it was cut short, or it is another file"
            ) from error

    @classmethod
    def _parse(cls, data: bytes, template: "Template | None") -> "Checkpoint":
        if not data.startswith((_MAGIC, _MAGIC_ON_TEMPLATE)):
            raise ValueError("they do not start with the magic bytes")
        (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
        start = len(_MAGIC) + _LENGTH.size
        if length > _LONGEST_HEADER:
            raise ValueError("its header is too long")
        header = json.loads(data[start : start + length])
        if data.startswith(_MAGIC):
            template = None
        elif template is None or header["template"] != template.digest:
            raise SnapshotMismatch(
                f"this checkpoint goes with the template {header['template']!r:.20}, the session has "
                f"{template and template.digest!r:.20}: run the cells again in a new session"
            )
        extents = [(int(address), int(size)) for address, size in header["runs"]]
        memory_bytes = int(header["memory_bytes"])
        cells = tuple(int(g) for g in header["globals"])
        files = int(header["files"])
        if (
            files < 0
            or not 0 < memory_bytes <= _LARGEST_MEMORY
            or any(a < 0 or n < 0 or a + n > memory_bytes for a, n in extents)
        ):
            raise ValueError("its pages lie outside its memory")
        if len(cells) != len(GLOBALS) or any(not -(1 << 31) <= g < 1 << 31 for g in cells):
            raise ValueError("its globals are not those of an image")
        packed = data[start + length :]
        expected = sum(size for _, size in extents) + files
        claimed = zstandard.get_frame_parameters(packed).content_size
        if claimed != expected:  # checked before anything is unpacked: a few bytes can unpack to very many
            raise ValueError(f"it holds {claimed} of {expected} bytes")
        body = zstandard.ZstdDecompressor().decompress(packed)
        runs: MemoryRuns = []
        position = 0
        for address, size in extents:
            runs.append((address, body[position : position + size]))
            position += size
        return cls(
            image=str(header["image"]),
            runs=runs,
            memory_bytes=memory_bytes,
            globals=cells,
            files=body[position:],
            execs=int(header["execs"]),
            template=template,
        )


@dataclass(frozen=True, slots=True)
class Template:
    """A state in which sessions start. Made by `Runtime.template`; valid for that Runtime while it is open.

    `digest` is equal for equal memories, also in other processes.
    """

    state: Checkpoint
    memory: TemplateMemory = field(repr=False)
    digest: str

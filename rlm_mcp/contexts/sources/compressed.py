"""Compressed files: gzip, Zstandard, bzip2 and xz, unpacked while they are read, up to a bound on their expansion.

A file that is damaged or cut short is read as far as it goes, and a note says where it ended.
"""

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from rlm_mcp.contexts.sources.source import Readable
from rlm_mcp.errors import SourceRefused

MAX_RATIO = 250
"""Logs compress 10 to 100 times, bombs a thousand times and more."""

FREE_BYTES = 64 << 20
"""Expansion up to this size is harmless, whatever the ratio."""

_MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # the second begins a frame to be skipped
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)"),  # the second is that of an empty file
    "xz": re.compile(rb"\xfd7zXZ\x00"),
}
_SUFFIXES = {".gz": "", ".zst": "", ".bz2": "", ".xz": "", ".tgz": ".tar", ".tbz2": ".tar", ".txz": ".tar"}
_SUFFIXES |= {".tzst": ".tar", ".svgz": ".svg"}


def compression(head: bytes) -> str | None:
    """The compression method of a file, found by its first bytes; None if it is not compressed."""
    return next((name for name, magic in _MAGIC.items() if magic.match(head)), None)


def without_suffix(name: str) -> str:
    """The name without the suffix of a compression."""
    stem, dot, suffix = name.rpartition(".")
    return stem + _SUFFIXES[dot + suffix.lower()] if stem and dot + suffix.lower() in _SUFFIXES else name


class Expansion:
    """How far one file expands, over everything that is unpacked from it, however deeply it is packed.

    `consumed` tells how many bytes of the file were read.
    """

    def __init__(self, name: str, consumed: Callable[[], int]) -> None:
        self._name = name
        self._consumed = consumed
        self._produced = 0
        self.members = 0

    def __repr__(self) -> str:
        return f"<Expansion of {self._name}, {self._produced:,} bytes, {self.members:,} members>"

    def add(self, produced: int) -> None:
        """Counts bytes that were unpacked. Raises SourceRefused when the expansion is that of a bomb."""
        self._produced += produced
        self.check(self._produced)

    def check(self, produced: int) -> None:
        """Raises SourceRefused when so many bytes would be the expansion of a bomb."""
        check_ratio(self._name, produced=produced, consumed=self._consumed())


def check_ratio(name: str, *, produced: int, consumed: int) -> None:
    """Raises SourceRefused when the expansion is that of a bomb."""
    if produced > FREE_BYTES and produced > MAX_RATIO * max(consumed, 1):
        raise SourceRefused(
            f"{name} expands more than {MAX_RATIO} times, {consumed:,} bytes to over {produced:,}, as bombs do: "
            "unpack it yourself if you trust it, and register the result"
        )


def decompress(file: Readable, method: str, *, path: Path, expansion: Expansion, notes: list[str]) -> Readable:
    """What a compressed file holds. Reading raises SourceRefused if it expands too far, or holds nothing readable.

    A note is added to `notes` when it is damaged after something was read.
    """
    return _Decompressed(_reader(file, method), path, expansion, notes)


def _reader(file: Readable, method: str) -> Callable[[int], bytes]:
    raw = cast("BinaryIO", file)  # it is only read, whatever the annotations ask for
    match method:
        case "gzip":
            return gzip.GzipFile(fileobj=raw).read1
        case "bzip2":
            return bz2.BZ2File(raw).read1
        case "xz":
            return lzma.LZMAFile(raw).read1
        case _:
            return _ZstandardReader(file).read


class CountedFile:
    """A file that counts the bytes read of it."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.consumed = 0

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; empty at the end."""
        data = self._file.read(size)
        self.consumed += len(data)
        return data


class _ZstandardReader:
    """Reads consecutive Zstandard frames; unlike the reader of the library, it detects a truncated last frame."""

    FED_BYTES = 2048
    """Four bytes can expand to 128 KiB, so this bounds the output of one step to 64 MiB."""

    def __init__(self, file: Readable) -> None:
        import zstandard

        # 128 MiB is the window of `zstd --ultra --long=27`, and the largest that the zstd tool accepts by default.
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        self._frame = self._decompressor.decompressobj()
        self._begun = False
        self._file = file
        self._ready = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        while not self._ready and self._feed(self._file.read(self.FED_BYTES)):
            pass
        data = bytes(self._ready[:size])
        self._ready = self._ready[size:]
        return data

    def _feed(self, data: bytes) -> bool:
        if not data:
            if self._begun:
                raise EOFError("it ends inside a frame")
            return False
        pieces = []
        while data:
            pieces.append(self._frame.decompress(data))
            self._begun = not self._frame.eof
            data = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = self._decompressor.decompressobj()
        self._ready = memoryview(b"".join(pieces))
        return True


_LEAST_BYTES = 1 << 16
"""Members of a few bytes are read together: a file may have millions of them."""


class _Decompressed:
    """Reads the expanded content, which ends where the compressed file is damaged."""

    def __init__(self, read: Callable[[int], bytes], path: Path, expansion: Expansion, notes: list[str]) -> None:
        self._read = read
        self._path = path
        self._expansion = expansion
        self._notes = notes
        self._produced = 0
        self._ended = False

    def read(self, size: int, /) -> bytes:
        data = bytearray()
        wanted = min(size, _LEAST_BYTES)
        while len(data) < wanted and not self._ended:
            more = self._read_or_end(size - len(data))
            self._ended = self._ended or not more
            data += more
            self._produced += len(more)
            self._expansion.add(len(more))
        return bytes(data)

    def _read_or_end(self, size: int) -> bytes:
        try:
            return self._read(size)
        except Exception as error:  # decoders raise different ones; `is_damage` tells which
            if not is_damage(error):
                raise
            if not self._produced:
                raise damaged(self._path, error) from error
            self._ended = True
            self._notes.append(
                f"{self._path.name} is damaged or cut short ({_reason(error)}): only its first {self._produced:,} "
                "unpacked bytes were read"
            )
            return b""


def is_damage(error: Exception) -> bool:
    """Whether a library that unpacks data raises this for damaged data."""
    if isinstance(error, OSError):
        return error.errno is None  # gzip.BadGzipFile, "Invalid data stream" of bz2
    # ZstdError by name, so that zstandard is imported only for .zst files
    return isinstance(error, EOFError | zlib.error | lzma.LZMAError) or type(error).__name__ == "ZstdError"


def damaged(path: Path, error: Exception) -> SourceRefused:
    """The error for a compressed file or archive that cannot be unpacked."""
    return SourceRefused(
        f"{path} is damaged or cut short ({_reason(error)}): fetch it again, or unpack what can be saved and register "
        "that"
    )


def _reason(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__

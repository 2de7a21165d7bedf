"""Compressed files: gzip, Zstandard, bzip2 and xz, unpacked while they are read, up to a bound on their expansion."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from rlm_mcp.contexts.sources.file import open_regular
from rlm_mcp.contexts.sources.source import OpenPiece, Readable
from rlm_mcp.errors import SourceRefused

MAX_RATIO = 250
"""Logs compress 10 to 100 times, bombs a thousand times and more."""

FREE_BYTES = 64 << 20
"""Expansion up to this size is harmless, whatever the ratio."""

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
_SUFFIXES = {".gz", ".zst", ".bz2", ".xz", ".tgz", ".tbz2", ".txz", ".tzst"}


def compression(head: bytes) -> str | None:
    """The compression method of a file, found by its first bytes; None if it is not compressed."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def without_suffix(name: str) -> str:
    """The name without the suffix of a compression."""
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and dot + suffix.lower() in _SUFFIXES else name


@contextmanager
def open_compressed(path: Path, method: str) -> Iterator[OpenPiece]:
    """Opens a compressed file and reads what it holds. Raises SourceRefused if it is damaged or expands too far."""
    with open_regular(path) as opened:
        counted = _Counted(opened.file)
        try:
            yield OpenPiece(file=_Bounded(_reader(counted, method), counted, path.name), notes=opened.notes)
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise damaged(path, error) from error
        except OSError as error:
            if error.errno is None:  # gzip.BadGzipFile, "Invalid data stream" of bz2
                raise damaged(path, error) from error
            raise
        except Exception as error:
            if type(error).__name__ == "ZstdError":  # by name, so that zstandard is imported only for .zst files
                raise damaged(path, error) from error
            raise


def _reader(file: Readable, method: str) -> Readable:
    raw = cast("BinaryIO", file)  # it is only read, whatever the annotations ask for
    match method:
        case "gzip":
            return gzip.GzipFile(fileobj=raw)
        case "bzip2":
            return bz2.BZ2File(raw)
        case "xz":
            return lzma.LZMAFile(raw)
        case _:
            return _ZstandardReader(file)


class _Counted:
    """A file that counts the bytes read of it."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.consumed = 0

    def read(self, size: int, /) -> bytes:
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


class _Bounded:
    """Reads the expanded content and raises SourceRefused when it looks like a bomb."""

    def __init__(self, reader: Readable, counted: _Counted, name: str) -> None:
        self._reader = reader
        self._counted = counted
        self._name = name
        self._produced = 0

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        self._produced += len(data)
        check_ratio(self._name, produced=self._produced, consumed=self._counted.consumed)
        return data


def check_ratio(name: str, *, produced: int, consumed: int) -> None:
    """Raises SourceRefused when the expansion is that of a bomb."""
    if produced > FREE_BYTES and produced > MAX_RATIO * max(consumed, 1):
        raise SourceRefused(
            f"{name} expands more than {MAX_RATIO} times, {consumed:,} bytes to over {produced:,}, as bombs do: "
            "unpack it yourself if you trust it, and register the result"
        )


def damaged(path: Path, error: Exception) -> SourceRefused:
    """The error for a compressed file or archive that cannot be unpacked."""
    return SourceRefused(
        f"{path} is damaged or cut short ({error}): fetch it again, or unpack what can be saved and register that"
    )

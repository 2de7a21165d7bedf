"""Conversion to UTF-8: the encoding of a file is detected from a sample, then its bytes are converted as they stream.

CRLF, NUL and every valid character are kept. The byte order mark is dropped. Bytes that cannot be decoded are replaced
by U+FFFD and counted. Text that is already UTF-8 passes through unchanged, byte for byte.
"""

import codecs
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from rlm_mcp.contexts.text.code_pages import guess_code_page
from rlm_mcp.errors import SourceRefused

SAMPLE_BYTES = 1 << 18
"""Where a file says what it is; text in another language than the first lines is often found only further on."""

WIDE_CHARS = 1 << 12

BINARY_SHARE = 0.05
"""A text may hold a few control characters, such as escape sequences or the NULs of a torn write, but not more."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is a prefix of it
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\b\x1b")) + b"\x7f"
_BLANKS = " \n\u3000"
_REPLACEMENT = "\ufffd".encode()


_NOT_OF_FILES = frozenset({"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "utf-7"})

Certainty = Literal["certain", "likely", "guessed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """The encoding of a file: the codec, the length of the byte order mark, and how sure it is.

    A mark, UTF-8 and what the user has named are certain; other encodings are recognised by the frequency of letters.
    """

    codec: str
    bom_bytes: int = 0
    certainty: Certainty = "certain"


UTF8 = Encoding(codec="utf-8")


def named_encoding(name: str) -> Encoding:
    """The encoding that a user has named. Raises SourceRefused."""
    try:
        codec = codecs.lookup(name)
        is_text = codec.encode("a")[0] in {b"a", "a".encode(codec.name)} and codec.name not in _NOT_OF_FILES
    except (LookupError, TypeError, ValueError, UnicodeError):
        is_text = False
    if not is_text:
        raise SourceRefused(
            f"{name[:60]!r} is not an encoding of text: name one as Python does, such as cp1252, shift_jis or koi8-r, "
            "or leave it out to have it detected"
        )
    return Encoding(codec=codec.name)


def marked_encoding(sample: bytes) -> Encoding | None:
    """The encoding that the byte order mark of a file tells."""
    for bom, codec in _BOMS:
        if sample.startswith(bom) and not (codec == "utf-32-le" and len(sample) % 4):
            return Encoding(codec=codec, bom_bytes=len(bom))
    return None


def detect(sample: bytes) -> Encoding | None:
    """The encoding of a file, detected from its first `SAMPLE_BYTES`; None if it is binary."""
    if marked := marked_encoding(sample):
        return marked
    is_text = _share(sample, _CONTROLS) <= BINARY_SHARE
    if is_text and _is_utf8(sample):
        return _seven_bit(sample) or UTF8
    if b"\0" in sample and (wide := _wide_without_mark(sample)):
        return wide
    if b"\0" in sample or _share(sample, _CONTROLS) > BINARY_SHARE / 5:
        return None
    if _mostly_utf8(sample):
        return UTF8
    guess = _guess(sample)
    if guess is None and _share(sample, bytes(range(0x80, 0x100))) > 0.3:
        return None
    return guess or UTF8


def _is_utf8(sample: bytes) -> bool:
    """Whether the sample is valid UTF-8, except for a character cut at its end."""
    if sample.isascii():
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def _mostly_utf8(sample: bytes) -> bool:
    """Whether the valid characters beyond ASCII outnumber the invalid bytes."""
    text = sample.decode(errors="replace")
    invalid = text.count("\ufffd")
    return sum(not char.isascii() for char in text) - invalid >= invalid


def _wide_without_mark(sample: bytes) -> Encoding | None:
    """Recognises UTF-16 and UTF-32 without a mark: text of few scripts, with spaces and without odd characters."""
    found: dict[str, int] = {}
    for codec, unit in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        try:
            text = codecs.getincrementaldecoder(codec)().decode(sample[: WIDE_CHARS * unit])
        except UnicodeDecodeError:
            continue
        if _reads_as_text(text):
            found[codec] = sum(map(text.count, _BLANKS))
    return Encoding(codec=max(found, key=found.__getitem__)) if found else None


def _reads_as_text(text: str) -> bool:
    odd = sum(unicodedata.category(char) in {"Cc", "Cn", "Co"} and char not in "\t\n\r\f\b\x1b" for char in text)
    blocks = Counter(_block(char) for char in text)
    usual = sum(n for _, n in blocks.most_common(3))
    return odd <= BINARY_SHARE * len(text) and usual >= 0.8 * len(text) and any(map(text.count, _BLANKS))


def _block(char: str) -> int:
    """A number for the script of a character; all East Asian ones have the same."""
    return 0x30 if "\u3000" <= char <= "\ud7ff" or "\uff00" <= char <= "\uffef" else ord(char) >> 8


def _seven_bit(sample: bytes) -> Encoding | None:
    """ISO-2022, whose bytes are ASCII: escape sequences switch to other characters."""
    found = _guess(sample) if b"\x1b$" in sample and sample.isascii() else None
    return found if found and found.codec.startswith("iso2022") else None


def _guess(sample: bytes) -> Encoding | None:
    found = guess_code_page(sample, is_cut=len(sample) >= SAMPLE_BYTES)
    if found is None:
        return None
    return Encoding(codec=found.codec, certainty="likely" if found.is_likely else "guessed")


def _share(sample: bytes, wanted: bytes) -> float:
    return (len(sample) - len(sample.translate(None, wanted))) / max(len(sample), 1)


class Utf8Stream:
    """Converts chunks of a file to chunks of UTF-8, and counts `invalid_bytes` and `nuls`.

    `encoding` is final only at the end: a file that begins in ASCII may turn out later not to be UTF-8.
    """

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.invalid_bytes = 0
        self.nuls = 0

    def __repr__(self) -> str:
        return f"<Utf8Stream from {self.codec}, {self.invalid_bytes} invalid bytes>"

    @property
    def codec(self) -> str:
        """The codec of the encoding."""
        return self.encoding.codec

    def convert(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Converts a whole file, from its first byte."""
        unmarked = _without_first(chunks, self.encoding.bom_bytes)
        for data in self._pass_through(unmarked) if self.codec == "utf-8" else self._decode(unmarked):
            if b"\0" in data:
                self.nuls += data.count(0)
            yield data

    def _pass_through(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        rest = b""
        ascii_so_far = True
        for chunk in chunks:
            data = rest + chunk if rest else chunk
            rest = b""
            if not data.isascii() or (ascii_so_far and b"\x1b$" in data):
                cut = len(data) - _unfinished(data)
                if ascii_so_far and (foreign := _foreign(data[:cut])):
                    self.encoding = foreign
                    yield from self._decode(chain([data], chunks))
                    return
                data, rest = data[:cut], data[cut:]
                ascii_so_far = ascii_so_far and data.isascii()
                data = self._valid(data)
            yield data
        if rest:
            yield self._valid(rest)

    def _valid(self, data: bytes) -> bytes:
        try:
            data.decode()
        except UnicodeDecodeError:
            mended = data.decode(errors="replace").encode()
            self.invalid_bytes += mended.count(_REPLACEMENT) - data.count(_REPLACEMENT)
            return mended
        return data

    def _decode(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder(self.codec)("replace")
        for chunk in chunks:
            yield self._counted(decoder.decode(chunk))
        yield self._counted(decoder.decode(b"", final=True))

    def _counted(self, text: str) -> bytes:
        self.invalid_bytes += text.count("\ufffd")
        return text.encode(errors="replace")


def _without_first(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The chunks without the first `size` bytes."""
    for chunk in chunks:
        yield chunk[size:] if size else chunk
        size = max(size - len(chunk), 0)


def _foreign(data: bytes) -> Encoding | None:
    """The encoding of the first bytes beyond ASCII in a file; None if it is UTF-8 or unknown."""
    if _is_utf8(data):
        return _seven_bit(data)
    return None if _mostly_utf8(data) else _guess(data)


def _unfinished(data: bytes) -> int:
    """The number of bytes at the end that may be the beginning of a character."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte < 0x80:
            return 0
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < length else 0
    return 0


def encode_text(text: str) -> tuple[bytes, int]:
    """Encodes a string; lone surrogates, which UTF-8 cannot represent, become U+FFFD and are counted."""
    try:
        return text.encode(), 0
    except UnicodeEncodeError:
        lone = sum("\ud800" <= char <= "\udfff" for char in text)
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode(), lone

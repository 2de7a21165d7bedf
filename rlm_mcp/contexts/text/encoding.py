"""Conversion to UTF-8: the encoding of a file is detected from a sample, then its bytes are converted as they stream.

CRLF, NUL and every valid character are kept. The byte order mark is dropped. Bytes that cannot be decoded are replaced
by U+FFFD and counted. Text that is already UTF-8 passes through unchanged, byte for byte.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

SAMPLE_BYTES = 1 << 16
"""Enough to tell text from binary; `git` looks at 8,000 bytes, but formats with a text header need more."""

GUESS_BYTES = 1 << 12
"""How much charset-normalizer gets of the lines that are not ASCII: more takes longer and hardly changes its answer."""

WESTERN = {"cp1252", "latin_1"}
"""Both are read as cp1252, which is Latin-1 with letters and quotes instead of control characters."""

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
_PRINTABLE = bytes(range(32, 127))
_WORD = re.compile(r"[^\W\d_]{3,}")
_REPLACEMENT = "\ufffd".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """The encoding of a file: the codec, and the length of the byte order mark."""

    codec: str
    bom_bytes: int = 0


UTF8 = Encoding(codec="utf-8")


def detect(sample: bytes) -> Encoding | None:
    """The encoding of a file, detected from its first `SAMPLE_BYTES`; None if it is binary."""
    for bom, codec in _BOMS:
        if sample.startswith(bom) and not (codec == "utf-32-le" and len(sample) % 4):
            return Encoding(codec=codec, bom_bytes=len(bom))
    if b"\0" in sample and (wide := _utf16_without_mark(sample)):
        return wide
    if _is_utf8(sample):
        return None if _share(sample, _CONTROLS) > BINARY_SHARE else UTF8
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


def _utf16_without_mark(sample: bytes) -> Encoding | None:
    """Recognises UTF-16 text in a Latin script: every other byte is NUL, the rest is text."""
    even, odd = sample[0::2], sample[1::2]
    for zeros, letters, codec in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros and zeros.count(0) > 0.9 * len(zeros) and _share(letters, _CONTROLS) <= BINARY_SHARE:
            return Encoding(codec=codec)
    return None


def _guess(sample: bytes) -> Encoding | None:
    """The answer of charset-normalizer, if most of the characters beyond ASCII that it decodes are in words."""
    from charset_normalizer import from_bytes

    lines = b"\n".join(line for line in sample.splitlines() if not line.isascii())[:GUESS_BYTES]
    ranked = [match for match in from_bytes(lines) if _extends_ascii(match.encoding)]
    if not ranked or ranked[0].encoding in {"utf_8", "ascii"}:
        return None
    best = ranked[0]
    # A few accents match many code pages; among equally good ones, the Western one is by far the most frequent.
    western = (match for match in ranked if WESTERN & {match.encoding, *match.could_be_from_charset})
    chosen = next((match for match in western if match.chaos <= best.chaos and match.coherence >= best.coherence), best)
    codec = chosen.encoding if chosen is best and chosen.encoding not in WESTERN else "cp1252"
    text = lines.decode(codec, errors="replace")
    foreign = sum(not char.isascii() for char in text)
    in_words = sum(not char.isascii() for word in _WORD.findall(text) for char in word)
    return Encoding(codec=codec) if in_words * 2 >= foreign else None


def _extends_ascii(codec: str) -> bool:
    """Whether the codec decodes ASCII as ASCII. EBCDIC does not; UTF-7 does not either, and is not used for files."""
    return _PRINTABLE.decode(codec, errors="replace") == _PRINTABLE.decode()


def _share(sample: bytes, wanted: bytes) -> float:
    return (len(sample) - len(sample.translate(None, wanted))) / max(len(sample), 1)


class Utf8Stream:
    """Converts chunks of a file to chunks of UTF-8, and counts `invalid_bytes` and `nuls`.

    `codec` is final only at the end: a file that begins in ASCII may turn out later not to be UTF-8.
    """

    def __init__(self, encoding: Encoding) -> None:
        self._bom_bytes = encoding.bom_bytes
        self.codec = encoding.codec
        self.invalid_bytes = 0
        self.nuls = 0

    def __repr__(self) -> str:
        return f"<Utf8Stream from {self.codec}, {self.invalid_bytes} invalid bytes>"

    def convert(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Converts a whole file, from its first byte."""
        unmarked = _without_first(chunks, self._bom_bytes)
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
            if not data.isascii():
                cut = len(data) - _unfinished(data)
                if ascii_so_far and (foreign := _foreign(data[:cut])):
                    self.codec = foreign.codec
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
    if _is_utf8(data) or _mostly_utf8(data):
        return None
    return _guess(data)


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

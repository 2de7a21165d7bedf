"""Sections, of which the text of a document is made, and what all converters need to read one."""

import codecs
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rlm_mcp.contexts.text.encoding import SAMPLE_BYTES, detect
from rlm_mcp.errors import SourceRefused

MAX_DOCUMENT_BYTES = 64 << 20
"""For a web page, a notebook and a message, which are parsed in memory."""

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_MEANT = {
    **dict.fromkeys(("ascii", "usascii", "iso88591", "latin1", "ansi"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk", "gb231280", "euccn", "hzgb"), "gb18030"),
    **dict.fromkeys(("shiftjis", "sjis", "windows31j", "mskanji"), "cp932"),
    **dict.fromkeys(("euckr", "ksc5601", "ksc56011987", "ksc56011989", "windows949"), "cp949"),
    **dict.fromkeys(("iso2022jp",), "iso2022_jp_ext"),
    **dict.fromkeys(("big5",), "big5hkscs"),
    **dict.fromkeys(("iso88599",), "cp1254"),
    **dict.fromkeys(("tis620", "iso885911"), "cp874"),
    **dict.fromkeys(("unicode11utf8", "utf8mb4"), "utf-8"),
}
"""What is used for a character set of this name, without `-` and `_`: these hold more than what they stand for."""

_REPLACEMENT = "\ufffd".encode()
_NOT_FOR_TEXT = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"})
"""Codecs of Python that no document is in; the first two take quadratic time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A page, sheet, slide, cell or message; without a label when the format has none.

    `note` says what it lacks. A section of a note alone holds what the whole document lacks.
    """

    text: str = ""
    label: str | None = None
    note: str | None = None


def read_document(file: BinaryIO, path: Path) -> bytes:
    """A whole document. Raises SourceRefused for one that is too large to be parsed in memory."""
    data = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise too_large(path)
    return data


def too_large(path: Path) -> SourceRefused:
    """The error for a document, or a message in a mailbox, that is too large to be parsed in memory."""
    return SourceRefused(
        f"{path} is a document of over {MAX_DOCUMENT_BYTES >> 20} MiB: convert it yourself and register that"
    )


def decode_document(data: bytes, charset: str | None) -> tuple[str, str | None]:
    """A text in the character set that it names, as far as that goes, and a note if something is wrong with that.

    Without a name that exists it is UTF-8, or an encoding that is detected, or Windows-1252.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data.decode(name, "replace"), None
    declared, is_usual = _codec_of(charset)
    wrong = f"the character set {charset[:40]} is unknown" if charset and not is_usual else None
    text, codec = _decoded(data, declared)
    if codec != declared and declared is not None:
        wrong = f"it is not {declared} as it says"
    if wrong is None and (spoilt := text.count("\ufffd") - data.count(_REPLACEMENT)) > 0:
        return text, f"{spoilt:,} characters that are not {codec} were replaced by U+FFFD"
    return text, wrong and f"{wrong}: read as {codec}"


def _decoded(data: bytes, declared: str | None) -> tuple[str, str]:
    """A text and the codec in which it was read."""
    # What is valid as UTF-8 beyond ASCII is UTF-8, whatever it says.
    for codec in (declared, "utf-8") if data.isascii() or b"\0" in data else ("utf-8", declared):
        try:
            if codec is not None:
                return data.decode(codec), codec
        except ValueError:
            continue
    if declared is not None:
        text = data.decode(declared, "replace")
        if text.count("\ufffd") * 20 <= sum(not char.isascii() for char in text):
            return text, declared
    found = detect(data[:SAMPLE_BYTES])
    codec = "cp1252" if found is None or found.codec == "utf-8" else found.codec
    return data.decode(codec, "replace"), codec


def _codec_of(charset: str | None) -> tuple[str | None, bool]:
    """The codec for the name of a character set, and whether that is a usual name for it.

    Browsers and mailers mean more by some of the names than their standards say.
    """
    name = (charset or "").strip().strip("\"'").lower().replace("_", "-")
    bare = name.removeprefix("x-").removeprefix("cs").replace("-", "")
    for candidate, is_usual in ((_MEANT.get(bare, name), True), (bare, False)):
        try:
            codec = codecs.lookup(candidate).name
        except (LookupError, ValueError):
            continue
        if codec not in _NOT_FOR_TEXT and codecs.lookup(codec)._is_text_encoding:  # noqa: SLF001 - as bytes.decode does
            return codec, is_usual
    return None, False


def import_parser(name: str, path: Path) -> Any:
    """Imports the library that parses `path`. Raises SourceRefused when the extra is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SourceRefused(
            f"{path} is a document that {name} could read, which is not installed: `pip install 'rlm-mcp[documents]'`"
        ) from error

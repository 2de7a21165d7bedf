"""Sections, of which the text of a document is made, and what all converters need to read one."""

import codecs
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rlm_mcp.errors import SourceRefused

MAX_DOCUMENT_BYTES = 64 << 20
"""For a web page, a notebook and a message, which are parsed in memory."""

_NOT_FOR_TEXT = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"})
"""Codecs of Python that no document is in; the first two take quadratic time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A page, sheet, slide, cell or message; without a label when the format has none. `note` says what it lacks."""

    text: str
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


def decode_text(data: bytes, charset: str | None) -> str:
    """A text in the character set that it names, if that exists; else UTF-8, or Windows-1252 if it is not that."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return data.decode(name, "replace")
    for codec in (charset, "utf-8"):
        try:
            if codec and codecs.lookup(codec).name not in _NOT_FOR_TEXT:
                return data.decode(codec)
        except (LookupError, ValueError):
            continue
    return data.decode("cp1252", "replace")


def import_parser(name: str, path: Path) -> Any:
    """Imports the library that parses `path`. Raises SourceRefused when the extra is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SourceRefused(
            f"{path} is a document that {name} could read, which is not installed: `pip install 'rlm-mcp[documents]'`"
        ) from error

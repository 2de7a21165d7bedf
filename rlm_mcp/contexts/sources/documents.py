"""Documents: the text of a PDF, an Office file, an e-book, a web page, a notebook or mail, and where its pages begin.

Each section begins with a line such as `[page 3]`, so that a model that sees only the text can cite the page. The
parsers are third-party libraries that run in this process: their output is bounded in size, but not their time.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from rlm_mcp.contexts.sources.content_key import content_key
from rlm_mcp.contexts.sources.file import refusal
from rlm_mcp.contexts.sources.mail_detection import is_mailbox, is_message
from rlm_mcp.contexts.sources.section import Section
from rlm_mcp.contexts.sources.source import NoteConversion, OpenPiece, no_note
from rlm_mcp.contexts.text.encoding import encode_text
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.contexts.types import PageMark
from rlm_mcp.errors import SourceRefused

MAX_TEXT_BYTES = 512 << 20
"""No genuine document holds more text; a zip bomb in an Office file does."""

MAX_SECTIONS = 200_000
CONVERT_SECONDS = 600.0
"""Looked at after each page: it ends a document of many slow pages, not one that has a single endless one."""
MAX_SECTION_NOTES = 100

CONVERT_IT = "convert it to text yourself and register that, or wait for a version of rlm-mcp that can convert it"

IN_MEMORY_BYTES = 8 << 20

SOURCE_LIKE = frozenset({".html", ".htm", ".ipynb"})
"""Files with these suffixes are source code in a directory, and documents when they are registered by themselves."""

_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OFFICE_SUFFIX = re.compile(r"\.(?:do[ct][xm]|pp[ts][xm]|pot[xm]|xl[st][xm]|xlsb|od[gpst]|ot[pst]|epub)")
_FIRST_MEMBERS = (b"[Content_Types].xml", b"_rels/.rels", b"docProps/", b"word/", b"ppt/", b"xl/")
"""One of these is at the beginning of every Office file."""
_OTHER_PACKAGE = re.compile(r"\.(?:zip|jar|whl|s?nupkg|vsix|appx|appxbundle|msix|o?xps|3mf|dwfx|cspkg)")
"""Zip archives that may begin as Office files do, and are read as archives."""

_TEXTS = {
    **dict.fromkeys((".html", ".htm"), ("webpage", "sections")),
    **dict.fromkeys((".eml", ".emlx", ".mht", ".mhtml"), ("mail", "message")),
    ".mbox": ("mail", "messages"),
    ".ipynb": ("notebook", "sections"),
}

Sections = Callable[[BinaryIO, Path], Iterator[Section]]
"""A converter: it reads an open file; the path is for its errors."""


def converter(name: str, head: bytes, *, in_directory: bool = False) -> Sections | None:
    """The function that converts a document, found by its first bytes; None if it is not a document.

    The name decides only for formats that are texts, and for zip files that do not begin as their format asks for.
    """
    suffix = Path(name).suffix.lower()
    if head.startswith(_ZIP):
        return _function("office", "sections") if _is_package(suffix, head) else None
    if head.startswith(_OLE):
        return _function("office", "older_sections")
    if head.startswith(b"%PDF-") or (suffix == ".pdf" and b"%PDF-" in head):
        return _function("pdf", "sections")
    if head.startswith(b"{\\rtf"):
        return _function("rtf", "sections")
    if is_mailbox(name, head):
        return _function("mail", "messages")
    if is_message(name, head):
        return _function("mail", "message")
    if suffix not in _TEXTS or (in_directory and suffix in SOURCE_LIKE):
        return None
    return _function(*_TEXTS[suffix])


def _function(module: str, name: str) -> Sections:
    """A converter, whose module is imported when the first such document is read."""
    return cast("Sections", getattr(importlib.import_module(f"rlm_mcp.contexts.sources.{module}"), name))


def _is_package(suffix: str, head: bytes) -> bool:
    """Whether a zip file is an Office document, an OpenDocument file or an e-book."""
    if _OFFICE_SUFFIX.fullmatch(suffix):
        return True
    first = head[30:]
    is_office = first.startswith(_FIRST_MEMBERS) and not _OTHER_PACKAGE.fullmatch(suffix)
    return is_office or first.startswith((b"mimetypeapplication/vnd.oasis.opendocument", b"mimetypeapplication/epub"))


@contextmanager
def open_document(
    file: BinaryIO, path: Path, sections: Sections, *, converting: NoteConversion = no_note
) -> Iterator[OpenPiece]:
    """The text of an open document, in a temporary file; `path` is for errors. Raises SourceRefused."""
    with SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as text:
        with converting(content_key(file), path, instead=CONVERT_IT):
            pages, notes = _write(path, partial(sections, file), cast("BinaryIO", text))
        text.seek(0)
        yield OpenPiece(file=text, is_utf8=True, pages=tuple(pages), notes=notes)


def _write(
    path: Path, sections: Callable[[Path], Iterator[Section]], file: BinaryIO
) -> tuple[list[PageMark], list[str]]:
    pages: list[PageMark] = []
    notes: list[str] = []
    timeout = Timeout(CONVERT_SECONDS)
    line = 1
    for section in _sections_of(path, sections):
        if timeout.expired or len(pages) > MAX_SECTIONS:
            raise SourceRefused(
                f"{path} has over {MAX_SECTIONS:,} pages or takes over {CONVERT_SECONDS:.0f} s to convert: "
                "convert it yourself and register that"
            )
        if section.note is not None and len(notes) < MAX_SECTION_NOTES:
            notes.append(f"{path.name}: {section.note}")
        if section.label is None and not section.text:
            continue
        if section.label is not None:
            pages.append(PageMark(line=line, label=section.label))
        mark = "" if section.label is None else f"[{section.label}]\n"
        data, _ = encode_text(mark + section.text.rstrip() + "\n\n")
        file.write(data)
        line += data.count(b"\n")
        if file.tell() > MAX_TEXT_BYTES:
            raise SourceRefused(
                f"{path} holds over {MAX_TEXT_BYTES >> 20} MiB of text: convert it yourself and register that"
            )
    return pages, notes


def _sections_of(path: Path, sections: Callable[[Path], Iterator[Section]]) -> Iterator[Section]:
    """Runs a third-party parser, which may raise any exception. Raises SourceRefused."""
    try:
        yield from sections(path)
    except SourceRefused:
        raise
    except OSError as error:
        raise refusal(path, error) from error
    except Exception as error:  # a parser may raise any
        reason = str(error) or type(error).__name__
        raise SourceRefused(
            f"{path} cannot be read as a document ({reason[:200]}): export it as text and register that"
        ) from error

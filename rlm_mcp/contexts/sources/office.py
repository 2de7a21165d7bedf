"""Office files, OpenDocument files and e-books: which of them a file is, by what it holds."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rlm_mcp.contexts.sources import epub, opendocument, outlook, slides, spreadsheet, word
from rlm_mcp.contexts.sources.package import DocumentPackage, encrypted
from rlm_mcp.contexts.sources.section import Section, read_document
from rlm_mcp.errors import SourceRefused

_KINDS = {
    "document": word.MAIN_PART,
    "presentation": re.compile(r"ppt/presentation\d*\.xml"),
    "workbook": re.compile(r"xl/workbook\d*\.(?:xml|bin)"),
}
"""The root elements of the main parts, and the names that these have when no relation leads to them."""


def sections(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The text of a package, whatever its name says that it is."""
    package = DocumentPackage(file, path)
    if "META-INF/container.xml" in package:
        return epub.sections(file, path)
    if "content.xml" in package:
        return opendocument.sections(file, path)
    main = package.main_part(_KINDS.values())
    if main is None:
        raise SourceRefused(
            f"{path} is a zip file that begins as an Office file does, but holds no document, sheet or slides: "
            "name it .zip to register what it holds"
        )
    if main.endswith(".bin"):
        raise SourceRefused(f"{path} is a binary workbook (.xlsb), which cannot be read here: save it as .xlsx")
    head = next(package.chunks(main), b"")
    kind = next((name for name in _KINDS if re.search(rb"<(?:[\w.-]+:)?%b[\s/>]" % name.encode(), head)), "")
    file.seek(0)
    match kind:
        case "document":
            return word.sections(file, path)
        case "presentation":
            return slides.sections(file, path)
        case "workbook":
            return spreadsheet.sections(file, path)
    raise SourceRefused(f"{path} is an Office file whose main part {main} is of no kind known here: save it again")


def older_sections(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The text of an .xls workbook or an Outlook message; other formats and encrypted files are refused by name."""
    data = read_document(file, path)
    directory = data.lower()  # names of streams do not differ by case
    if _holds(directory, "__properties_version1.0"):  # first, since what is attached may be a compound file too
        return outlook.sections(data, path)
    if _holds(directory, "EncryptedPackage"):
        raise encrypted(path)
    if _holds(directory, "Workbook") or _holds(directory, "Book"):
        return spreadsheet.older_sections(data, path)
    for stream, told in (
        ("WordDocument", "a Word document of before 2007 (.doc): save it as .docx"),
        ("PowerPoint Document", "a presentation of before 2007 (.ppt): save it as .pptx"),
    ):
        if _holds(directory, stream):
            raise SourceRefused(f"{path} is {told} and register that")
    raise SourceRefused(f"{path} is a compound file that holds no workbook: export it as text and register that")


def _holds(directory: bytes, stream: str) -> bool:
    """Whether a compound file has a stream of this name, which its directory spells in UTF-16."""
    return (stream.lower().encode("utf-16-le") + b"\0\0") in directory

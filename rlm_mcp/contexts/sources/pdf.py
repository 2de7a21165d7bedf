"""PDF: the text layer of every page. A scanned page has none, and is marked as such."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rlm_mcp.contexts.sources.section import Section, import_parser
from rlm_mcp.errors import SourceRefused


def sections(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The pages of a PDF."""
    reader = import_parser("pypdf", path).PdfReader(file)
    if reader.is_encrypted and not reader.decrypt(""):
        raise SourceRefused(f"{path} is encrypted: save a copy without a password and register that")
    empty = 0
    for number, page in enumerate(reader.pages, 1):
        text = str(page.extract_text())
        empty += not text.strip()
        yield Section(label=f"page {number}", text=text or "(no text on this page)")
    if empty == len(reader.pages):
        raise SourceRefused(f"{path} has no text on its {empty} pages: run OCR on it first and register the result")

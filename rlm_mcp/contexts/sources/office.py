"""Office files: paragraphs and tables of a document, slides of a presentation, rows of a workbook."""

import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from rlm_mcp.contexts.sources.compressed import check_ratio
from rlm_mcp.contexts.sources.section import Section, import_parser


def paragraphs(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The text of a .docx in reading order; headings begin with `#`, table cells are separated by tabs."""
    _check(file, path)
    document = import_parser("docx", path).Document(file)
    lines: list[str] = []
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            lines.extend(_row(cell.text for cell in row.cells) for row in block.rows)
        elif (style := block.style.name or "").startswith("Heading ") and style[8:].isdigit():
            lines.append(f"{'#' * int(style[8:])} {block.text}")
        else:
            lines.append(block.text)
    yield Section(text="\n".join(lines))


def slides(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The slides of a .pptx with their notes."""
    _check(file, path)
    presentation = import_parser("pptx", path).Presentation(file)
    for number, slide in enumerate(presentation.slides, 1):
        lines: list[str] = []
        for shape in slide.shapes:
            if shape.has_text_frame:
                lines.append(shape.text_frame.text)
            elif shape.has_table:
                lines.extend(_row(cell.text for cell in row.cells) for row in shape.table.rows)
        if slide.has_notes_slide:
            lines.append(f"Notes: {slide.notes_slide.notes_text_frame.text}")
        yield Section(label=f"slide {number}", text="\n".join(lines))


def sheets(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The sheets of an .xlsx as rows of values separated by tabs; formulas as their last computed values."""
    _check(file, path)
    workbook = import_parser("openpyxl", path).load_workbook(file, read_only=True, data_only=True)
    try:
        for sheet in workbook.worksheets:
            rows = (
                _row("" if value is None else str(value) for value in row) for row in sheet.iter_rows(values_only=True)
            )
            yield Section(label=f"sheet {sheet.title}", text="\n".join(row.rstrip("\t") for row in rows))
    finally:
        workbook.close()


def _row(cells: Iterable[str]) -> str:
    return "\t".join(" ".join(cell.split()) for cell in cells)


def _check(file: BinaryIO, path: Path) -> None:
    """Raises SourceRefused for a bomb before the parser unpacks it."""
    with zipfile.ZipFile(file) as archive:
        produced = sum(info.file_size for info in archive.infolist())
    check_ratio(path.name, produced=produced, consumed=file.seek(0, os.SEEK_END))
    file.seek(0)

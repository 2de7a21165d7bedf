"""Presentations: the text of each slide, its tables, groups, charts, diagrams, comments and notes.

python-pptx reads the slides; text of kinds that it does not know is taken from the XML.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from rlm_mcp.contexts.sources.notes import Omissions, one_line
from rlm_mcp.contexts.sources.package import DocumentPackage, Relation
from rlm_mcp.contexts.sources.paragraphs import ShownWords, chart_rows, read_part
from rlm_mcp.contexts.sources.section import Section, import_parser
from rlm_mcp.errors import SourceRefused

_SLIDE = re.compile(r"ppt/slides/slide(\d+)\.xml")
_MAIN_TYPE = re.compile(
    rb"application/vnd\.(?:openxmlformats-officedocument\.presentationml|ms-powerpoint)\.\w+(?:\.macroEnabled)?\.main\+xml"
)
_ORDINARY_TYPE = b"application/vnd.openxmlformats-officedocument.presentationml.presentation.main+xml"
_PICTURES = {"image", "video", "audio", "media"}
_FILES = {"oleObject", "package"}
_GROUPS_DEEP = 50


def sections(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The slides of a .pptx, .pptm, .ppsx or .potx."""
    package = DocumentPackage(file, path)
    omitted = Omissions()
    number = 0
    for number, (name, shapes) in enumerate(_slides(package, omitted), 1):
        related = [item for item in package.related(name) if item.target in package]
        lines = list(_with_left_out(package, name, _lines_of(shapes)))
        lines += _attached(package, related)
        omitted.add("pictures", sum(item.kind in _PICTURES for item in related))
        omitted.add("addresses of links", package.count_links(name))
        omitted.add("embedded files", sum(item.kind in _FILES for item in related))
        yield Section(label=f"slide {number}", text="\n".join(lines))
    if not number:
        raise SourceRefused(f"{path} is a presentation without slides: there is nothing to register")
    yield Section(note=omitted.note())


def _slides(package: DocumentPackage, omitted: Omissions) -> Iterator[tuple[str, Iterable[Any]]]:
    """The name of the part of each slide, and its shapes; none of these if python-pptx cannot read the file."""
    pptx = import_parser("pptx", package.path)
    try:
        with package.plain_copy(_with_ordinary_type) as copy:
            found = [(slide.part.partname.lstrip("/"), slide.shapes) for slide in pptx.Presentation(copy).slides]
    except SourceRefused:
        raise
    except Exception as error:  # noqa: BLE001 - a parser may raise any, and the paragraphs can be read without it
        omitted.say(f"its slides are read without tables, as python-pptx cannot read them ({one_line(error)})")
        matches = filter(None, map(_SLIDE.fullmatch, package.names))
        found = [(match[0], ()) for match in sorted(matches, key=lambda match: int(match[1]))]
    yield from found


def _with_ordinary_type(name: str, data: bytes) -> bytes:
    """Slide shows, templates and files with macros are presentations, but python-pptx refuses some of them."""
    return _MAIN_TYPE.sub(_ORDINARY_TYPE, data) if name == "[Content_Types].xml" else data


def _lines_of(shapes: Iterable[Any], deep: int = 0) -> Iterator[str]:
    for shape in shapes:
        if hasattr(shape, "shapes") and deep < _GROUPS_DEEP:
            yield from _lines_of(shape.shapes, deep + 1)
        elif shape.has_text_frame:
            yield from filter(None, (shape.text_frame.text,))
        elif shape.has_table:
            yield from _rows(shape.table)


def _rows(table: Any) -> Iterator[str]:
    """The rows of a table. Its cells are only listed in linear time when they are asked for all at once."""
    cells = (" ".join(cell.text.split()) for cell in table.iter_cells())
    columns = max(len(table.columns), 1)
    while row := list(islice(cells, columns)):
        yield "\t".join(row)


def _with_left_out(package: DocumentPackage, name: str, lines: Iterable[str]) -> Iterator[str]:
    """The lines of a slide, then the paragraphs of its part that are not among them."""
    shown = list(lines)
    yield from shown
    words = ShownWords("\n".join(shown))
    yield from (text for text in read_part(package, name).paragraphs if not words.take(text))


def _attached(package: DocumentPackage, related: list[Relation]) -> Iterator[str]:
    """The lines of parts that belong to a slide."""
    for item in related:
        match item.kind:
            case "chart" | "chartEx":
                yield from chart_rows(package, item.target)
            case "diagramData":
                yield from read_part(package, item.target).paragraphs
            case "comments":
                yield from (f"Comment: {text}" for text in read_part(package, item.target).paragraphs)
            case "notesSlide":
                yield f"Notes: {_notes(package, item.target)}"


def _notes(package: DocumentPackage, name: str) -> str:
    """The notes of a slide, without the number of its page."""
    tree = package.tree(name)
    for shape in list(tree.iter("sp")):
        placeholder = shape.find("nvSpPr/nvPr/ph")
        if placeholder is not None and placeholder.get("type") in {"sldNum", "sldImg"}:
            shape.clear()
    paragraphs = ("".join(text.text or "" for text in paragraph.iter("t")) for paragraph in tree.iter("p"))
    return "\n".join(filter(None, paragraphs))

"""OpenDocument: the paragraphs of a text, the rows of a spreadsheet, the slides of a presentation.

No library that is looked after keeps text boxes, fields and notes, so the XML is read here, in one pass. Cells of a
table are separated by tabs; numbers of a sheet are given as they are stored. Tracked deletions are only counted.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rlm_mcp.contexts.sources.notes import Omissions
from rlm_mcp.contexts.sources.package import DocumentPackage, encrypted
from rlm_mcp.contexts.sources.section import Section
from rlm_mcp.errors import SourceRefused

MAX_CHARS = 256 << 20
MAX_REPEATED = 16_384
"""The columns of a sheet, and how many blanks or rows one element may stand for."""
_SKIPPED = frozenset(
    {"tracked-changes", "notes-configuration", "forms", "font-face-decls", "automatic-styles", "styles"}
)
_CHARACTERS = {"tab": "\t", "line-break": "\n"}
_LINES = frozenset({"p", "h", "title", "desc"})
_ASIDE = {"note-body": "notes", "annotation": "comments"}
_OMITTED = {
    "image": "pictures",
    "object": "embedded objects",
    "object-ole": "embedded objects",
    "control": "form controls",
}
_ERRORS = ("#", "Err:")
"""How the text of a cell begins whose formula could not be computed; its value is 0 then."""
_NUMBERS = frozenset({"float", "percentage", "currency"})


def sections(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The text of an .odt, .ods, .odp or of their templates."""
    package = DocumentPackage(file, path)
    if "META-INF/manifest.xml" in package and b"encryption-data" in package.read("META-INF/manifest.xml"):
        raise encrypted(path)
    omitted = Omissions()
    reader = _ContentReader(path, omitted)
    package.parse("content.xml", start=reader.start, end=reader.end, data=reader.data)
    yield from (Section(label=label, text="\n".join(lines)) for label, lines in reader.parts if label or lines)
    yield from (Section(label=label, text="\n".join(lines)) for label, lines in reader.aside.items())
    if "styles.xml" in package:
        pages = _ContentReader(path, Omissions())
        package.parse("styles.xml", start=pages.start, end=pages.end, data=pages.data)
        if lines := dict.fromkeys(line for _, found in pages.parts for line in found if line.strip()):
            yield Section(label="headers and footers", text="\n".join(lines))
    if reader.without_value:
        omitted.say(f"formulas without a computed value, which are shown as formulas: {reader.without_value:,}")
    yield Section(note=omitted.note())


@dataclass(slots=True)
class _TableCell:
    """A cell that is being read, and how many columns are equal to it."""

    attributes: dict[str, str]
    lines: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _TableRow:
    """A row that is being read."""

    repeated: int
    cells: list[tuple[str, int]] = field(default_factory=list)


class _ContentReader:
    """Takes the events of a parser. `parts` are the body, or its sheets or slides, each with its lines."""

    def __init__(self, path: Path, omitted: Omissions) -> None:
        self._path = path
        self._omitted = omitted
        self._open: Counter[str] = Counter()
        self._skipped = 0
        self._paragraphs: list[list[str]] = []
        self._rows: list[_TableRow] = []
        self._cells: list[_TableCell] = []
        self._chars = 0
        self._empty_rows = 0
        self._mark = ""
        self._around_comment = 0
        self.parts: list[tuple[str | None, list[str]]] = [(None, [])]
        self.aside: dict[str, list[str]] = {}
        self.without_value = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        if tag == "deletion":
            self._omitted.add("tracked deletions", 1)
        if tag in _SKIPPED or self._skipped:
            self._skipped += 1
            return
        self._open[tag] += 1
        self._omitted.add(_OMITTED.get(tag, ""), tag in _OMITTED)
        self._omitted.add("addresses of links", tag == "a" and not attributes.get("href", "#").startswith("#"))
        if tag in _LINES:
            self._paragraphs.append([self._prefix(tag, attributes)])
        elif tag == "s":
            self._write(" " * _repeated(attributes.get("c")))
        elif tag in _CHARACTERS:
            self._write(_CHARACTERS[tag])
        elif tag == "annotation":
            self._mark = f"[comment {len(self.aside.setdefault('comments', [])) + 1}]"
            self._write(self._mark)
            self._around_comment = len(self._paragraphs)
        elif tag == "table-row":
            self._rows.append(_TableRow(repeated=_repeated(attributes.get("number-rows-repeated"))))
        elif tag in {"table-cell", "covered-table-cell"}:
            self._cells.append(_TableCell(attributes))
        elif tag == "page" and self._open["presentation"] | self._open["drawing"]:
            self.parts.append((f"slide {len(self.parts)}", []))
        elif tag == "table" and self._open["spreadsheet"] and not self._cells:
            self.parts.append((f"sheet {attributes.get('name', '')}", []))
            self._empty_rows = 0
        elif tag == "notes" and self._open["page"]:
            self._add("Notes:")

    def data(self, text: str) -> None:
        """Characters between elements."""
        if self._skipped or not self._paragraphs:
            return
        if self._open["annotation"] and len(self._paragraphs) == self._around_comment:
            if self._open["creator"]:
                self._mark = f"{self._mark[:-1]}, {text}]"
            return
        if self._open["note-citation"] > self._open["note-body"]:
            self._mark = f"[{text}]"
            text = self._mark
        self._write(text)

    def end(self, tag: str) -> None:
        """An element ends."""
        if self._skipped:
            self._skipped -= 1
            return
        if tag in _LINES and self._paragraphs:
            text = "".join(self._paragraphs.pop())
            if tag in {"title", "desc"}:
                text = f"[picture: {text}]"
            self._add(text)
        elif tag in {"table-cell", "covered-table-cell"} and self._cells and self._rows:
            cell = self._cells.pop()
            self._rows[-1].cells.append(
                (self._cell_text(cell), _repeated(cell.attributes.get("number-columns-repeated")))
            )
        elif tag == "table-row" and self._rows:
            self._add_row(self._rows.pop())
        self._open[tag] -= 1

    def _prefix(self, tag: str, attributes: dict[str, str]) -> str:
        if tag == "h":
            return "#" * min(_repeated(attributes.get("outline-level")), 9) + " "
        return "  " * min(self._open["list"] - 1, 9) + "- " if self._open["list"] and tag == "p" else ""

    def _write(self, text: str) -> None:
        if self._paragraphs:
            self._count(len(text))
            self._paragraphs[-1].append(text)

    def _add(self, line: str) -> None:
        """Adds a line where the reader is: aside, in a cell, or in the body."""
        for tag, label in _ASIDE.items():
            if self._open[tag]:
                lines = self.aside.setdefault(label, [])
                if lines and lines[-1].startswith(self._mark):
                    lines[-1] += f" {line}"
                else:
                    lines.append(f"{self._mark} {line}")
                return
        if self._cells:
            self._cells[-1].lines.append(line)
        else:
            self.parts[-1][1].append(line)

    def _add_row(self, row: _TableRow) -> None:
        while row.cells and not row.cells[-1][0]:
            row.cells.pop()
        if not row.cells:
            self._empty_rows += row.repeated
            return
        line = "\t".join(text for text, repeated in row.cells for _ in range(repeated))
        times = row.repeated + self._empty_rows if not self._rows else row.repeated
        self._count(len(line) * row.repeated + times)
        if not self._rows:
            self.parts[-1][1].extend([""] * self._empty_rows)
            self._empty_rows = 0
        for _ in range(row.repeated):
            self._add(line)

    def _cell_text(self, cell: _TableCell) -> str:
        shown = " ".join(" ".join(cell.lines).split())
        if not self._open["spreadsheet"]:
            return shown
        value = cell.attributes.get("value", "")
        if value and cell.attributes.get("value-type") in _NUMBERS and not shown.startswith(_ERRORS):
            return value
        kinds = ("date-value", "time-value", "boolean-value", "string-value")
        stored = shown or next((cell.attributes[kind] for kind in kinds if kind in cell.attributes), "")
        if stored or "value-type" in cell.attributes or "formula" not in cell.attributes:
            return stored
        self.without_value += 1
        return cell.attributes["formula"].removeprefix("of:")

    def _count(self, chars: int) -> None:
        self._chars += chars
        if self._chars > MAX_CHARS:
            raise SourceRefused(
                f"{self._path} holds over {MAX_CHARS >> 20} MiB of text: export it as text and register that"
            )


def _repeated(count: str | None) -> int:
    return min(int(count), MAX_REPEATED) if count and count.isascii() and count.isdigit() else 1

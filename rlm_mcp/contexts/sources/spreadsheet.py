"""Workbooks: the rows of each sheet with cells separated by tabs, then its comments, drawings and charts.

openpyxl reads .xlsx and xlrd reads .xls, both row by row. A formula is shown as the value that was last computed, or
itself if there is none.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, BinaryIO

from rlm_mcp.contexts.sources.notes import Omissions, one_line
from rlm_mcp.contexts.sources.package import DocumentPackage, encrypted
from rlm_mcp.contexts.sources.paragraphs import chart_rows, read_part
from rlm_mcp.contexts.sources.section import Section, import_parser
from rlm_mcp.errors import SourceRefused

MAX_CELLS = 100_000_000
"""With the empty ones left of a cell: a full sheet of a hundred columns."""
MAX_SHEET_CHARS = 512 << 20
MAX_STRINGS_BYTES = 128 << 20
_IN_SHEET = re.compile(rb"<(?:\w+:)?(f|(?:odd|even|first)(?:Header|Footer))[\s>]")
_HELD_WHOLE = re.compile(r"xl/(?:styles|workbook|theme/.*)\.xml|.*\.rels|\[Content_Types\]\.xml|docProps/.*")
"""Parts that openpyxl reads as trees."""
_LONGEST_TAG = 32
_STYLE_NAMES = re.compile(rb"<(?:\w+:)?cellStyles[\s>]")
_AFTER_STYLE_NAMES = re.compile(rb"</(?:\w+:)?cellStyles>")
_CHARTS = re.compile(r"xl/charts/chart\d*\.xml")


def sections(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The sheets of an .xlsx or .xlsm."""
    package = DocumentPackage(file, path)
    if package.size("xl/sharedStrings.xml") > MAX_STRINGS_BYTES:
        raise SourceRefused(
            f"{path} has over {MAX_STRINGS_BYTES >> 20} MiB of strings: export its sheets as CSV and register these"
        )
    for name in filter(_HELD_WHOLE.fullmatch, package.names):
        package.check_size(name)
    omitted = Omissions()
    values, formulas = _open_workbook(package, file, omitted)
    sheets = _Sheets(package, omitted)
    try:
        for sheet, with_formulas in zip(values.worksheets, formulas.worksheets, strict=True):
            rows = sheets.rows(sheet, with_formulas)
            hidden = "" if sheet.sheet_state == "visible" else " (hidden)"
            part = str(sheet._worksheet_path)  # noqa: SLF001 - the sheet has no other name for it
            yield Section(label=f"sheet {sheet.title}{hidden}", text="\n".join(chain(rows, sheets.attached(part))))
    finally:
        values.close()
        formulas.close()
    if charts := list(sheets.charts(filter(_CHARTS.fullmatch, package.names))):
        yield Section(label="charts", text="\n".join(charts))
    omitted.add("macros", sum(name.endswith("vbaProject.bin") for name in package.names))
    if sheets.without_value:
        omitted.say(f"formulas without a computed value, which are shown as formulas: {sheets.without_value:,}")
    yield Section(note=omitted.note())


def _open_workbook(package: DocumentPackage, file: BinaryIO, omitted: Omissions) -> tuple[Any, Any]:
    """The workbook with the values of its formulas, and the same with the formulas."""
    openpyxl = import_parser("openpyxl", package.path)
    source = package.plain_copy() if package.is_strict() else file
    try:
        values = openpyxl.load_workbook(source, read_only=True, data_only=True, keep_links=False)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        omitted.say(f"it is read without the names of its styles, because openpyxl failed ({one_line(error)})")
        source = package.plain_copy(_without_style_names)
        values = openpyxl.load_workbook(source, read_only=True, data_only=True, keep_links=False)
    return values, openpyxl.load_workbook(source, read_only=True, keep_links=False)


def _without_style_names(name: str, data: bytes) -> bytes:
    begin = _STYLE_NAMES.search(data) if name.endswith("/styles.xml") else None
    end = _AFTER_STYLE_NAMES.search(data, begin.end()) if begin else None
    return data[: begin.start()] + data[end.end() :] if begin and end else data


def older_sections(data: bytes, path: Path) -> Iterator[Section]:
    """The sheets of an .xls."""
    xlrd = import_parser("xlrd", path)
    try:
        book = xlrd.open_workbook(file_contents=data, on_demand=True, ragged_rows=True, logfile=_Nowhere())
    except xlrd.XLRDError as error:
        if "encrypted" in str(error):
            raise encrypted(path) from error
        raise
    for index in range(book.nsheets):
        sheet = book.sheet_by_index(index)
        rows = ([_older_value(xlrd, cell, book.datemode) for cell in sheet.row(at)] for at in range(sheet.nrows))
        notes = (
            f"Comment on {_reference(row, column)}: {_one_line(note.text)}"
            for (row, column), note in sorted(sheet.cell_note_map.items())
        )
        hidden = " (hidden)" if sheet.visibility else ""
        yield Section(label=f"sheet {sheet.name}{hidden}", text="\n".join(chain(_lines(path, rows), notes)))
        book.unload_sheet(index)
    yield Section(note="pictures, charts and drawings of an .xls are not read: save it as .xlsx if they matter")


class _Nowhere:
    """Takes the warnings of xlrd, which would otherwise go to stdout."""

    def write(self, _: str) -> None:
        """Drops them."""


def _older_value(xlrd: Any, cell: Any, datemode: int) -> str:
    match cell.ctype:
        case xlrd.XL_CELL_DATE:
            try:
                return str(xlrd.xldate_as_datetime(cell.value, datemode))
            except (ValueError, OverflowError):
                return str(cell.value)
        case xlrd.XL_CELL_BOOLEAN:
            return str(bool(cell.value))
        case xlrd.XL_CELL_ERROR:
            return str(xlrd.error_text_from_code.get(cell.value, cell.value))
        case xlrd.XL_CELL_NUMBER if cell.value.is_integer() and abs(cell.value) < 1e15:
            return str(int(cell.value))
        case _:
            return str(cell.value)


class _Sheets:
    """Reads the sheets of one workbook, and what belongs to them in other parts."""

    def __init__(self, package: DocumentPackage, omitted: Omissions) -> None:
        self._package = package
        self._omitted = omitted
        self._shown: set[str] = set()
        self.without_value = 0
        """the number of formulas that are shown themselves, since no value was computed"""

    def rows(self, sheet: Any, with_formulas: Any) -> Iterator[str]:
        """The rows as they are, whatever size the sheet says that it has."""
        path = self._package.path
        found = self._scan(str(sheet._worksheet_path))  # noqa: SLF001 - the sheet has no other name for it
        for one in (sheet, with_formulas):
            one.reset_dimensions()
        if found["f"]:
            rows = zip(sheet.iter_rows(), with_formulas.iter_rows(), strict=True)
            return _lines(path, ([self._value(*cells) for cells in zip_longest(*pair)] for pair in rows))
        return _lines(path, (map(_text, row) for row in sheet.iter_rows(values_only=True)))

    def _scan(self, part: str) -> dict[str, int]:
        """Whether a sheet has formulas; its headers and footers are counted."""
        found = {"f": 0}
        rest = b""
        for chunk in self._package.chunks(part):
            data = rest + chunk
            end = 0
            for match in _IN_SHEET.finditer(data):
                end = match.end()
                found["f"] |= match[1] == b"f"
                self._omitted.add("headers and footers of sheets", match[1] != b"f")
            rest = data[max(end, len(data) - _LONGEST_TAG) :]
        return found

    def _value(self, cell: Any, formula: Any) -> str:
        if cell is None or cell.value is not None or formula is None or formula.data_type != "f":
            return "" if cell is None else _text(cell.value)
        if cell.data_type == "str":  # the value was computed, and is empty
            return ""
        self.without_value += 1
        return _text(getattr(formula.value, "text", formula.value))

    def attached(self, part: str) -> Iterator[str]:
        """The comments and drawings of a sheet."""
        related = [item for item in self._package.related(part) if item.target in self._package]
        self._omitted.add("addresses of links", self._package.count_links(part))
        threads = [line for item in related if item.kind == "threadedComment" for line in self._thread(item.target)]
        yield from threads
        for item in related:
            if item.kind == "comments":
                yield from self._comments(item.target, without_threads=bool(threads))
            elif item.kind == "drawing":
                yield from self._drawing(item.target)
            else:
                self._omitted.add("embedded files", item.kind in {"oleObject", "package"})

    def _thread(self, part: str) -> Iterator[str]:
        for comment in self._package.tree(part).iter("threadedComment"):
            yield f"Comment on {comment.get('ref')}: {_one_line(''.join(comment.itertext()))}"

    def _comments(self, part: str, *, without_threads: bool) -> Iterator[str]:
        for comment in self._package.tree(part).iter("comment"):
            text = _one_line("".join(comment.itertext()))
            if not (without_threads and text.startswith("[Threaded comment]")):
                yield f"Comment on {comment.get('ref')}: {text}"

    def _drawing(self, part: str) -> Iterator[str]:
        yield from read_part(self._package, part).paragraphs
        related = [item for item in self._package.related(part) if item.target in self._package]
        self._omitted.add("pictures", sum(item.kind == "image" for item in related))
        yield from self.charts(item.target for item in related if item.kind in {"chart", "chartEx"})
        for item in related:
            if item.kind == "diagramData":
                yield from read_part(self._package, item.target).paragraphs

    def charts(self, parts: Iterable[str]) -> Iterator[str]:
        """The charts that were not shown yet."""
        for part in parts:
            if part not in self._shown:
                self._shown.add(part)
                yield from chart_rows(self._package, part)


def _lines(path: Path, rows: Iterable[Iterable[str]]) -> Iterator[str]:
    cells = chars = 0
    for row in rows:
        values = list(row)
        line = "\t".join(map(_one_line, values)).rstrip("\t")
        cells += len(values)
        chars += len(line)
        if cells > MAX_CELLS or chars > MAX_SHEET_CHARS:
            raise SourceRefused(
                f"{path} has a sheet of over {MAX_CELLS:,} cells or {MAX_SHEET_CHARS >> 20} MiB of text: "
                "export it as CSV and register that"
            )
        yield line


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _reference(row: int, column: int) -> str:
    letters = ""
    column += 1
    while column:
        column, letter = divmod(column - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return f"{letters}{row + 1}"

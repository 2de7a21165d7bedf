"""The lines of a page: blanks are collapsed as a browser does, blocks begin lines, and cells of a table share one.

A cell is laid out by itself. It becomes part of its row if it is short, and lines of their own if it is not, as in
tables that only arrange a page. Cells inside more than MAX_NESTED_CELLS others are blocks.
"""

import re
from dataclasses import dataclass, field

MAX_NESTED_CELLS = 6
MAX_INDENT = 8
MAX_CELL_CHARS = 1_000
MAX_CELL_LINES = 12
MAX_SPAN = 100

_BLANKS = re.compile(r"[ \t\n\r\f]+")
_EXPONENT = re.compile(r"[-+\u2212]?\d")
_ORDINAL = re.compile(r"(?:st|nd|rd|th|er|re|e|o|a|\u00ba|\u00aa|\[|\()", re.IGNORECASE)
_UNSEEN_CHARS = {0xA0: " ", 0xAD: None}
"""A blank at which no line is broken, and a hyphen that is shown only there."""


@dataclass(slots=True)
class _CellLines:
    """Lines that are being written; `prefix` begins the next one."""

    done: list[str] = field(default_factory=list)
    line: list[str] = field(default_factory=list)
    prefix: str = ""
    is_open: bool = False
    space: bool = False
    wants_blank: bool = False
    is_block: bool = False
    """whether they hold a list, a table or preformatted text, and cannot become one cell"""


@dataclass(slots=True)
class _Table:
    """A table: the cells of its current row, and in how many more rows each column is taken by a cell from above."""

    row: list[str] = field(default_factory=list)
    taken: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _OpenCell:
    """A cell: the lines around it, and the columns and rows that it spans."""

    around: _CellLines
    columns: int
    rows: int


class PageLayout:
    """Text and marks in, lines out."""

    def __init__(self) -> None:
        self._lines = _CellLines()
        self._around: list[_OpenCell | None] = []
        """for each open cell, how it lies in what is around it; None for one that is a block"""
        self._cells = 0
        self._tables: list[_Table] = []
        self._after_superscript = False

    def finish(self) -> str:
        """The whole text."""
        while self._around:
            self.end_cell()
        self._end_row()
        self.end_line()
        return "\n".join(self._lines.done)

    def add(self, text: str) -> None:
        """Adds text in which blanks are collapsed."""
        text = _BLANKS.sub(" ", text)
        lines = self._lines
        if text.startswith(" "):
            lines.space = lines.is_open
            text = text[1:]
        if shown := text.rstrip(" "):
            self._append(shown.translate(_UNSEEN_CHARS))
        if text.endswith(" "):
            lines.space = lines.is_open

    def add_verbatim(self, text: str) -> None:
        """Adds preformatted text."""
        self._lines.is_block = self._lines.is_block or "\n" in text
        for at, line in enumerate(text.translate(_UNSEEN_CHARS).split("\n")):
            if at:
                self.break_line()
            if line:
                self._append(line)

    def _append(self, text: str) -> None:
        lines = self._lines
        if not lines.is_open:
            self._begin_line()
        elif self._after_superscript:
            before = lines.line[-1][-1:]
            is_exponent = _EXPONENT.match(text) and (before.isalnum() or before == ")")
            if not lines.space and (is_exponent or (before.isdigit() and not _ORDINAL.match(text))):
                lines.line.append("^")
        self._after_superscript = False
        if lines.space:
            lines.line.append(" ")
        lines.line.append(text)
        lines.space = False

    def _begin_line(self) -> None:
        lines = self._lines
        if lines.wants_blank and lines.done and lines.done[-1]:
            lines.done.append("")
        lines.line = [lines.prefix]
        lines.prefix = ""
        lines.is_open, lines.wants_blank, lines.space = True, False, False

    def begin_superscript(self) -> None:
        """The next text is raised: an exponent is not to be read as more digits of a number."""
        self._after_superscript = True

    def add_space(self) -> None:
        """Parts what stands next to each other, such as buttons."""
        self._lines.space = self._lines.is_open

    def end_line(self) -> None:
        """The next text begins a line."""
        lines = self._lines
        if lines.is_open:
            lines.done.append("".join(lines.line))
            lines.is_open = lines.space = False
        self._after_superscript = False

    def break_line(self) -> None:
        """Ends the line, which may be empty."""
        if not self._lines.is_open:
            self._begin_line()
        self.end_line()

    def end_block(self) -> None:
        """The next text comes after an empty line."""
        self.end_line()
        self._lines.wants_blank = True

    def begin_marked_line(self, mark: str, *, depth: int = 0) -> None:
        """The next text begins a line with this mark, such as that of a heading or an item of a list."""
        self.end_line()
        self._lines.is_block = True
        self._lines.prefix = f"{'  ' * min(max(depth - 1, 0), MAX_INDENT)}{mark} "

    def end_mark(self) -> None:
        """A line that was to begin with a mark has ended or was never begun."""
        self.end_line()
        self._lines.prefix = ""

    def begin_table(self) -> None:
        """Begins a table."""
        self.end_block()
        self._lines.is_block = True
        self._tables.append(_Table())

    def end_table(self) -> None:
        """Ends the innermost table."""
        if self._tables:
            self._end_row()
            self._tables.pop()
        self.end_block()

    def begin_row(self) -> None:
        """Begins a row."""
        if self._tables:
            self._end_row()
        self.end_line()

    def begin_cell(self, *, columns: int, rows: int) -> None:
        """Begins a cell that spans so many columns and rows."""
        self.end_line()
        if not self._tables:
            self._tables.append(_Table())
        if self._cells == MAX_NESTED_CELLS:
            self._around.append(None)
            return
        self._around.append(_OpenCell(self._lines, min(max(columns, 1), MAX_SPAN), min(max(rows, 1), MAX_SPAN)))
        self._lines = _CellLines()
        self._cells += 1

    def end_cell(self) -> None:
        """Ends the innermost cell."""
        self.end_line()
        place = self._around.pop() if self._around else None
        if place is None:
            return
        self._cells -= 1
        cell = self._lines
        self._lines = place.around
        table = self._tables[-1] if self._tables else _Table()
        is_short = len(cell.done) <= MAX_CELL_LINES and sum(map(len, cell.done)) <= MAX_CELL_CHARS
        if is_short and not (cell.is_block and len(cell.done) > 1):
            self._add_to_row(table, " ".join(filter(None, cell.done)), place)
            return
        self._end_row()
        self._lines.wants_blank = self._lines.wants_blank or cell.wants_blank
        for line in cell.done:
            if line:
                self._append(line)
                self.end_line()
            else:
                self._lines.wants_blank = True

    def _add_to_row(self, table: _Table, text: str, place: _OpenCell) -> None:
        while table.taken.get(len(table.row), 0) > 0:
            table.taken[len(table.row)] -= 1
            table.row.append("")
        for column in range(place.columns):
            if place.rows > 1:
                table.taken[len(table.row)] = place.rows - 1
            table.row.append("" if column else text)

    def _end_row(self) -> None:
        """Writes the cells of the row that have no lines of their own."""
        table = self._tables[-1] if self._tables else None
        if table is None or not table.row:
            return
        passed = len(table.row)
        left = {column: rows - (column >= passed) for column, rows in table.taken.items()}
        table.taken = {column: rows for column, rows in left.items() if rows > 0}
        if any(table.row):
            self.end_line()
            self._append("\t".join(table.row).rstrip("\t"))
            self.end_line()
        table.row = []

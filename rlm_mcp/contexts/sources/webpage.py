"""A web page: its visible text, with headings marked by `#`, items by `-` or their number, and rows of cells by tabs.

Scripts, styles and hidden elements are left out, and a note counts them. Pages may be hostile, so they are read in one
pass that takes time and memory proportional to their length, whatever they nest or leave open.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rlm_mcp.contexts.sources.notes import Omissions
from rlm_mcp.contexts.sources.page_layout import PageLayout
from rlm_mcp.contexts.sources.section import Section, decode_document, read_document


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PARAGRAPHS = _names("p pre listing blockquote ul ol menu dl hr h1 h2 h3 h4 h5 h6 figure fieldset details")
"""An empty line stands before and after these."""
_BLOCKS = _PARAGRAPHS | _names(
    "address article aside body center dd dialog dir div dt figcaption footer form frameset header hgroup legend li "
    "main nav option optgroup search section summary tbody tfoot thead tr caption table title text"
)
"""A line begins and ends with these; the last is that of a drawing."""
_INLINE_BLOCKS = _names("button select input textarea meter progress label rect")
_CELLS = frozenset(("td", "th"))
_LEFT_OUT = {"script": "scripts", "style": "style sheets", "template": "templates", "iframe": "frames"}
_UNSEEN = frozenset({*_LEFT_OUT, "rp", "annotation", "annotation-xml", "datalist", "metadata"})
_VERBATIM = frozenset(("pre", "listing", "xmp", "plaintext", "textarea"))
_VOID = _names("area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr")
_MARKS = {"del": "~~", "s": "~~", "strike": "~~"}
_BEFORE = {**_MARKS, "q": "\u201c", "rt": "("}
_AFTER = {**_MARKS, "q": "\u201d", "rt": ")"}
_SHOWN_META = frozenset(("description", "author", "keywords", "date"))
_BUTTONS = frozenset(("submit", "reset", "button"))
_BOXES = {("checkbox", True): "[x]", ("checkbox", False): "[ ]", ("radio", True): "(x)", ("radio", False): "( )"}

_ENDED_BY = {
    "li": (("li",), ("ul", "ol", "menu", "dir")),
    **dict.fromkeys(("dt", "dd"), (("dt", "dd"), ("dl",))),
    **dict.fromkeys(("td", "th"), (("td", "th"), ("table",))),
    "tr": (("td", "th", "tr"), ("table",)),
    **dict.fromkeys(("thead", "tbody", "tfoot"), (("td", "th", "tr", "thead", "tbody", "tfoot"), ("table",))),
    "option": (("option",), ("select",)),
    "optgroup": (("option", "optgroup"), ("select",)),
}
"""The elements that end when another begins, unless they lie outside the innermost of those named second."""
_WHOLE = frozenset(("html", "body"))
_OF_TABLES = _names("table thead tbody tfoot tr td th")

_NAME = re.compile(r"</?([a-zA-Z][^\s/>]*)")
_REST_OF_TAG = re.compile(r"""(?:[^"'>]+|"[^"]*"|'[^']*')*+>""")
_ATTRIBUTE = re.compile(r"""([^\s"'>/=]+)(?:\s*+=\s*+("[^"]*"|'[^']*'|[^\s"'=<>`]+))?""")
_RAW_END = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("script", "style", "iframe", "title", "textarea", "xmp", "plaintext")
}
_HIDING = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_PREFORMATTED = re.compile(r"white-space\s*:\s*(?:pre|break-spaces)", re.IGNORECASE)
_CHARSET = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([\w-]{1,40})""", re.IGNORECASE)
_CHARSET_WITHIN = 2048
_MAX_NUMBER = 1_000_000_000


def sections(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The text of an HTML file."""
    data = read_document(file, path)
    found = _CHARSET.search(data[:_CHARSET_WITHIN])
    declared = found[1].decode("ascii", "replace").lower() if found else None
    if declared is not None and declared.startswith(("utf-16", "utf-32")):
        declared = "utf-8"  # in what it says, that could not be read
    page, note = decode_document(data, declared)
    left_out = Omissions()
    text = visible_text(page, left_out)
    if note is not None:
        left_out.say(note)
    yield Section(text=text, note=left_out.note())


def visible_text(page: str, left_out: Omissions | None = None) -> str:
    """The lines of a page as they are shown; what is not shown is added to `left_out`."""
    return _PageReader(page, left_out or Omissions()).text()


@dataclass(slots=True)
class _Element:
    """An element that has begun and not ended."""

    name: str
    unseen: bool
    verbatim: bool


class _PageReader:
    """A page that is read from its start to its end; what is not shown is counted."""

    def __init__(self, page: str, left_out: Omissions) -> None:
        self._left_out = left_out
        self._page = page.replace("\r\n", "\n").replace("\r", "\n")
        self._layout = PageLayout()
        self._open: list[_Element] = []
        self._at: dict[str, list[int]] = {}
        """for each name, where its open elements are"""
        self._blocks: list[int] = []
        """where the open blocks are"""
        self._numbers: list[int | None] = []
        """for each open list, the number of its next item"""
        self._unseen = 0
        self._verbatim = 0
        self._quotes_matter = True

    def text(self) -> str:
        """Reads the page, once."""
        page, at = self._page, 0
        while at < len(page):
            tag = page.find("<", at)
            self._add(page[at : tag if tag >= 0 else len(page)])
            if tag < 0:
                break
            if page.startswith("<!--", tag):
                at = self._after("-->", tag + 4)
                self._left_out.add("comments", 1)
            elif page.startswith(("<!", "<?"), tag):
                at = self._after(">", tag)
            elif (name := _NAME.match(page, tag)) is None:
                at = tag + 1
                self._add("<")
            elif page[tag + 1] == "/":
                at = self._after(">", name.end())
                self._end(name[1].lower())
            else:
                at = self._end_of_tag(name.end())
                at = self._start(name[1].lower(), page[name.end() : at - 1], at)
        self._close(len(self._open))
        return self._layout.finish()

    def _add(self, text: str) -> None:
        if self._unseen or not text:
            return
        text = _unescape(text)
        if self._verbatim:
            self._layout.add_verbatim(text)
        else:
            self._layout.add(text)

    def _after(self, mark: str, start: int) -> int:
        """The position behind the next mark; the end of the page if there is none."""
        found = self._page.find(mark, start)
        return found + len(mark) if found >= 0 else len(self._page)

    def _end_of_tag(self, start: int) -> int:
        """The position behind a tag. After a quotation mark that is never closed, no others are regarded."""
        if self._quotes_matter:
            if found := _REST_OF_TAG.match(self._page, start):
                return found.end()
            self._quotes_matter = False
        return self._after(">", start)

    def _start(self, name: str, written: str, at: int) -> int:
        """Begins an element whose attributes are written so; the position behind it, and behind what is no markup."""
        self._end_before(name)
        attributes = _attributes(written) if written else {}
        style = attributes.get("style", "")
        # A script shows the whole page when it has loaded.
        hidden = name not in _WHOLE and ("hidden" in attributes or _HIDING.search(style) is not None)
        if not self._unseen:
            if hidden:
                self._left_out.add("hidden elements", name not in _UNSEEN and name not in _VOID)
            elif name not in _UNSEEN:
                self._show_start(name, attributes)
            if name in _LEFT_OUT:
                self._left_out.add(_LEFT_OUT[name], 1)
        if name in _VOID:
            return at
        alternative = name == "math" and bool(attributes.get("alttext"))
        element = _Element(
            name=name,
            unseen=hidden or name in _UNSEEN or alternative,
            verbatim=name in _VERBATIM or _PREFORMATTED.search(style) is not None,
        )
        self._push(element)
        if name in _VERBATIM and self._page.startswith("\n", at):
            at += 1
        if raw := _RAW_END.get(name):
            found = raw.search(self._page, at)
            end = found.start() if found else len(self._page)
            self._add(self._page[at:end])
            return end
        return at

    def _end_before(self, name: str) -> None:
        """Ends the elements whose end need not be written before this one begins."""
        if name in _BLOCKS and self._blocks and self._open[self._blocks[-1]].name == "p":
            self._close(len(self._open) - self._blocks[-1])
        if (ends := _ENDED_BY.get(name)) is None:
            return
        around = max(self._last(outer) for outer in ends[1])
        while (last := max(self._last(ended) for ended in ends[0])) > around:
            self._close(len(self._open) - last)

    def _last(self, name: str) -> int:
        """Where the innermost open element of a name is; -1 if there is none."""
        places = self._at.get(name)
        return places[-1] if places else -1

    def _push(self, element: _Element) -> None:
        self._at.setdefault(element.name, []).append(len(self._open))
        if element.name in _BLOCKS or element.name in _CELLS:
            self._blocks.append(len(self._open))
        self._open.append(element)
        self._unseen += element.unseen
        self._verbatim += element.verbatim

    def _show_start(self, name: str, attributes: dict[str, str]) -> None:
        layout = self._layout
        if name in _BLOCKS:
            layout.end_block() if name in _PARAGRAPHS and not self._numbers else layout.end_line()
        elif name in _INLINE_BLOCKS:
            layout.add_space()
        match name:
            case "br":
                layout.break_line()
            case "h1" | "h2" | "h3" | "h4" | "h5" | "h6":
                layout.begin_marked_line("#" * int(name[1]))
            case "li":
                layout.begin_marked_line(self._next_mark(attributes), depth=len(self._numbers))
            case "ul" | "ol" | "menu" | "dir":
                self._numbers.append(_number(attributes.get("start"), 1) if name == "ol" else None)
            case "table":
                layout.begin_table()
            case "tr":
                layout.begin_row()
            case "td" | "th":
                columns, rows = (_number(attributes.get(span), 1) for span in ("colspan", "rowspan"))
                layout.begin_cell(columns=columns, rows=rows)
            case "sup":
                layout.begin_superscript()
            case _:
                self._show_attributes(name, attributes)
        if before := _BEFORE.get(name):
            layout.add(before)

    def _show_attributes(self, name: str, attributes: dict[str, str]) -> None:
        """Shows what a page shows of an element that has its text in attributes."""
        match name:
            case "img" | "area":
                self._left_out.add("images without alternative text", name == "img" and "alt" not in attributes)
                if alternative := attributes.get("alt", "").strip():
                    self._layout.add(f"[image: {alternative}]")
            case "input":
                self._layout.add(_shown_value(attributes))
                self._layout.add_space()
            case "math":
                self._layout.add(attributes.get("alttext", ""))
            case "meta" if attributes.get("name", "").lower() in _SHOWN_META and attributes.get("content"):
                self._layout.end_line()
                self._layout.add(f"[{attributes['name'].lower()}: {attributes['content']}]")
                self._layout.end_line()
            case "optgroup" if attributes.get("label"):
                self._layout.add(attributes["label"])
                self._layout.end_line()
            case "a" if "href" in attributes:
                self._left_out.add("addresses of links", 1)

    def _next_mark(self, attributes: dict[str, str]) -> str:
        """The bullet or number of an item."""
        if not self._numbers or self._numbers[-1] is None:
            return "-"
        number = _number(attributes.get("value"), self._numbers[-1])
        self._numbers[-1] = number + 1
        return f"{number}."

    def _end(self, name: str) -> None:
        """Ends an element and those inside it; an end without a start is ignored, also in the same cell."""
        last = self._last(name)
        if name in {"br", "p"} and last < 0 and not self._unseen:
            self._layout.end_line()
        if last >= 0 and (name in _OF_TABLES or last > max(map(self._last, ("table", "td", "th")))):
            self._close(len(self._open) - last)

    def _close(self, how_many: int) -> None:
        for _ in range(how_many):
            element = self._open.pop()
            name = element.name
            self._at[name].pop()
            if self._blocks and self._blocks[-1] == len(self._open):
                self._blocks.pop()
            self._unseen -= element.unseen
            self._verbatim -= element.verbatim
            if not self._unseen and not element.unseen:
                self._show_end(name)

    def _show_end(self, name: str) -> None:
        layout = self._layout
        if after := _AFTER.get(name):
            layout.add(after)
        match name:
            case "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "li":
                layout.end_mark()
            case "ul" | "ol" | "menu" | "dir" if self._numbers:
                self._numbers.pop()
            case "table":
                layout.end_table()
            case "td" | "th":
                layout.end_cell()
            case "title":
                layout.end_block()
        if name in _BLOCKS:
            layout.end_block() if name in _PARAGRAPHS and not self._numbers else layout.end_line()
        elif name in _INLINE_BLOCKS:
            layout.add_space()


def _attributes(written: str) -> dict[str, str]:
    """The attributes of a tag, of which the first of each name counts."""
    found: dict[str, str] = {}
    for attribute in _ATTRIBUTE.finditer(written):
        value = attribute[2] or ""
        if value[:1] in {'"', "'"}:
            value = value[1:-1]
        found.setdefault(attribute[1].lower(), _unescape(value))
    return found


def _shown_value(attributes: dict[str, str]) -> str:
    """What a page shows of an input."""
    kind = attributes.get("type", "text").lower()
    if kind in {"hidden", "password", "file", "image"}:
        return f"[image: {attributes['alt']}]" if kind == "image" and attributes.get("alt") else ""
    if box := _BOXES.get((kind, "checked" in attributes)):
        return box
    value = attributes.get("value") or attributes.get("placeholder", "")
    return f"[{value}]" if value and kind in _BUTTONS else value


def _number(written: str | None, default: int) -> int:
    text = (written or "").strip()
    return min(int(text), _MAX_NUMBER) if text.isascii() and text.isdigit() and len(text) < 12 else default


def _unescape(text: str) -> str:
    if "&" not in text:
        return text
    try:
        return html.unescape(text)
    except ValueError:  # a number of thousands of digits
        return text

"""A web page: its visible text, with headings marked by `#`, without scripts and styles.

Pages may be hostile, so they are read in one pass that takes time and memory proportional to their length, whatever
they nest or leave open.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rlm_mcp.contexts.sources.section import Section, decode_document, read_document

_BLOCKS = ("p", "div", "section", "article", "pre", "blockquote", "table", "ul", "ol", "dl")
_BEFORE = {
    **dict.fromkeys((*_BLOCKS, "br", "li", "tr", "dt", "dd"), "\n"),
    **{f"h{level}": f"\n\n{'#' * level} " for level in range(1, 7)},
}
_AFTER = {**dict.fromkeys((*_BLOCKS, *(f"h{level}" for level in range(1, 7))), "\n"), "td": "\t", "th": "\t"}
_UNSEEN = frozenset({"script", "style", "noscript", "template"})
_VOID = frozenset(
    (
        "area",
        "base",
        "br",
        "col",
        "embed",
        "hr",
        "img",
        "input",
        "keygen",
        "link",
        "meta",
        "param",
        "source",
        "track",
        "wbr",
    )
)

_NAME = re.compile(r"</?([a-zA-Z][^\s/>]*)")
_REST_OF_TAG = re.compile(r"""(?:[^"'>]+|"[^"]*"|'[^']*')*+>""")
_RAW_END = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in ("script", "style")}
_CHARSET = re.compile(rb"""charset\s*=\s*["']?\s*([\w-]{1,40})""", re.IGNORECASE)
_CHARSET_WITHIN = 2048


def sections(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The text of an HTML file."""
    data = read_document(file, path)
    found = _CHARSET.search(data[:_CHARSET_WITHIN])
    declared = found[1].decode("ascii", "replace").lower() if found else "utf-8"
    charset = "utf-8" if declared.startswith(("utf-16", "utf-32")) else declared  # in which that could not be read
    yield Section(text=visible_text(decode_document(data, charset)[0]))


def visible_text(page: str) -> str:
    """The lines of a page as they are shown, without blanks at either end, and at most one empty line in between."""
    text: list[str] = []
    for line in "".join(_PageReader(page).parts()).splitlines():
        shown = line.strip()
        if shown or (text and text[-1]):
            text.append(shown)
    return "\n".join(text)


class _PageReader:
    """A page that is read from its start to its end. `open` are the elements that have begun and not ended."""

    def __init__(self, page: str) -> None:
        self._page = page
        self._open: list[str] = []
        self._count: Counter[str] = Counter()
        self._unseen = 0
        self._quotes_matter = True

    def parts(self) -> Iterator[str]:
        """The visible text, and what stands for the elements between."""
        page, at = self._page, 0
        while at < len(page):
            tag = page.find("<", at)
            if not self._unseen:
                yield _unescape(page[at : tag if tag >= 0 else len(page)])
            if tag < 0:
                break
            if page.startswith("<!--", tag):
                at = self._after("-->", tag + 4)
            elif page.startswith(("<!", "<?"), tag):
                at = self._after(">", tag)
            elif (name := _NAME.match(page, tag)) is None:
                at = tag + 1
                if not self._unseen:
                    yield "<"
            elif page[tag + 1] == "/":
                at = self._after(">", name.end())
                yield from self._end(name[1].lower())
            else:
                at = self._end_of_tag(name.end())
                yield from self._start(name[1].lower())
                if raw := _RAW_END.get(name[1].lower()):
                    found = raw.search(page, at)
                    at = found.start() if found else len(page)
        yield from self._close(len(self._open))

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

    def _start(self, name: str) -> Iterator[str]:
        if not self._unseen:
            yield _BEFORE.get(name, "")
        if name not in _VOID:
            self._open.append(name)
            self._count[name] += 1
            self._unseen += name in _UNSEEN

    def _end(self, name: str) -> Iterator[str]:
        """Ends an element and those inside it; an end without a start is ignored."""
        if self._count[name]:
            inside = 1
            while self._open[-inside] != name:
                inside += 1
            yield from self._close(inside)

    def _close(self, how_many: int) -> Iterator[str]:
        for _ in range(how_many):
            name = self._open.pop()
            self._count[name] -= 1
            self._unseen -= name in _UNSEEN
            if not self._unseen:
                yield _AFTER.get(name, "")


def _unescape(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # a number of thousands of digits
        return text

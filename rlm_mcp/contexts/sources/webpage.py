"""A web page: its visible text, with headings marked by `#`, without scripts and styles."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rlm_mcp.contexts.sources.section import Section, import_parser

BLOCKS = ["p", "div", "section", "article", "pre", "blockquote", "table", "ul", "ol", "dl"]
LINES = ["br", "li", "tr", "dt", "dd"]


def sections(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The text of an HTML file."""
    page = import_parser("bs4", path).BeautifulSoup(file.read(), "html.parser")
    for unseen in page(["script", "style", "noscript", "template"]):
        unseen.decompose()
    for level in range(1, 7):
        for heading in page(f"h{level}"):
            heading.insert_before("\n\n")
            heading.insert(0, f"{'#' * level} ")
            heading.insert_after("\n")
    for cell in page(["td", "th"]):
        cell.insert_after("\t")
    for block in page(BLOCKS):
        block.insert_before("\n")
        block.insert_after("\n")
    for line in page(LINES):
        line.insert_before("\n")
    text: list[str] = []
    for shown in map(str.strip, page.get_text().splitlines()):
        if shown or (text and text[-1]):
            text.append(shown)
    yield Section(text="\n".join(text))

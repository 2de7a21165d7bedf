"""A web page: its text as one reads it, headings marked with `#`, scripts and styles left out."""

from collections.abc import Iterator
from pathlib import Path

from rlm_mcp.contexts.sources.documents import Section, library

BLOCKS = ["p", "div", "br", "li", "tr", "section", "article", "pre", "blockquote", "table", "ul", "ol", "dt", "dd"]


def sections(path: Path) -> Iterator[Section]:
    """Give the text of an HTML file."""
    page = library("bs4", path).BeautifulSoup(path.read_bytes(), "html.parser")
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
        block.insert_after("\n")
    lines = (" ".join(line.split(" ")).strip() for line in page.get_text().splitlines())
    text: list[str] = []
    for line in lines:
        if line or (text and text[-1]):
            text.append(line)
    yield Section(text="\n".join(text))

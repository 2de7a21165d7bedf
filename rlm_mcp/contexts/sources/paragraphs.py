"""The paragraphs of Office files as their XML has them, whatever a library makes of it.

The libraries that lay a document out leave some kinds of text aside, without telling. So all paragraphs of its parts
are read here too, and those whose words were not shown are given after the rest.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

from rlm_mcp.contexts.sources.package import DocumentPackage

_WORD = re.compile(r"\w+")
_PARAGRAPHS = frozenset({"p", "text"})
_TEXTS = frozenset({"t", "delText", "text"})
_AROUND = frozenset({"del", "moveFrom", "Fallback"})
_LIST = frozenset({"ddList", "result", "listEntry"})
_CHARACTERS = {"tab": "\t", "br": "\n", "cr": "\n", "softHyphen": "\u00ad", "noBreakHyphen": "\u2011"}


class ShownWords:
    """The words of a text, each as often as it stands there."""

    def __init__(self, text: str) -> None:
        self._left = Counter(_WORD.findall(text))

    def take(self, text: str) -> bool:
        """Whether a paragraph is among what was shown; its words then count as found."""
        words = Counter(_WORD.findall(text))
        if any(count > self._left[word] for word, count in words.items()):
            return False
        self._left.subtract(words)
        return True


@dataclass(slots=True)
class PartText:
    """What one part holds: its paragraphs, and how many tracked deletions are not among them."""

    paragraphs: list[str] = field(default_factory=list)
    deletions: int = 0


def read_part(package: DocumentPackage, name: str) -> PartText:
    """The paragraphs of a part of WordprocessingML or DrawingML, and the texts of comments."""
    found = PartText()
    open_paragraphs: list[list[str]] = []
    around: Counter[str] = Counter()
    choices: list[int] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag in _PARAGRAPHS:
            open_paragraphs.append([])
        elif tag in _LIST and open_paragraphs:
            _choose(tag, attributes, choices, open_paragraphs[-1])
        elif tag in _CHARACTERS and open_paragraphs and not around["t"]:
            open_paragraphs[-1].append(_CHARACTERS[tag])
        if tag in _TEXTS or tag in _AROUND:
            around[tag] += 1

    def data(text: str) -> None:
        if around["delText"]:
            around["deleted"] = 1
        elif open_paragraphs and (around["t"] or around["text"]) and not any(around[tag] for tag in _AROUND):
            open_paragraphs[-1].append(text)

    def end(tag: str) -> None:
        if tag in _TEXTS or tag in _AROUND:
            around[tag] -= 1
        if tag == "del":
            found.deletions += around.pop("deleted", 0)
        elif tag in _PARAGRAPHS and (text := "".join(open_paragraphs.pop()).strip()):
            found.paragraphs.append(text)

    package.parse(name, start=start, end=end, data=data)
    return found


def _choose(tag: str, attributes: dict[str, str], choices: list[int], paragraph: list[str]) -> None:
    """Adds the chosen entry of a list in a form, which Word keeps as its index before the entries."""
    number = attributes.get("val", "")
    if tag == "ddList":
        choices[:] = [0]
    elif tag == "result":
        choices[:] = [int(number[:6]) if number.isascii() and number[:6].isdigit() else 0]
    elif choices and choices[0] >= 0:
        if choices[0] == 0:
            paragraph.append(number)
        choices[0] -= 1


def chart_rows(package: DocumentPackage, name: str) -> Iterator[str]:
    """The titles of a chart, then its series: a line for each, with the points as `category: value`."""
    yield from dict.fromkeys(read_part(package, name).paragraphs)
    tree = package.tree(name)
    for kind in ("strDim", "numDim"):  # of the charts that came with Office 2016
        yield from ("\t".join(point.text or "" for point in points.iter("pt")) for points in tree.iter(kind))
    yield from filter(
        None, (" ".join(title.text or "" for title in series.iter("v")) for series in tree.iter("series"))
    )
    for series in tree.iter("ser"):
        title = " ".join(_points(series, "tx").values())
        categories = _points(series, "cat") | _points(series, "xVal")
        values = _points(series, "val") | _points(series, "yVal")
        points = (f"{categories.get(at, at)}: {value}" for at, value in values.items())
        yield "\t".join([title, *points])


def _points(series: ET.Element, kind: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for points in series.iterfind(kind):
        for point in points.iter("pt"):
            found[point.get("idx", "")] = " ".join(point.itertext()).strip()
        if not found and kind == "tx":
            found["0"] = " ".join((value.text or "").strip() for value in points.iter("v"))
    return found

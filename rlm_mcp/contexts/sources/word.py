"""Word documents: the text in reading order, then notes, comments, headers, footers, charts and diagrams.

mammoth reads the document; what it leaves aside is taken from the XML. Headings begin with `#`, items of lists with
`-`, and the cells of a table are separated by tabs. Text of tracked insertions is kept, that of deletions is counted.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rlm_mcp.contexts.sources.notes import Omissions, one_line
from rlm_mcp.contexts.sources.package import MAX_TREE_BYTES, DocumentPackage
from rlm_mcp.contexts.sources.paragraphs import ShownWords, chart_rows, read_part
from rlm_mcp.contexts.sources.section import Section, import_parser
from rlm_mcp.errors import SourceRefused

MAIN_PART = re.compile(r"word/document\d*\.xml")
_NOTES = ("footnote", "endnote")
_WITH_REFERENCES = ("footnotes", "endnotes", "comments")
_AT_THE_END = {
    "header": "headers",
    "footer": "footers",
    "chart": "charts",
    "chartEx": "charts of Office 2016",
    "diagramData": "diagrams",
}
MAX_COLUMNS = 63
"""That Word itself allows for a table."""
_UNWRAPPED = re.compile(rb"""</?(?:\w+:)?(?:fldSimple|ruby|rt|rubyBase)(?=[\s/>])(?:[^"'<>]|"[^"<]*"|'[^'<]*')*>""")
"""Elements of which mammoth skips the content."""
_FIELD = re.compile(
    rb"""<(?:\w+:)?fldChar(?=[\s/>])[^<>]{0,200}?fldCharType\s{0,9}=\s{0,9}["'](begin|end)["'][^<>]{0,200}>"""
)
_FIELDS_DEEP = 50
"""mammoth takes quadratic time for fields that nest; Word itself writes a few levels."""


def sections(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The text of a .docx, .docm or .dotx."""
    package = DocumentPackage(file, path)
    omitted = Omissions()
    main = package.main_part((MAIN_PART,))
    if main is None:
        raise SourceRefused(f"{path} is a Word document without its text: save it again as .docx")
    related = package.related(main)
    document = _read_document(package, main, omitted)
    layout = _Layout(document, omitted)
    yield Section(text="\n".join(layout.body()))
    for label, lines in layout.references():
        yield Section(label=label, text="\n".join(lines))
    for kind, label in _AT_THE_END.items():
        targets = (item.target for item in related if item.kind == kind)
        if at_the_end := dict.fromkeys(_lines_of_parts(package, targets, kind, omitted)):
            yield Section(label=label, text="\n".join(at_the_end))
    parts = [main, *(item.target for item in related if item.kind in _WITH_REFERENCES and item.target in package)]
    if left := list(_not_shown(package, parts, layout.shown, omitted)):
        yield Section(label="other text" if document else None, text="\n".join(left))
    omitted.add("addresses of links", len(layout.links))
    omitted.add("embedded files", sum(item.kind in {"oleObject", "package", "aFChunk"} for item in related))
    omitted.add("macros", sum(item.kind == "vbaProject" for item in related))
    yield Section(note=omitted.note())


def _read_document(package: DocumentPackage, main: str, omitted: Omissions) -> Any:
    """The document as mammoth reads it; None if only its paragraphs can be given."""
    if package.size(main) > MAX_TREE_BYTES:
        omitted.say(f"its text is over {MAX_TREE_BYTES >> 20} MiB of XML, so it is read without tables and headings")
        return None
    mammoth = import_parser("mammoth", package.path)
    found: list[Any] = []

    def keep(document: Any) -> Any:
        found.append(document)
        return document.copy(children=[])

    try:
        with package.plain_copy(lambda name, data: _simpler(data) if name.endswith(".xml") else data) as copy:
            mammoth.convert_to_html(copy, transform_document=keep, include_embedded_style_map=False)
    except SourceRefused:
        raise
    except Exception as error:  # noqa: BLE001 - a parser may raise any, and the paragraphs can be read without it
        omitted.say(f"it is read without tables and headings, as mammoth cannot read it ({one_line(error)})")
    return found[0] if found else None


def _simpler(data: bytes) -> bytes:
    data = _UNWRAPPED.sub(b"", data)
    deep = 0
    for field in _FIELD.finditer(data):
        deep = deep + 1 if field[1] == b"begin" else max(deep - 1, 0)
        if deep > _FIELDS_DEEP:
            return _FIELD.sub(b"", data)
    return data


def _lines_of_parts(package: DocumentPackage, names: Iterable[str], kind: str, omitted: Omissions) -> Iterator[str]:
    for name in dict.fromkeys(names):
        if name not in package:
            continue
        if kind.startswith("chart"):
            yield from chart_rows(package, name)
        else:
            part = read_part(package, name)
            omitted.add("tracked deletions", part.deletions)
            yield from part.paragraphs


def _not_shown(package: DocumentPackage, parts: list[str], shown: str, omitted: Omissions) -> Iterator[str]:
    words = ShownWords(shown)
    for name in dict.fromkeys(parts):
        part = read_part(package, name)
        omitted.add("tracked deletions", part.deletions)
        yield from (text for text in part.paragraphs if not words.take(text))


class _Layout:
    """Writes the document that mammoth read as lines, and gathers the notes and comments that they refer to."""

    def __init__(self, document: Any, omitted: Omissions) -> None:
        self._document = document
        self._omitted = omitted
        self._references: dict[str, dict[str, int]] = {}
        self._lines: list[str] = []
        self.links: set[str] = set()
        """addresses that are not shown"""

    @property
    def shown(self) -> str:
        """All that was written so far."""
        return "\n".join(self._lines)

    def body(self) -> list[str]:
        """The lines of the document itself."""
        return self._written(self._blocks(self._document.children) if self._document else ())

    def references(self) -> Iterator[tuple[str, list[str]]]:
        """Footnotes, endnotes and comments, in the order of the marks in the text; then comments without a mark."""
        if self._document is None:
            return
        comments = {comment.comment_id: comment for comment in self._document.comments}
        for kind in _NOTES:
            if lines := self._written(self._notes(kind)):
                yield f"{kind}s", lines
        for identity in comments:
            self._mark("comment", identity)
        if lines := self._written(self._comments(comments)):
            yield "comments", lines

    def _written(self, lines: Iterable[str]) -> list[str]:
        written = list(lines)
        self._lines += written
        return written

    def _notes(self, kind: str) -> Iterator[str]:
        for identity, number in self._marked(kind):
            body = self._document.notes.find_note(kind, identity).body
            yield f"[{kind} {number}] {' '.join(self._blocks(body))}"

    def _comments(self, comments: dict[str, Any]) -> Iterator[str]:
        for identity, number in self._marked("comment"):
            comment = comments[identity]
            author = f", {comment.author_name}" if comment.author_name else ""
            yield f"[comment {number}{author}] {' '.join(self._blocks(comment.body))}"

    def _marked(self, kind: str) -> list[tuple[str, int]]:
        return list(self._references.get(kind, {}).items())

    def _mark(self, kind: str, identity: str) -> str:
        known = self._references.setdefault(kind, {})
        return f"[{kind} {known.setdefault(identity, len(known) + 1)}]"

    def _blocks(self, children: Iterable[Any]) -> Iterator[str]:
        for child in children:
            match type(child).__name__:
                case "Bookmark":
                    continue
                case "Table":
                    yield from self._blocks(child.children)
                case "TableRow":
                    yield "\t".join(self._cell(cell) for cell in child.children if hasattr(cell, "colspan"))
                case "Paragraph":
                    yield self._prefix(child) + self._inline(child.children)
                case _:
                    yield self._inline([child])

    def _cell(self, cell: Any) -> str:
        text = " ".join(" ".join(self._blocks(cell.children)).split())
        return text + "\t" * (min(int(cell.colspan), MAX_COLUMNS) - 1)

    def _prefix(self, paragraph: Any) -> str:
        name = (paragraph.style_name or "").lower()
        if name.startswith("heading ") and name[8:].isdigit():
            return "#" * min(int(name[8:9]), 9) + " "
        if paragraph.numbering is None:
            return ""
        self._omitted.add("automatic numbers of paragraphs", paragraph.numbering.is_ordered)
        return "  " * min(int(paragraph.numbering.level_index), 9) + "- "

    def _inline(self, children: Iterable[Any]) -> str:
        return "".join(map(self._shown, children))

    def _shown(self, node: Any) -> str:
        match type(node).__name__:
            case "Text":
                return str(node.value)
            case "Tab":
                return "\t"
            case "Break":
                return "\n"
            case "Checkbox":
                return "[x]" if node.checked else "[ ]"
            case "NoteReference":
                return self._mark(node.note_type, node.note_id)
            case "CommentReference":
                return self._mark("comment", node.comment_id)
            case "Hyperlink":
                self.links |= {node.href} - {None}
                return self._inline(node.children)
            case "Image":
                self._omitted.add("pictures", 1)
                return f"[picture: {node.alt_text}]" if node.alt_text else "[picture]"
            case _:
                return self._inline(getattr(node, "children", ()))

"""RTF: the text by striprtf, with notes, comments, headers and footers, which it would leave aside.

These are destinations, groups that begin with a word which says where their content goes. They are rewritten as plain
groups before striprtf sees them, so that they stand where they are anchored.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rlm_mcp.contexts.sources.notes import Omissions
from rlm_mcp.contexts.sources.section import Section, decode_document, import_parser, read_document
from rlm_mcp.errors import SourceRefused

_BRACE = re.compile(
    r"\\[\\{}]|\{\s*(?:\\\*\s*)?\\(footnote|annotation|header|footer|shptxt|dptxbxtext)[lrf]?(?![a-z]) ?|[{}]"
)
"""An escaped character, the beginning of a group that is to be shown, or the beginning or end of another."""
_AROUND_THEM = re.compile(r"(?:\\\*\s*)?\\(?:shp|shpinst|do|result)(?![a-z])")
_FIELD = re.compile(r"\{\s*\\field(?![a-z])", re.IGNORECASE)
"""striprtf looks for links in fields, in time that is not linear."""
_BIN_WITHOUT_LENGTH = re.compile(r"\\bin(?![0-9])")
"""Ends striprtf with an error."""
_FONT = re.compile(r"\\f[0-9]")
"""Each font gets a line and an end of its own: otherwise striprtf takes cubic time for a font that never ends."""
_CODE_PAGE = re.compile(rb"\\ansicpg([0-9]{3,5})")
_COUNTED = {
    "pictures": re.compile(r"\\pict(?![a-z])"),
    "addresses of links": re.compile(r"HYPERLINK +\""),
    "embedded objects": re.compile(r"\\objdata(?![a-z])"),
}
_DELETED = re.compile(r"\\deleted(?![a-z0-9])")
_INLINE = frozenset({"footnote", "annotation"})
_NAMES = {"annotation": "comment", "shptxt": "text box", "dptxbxtext": "text box"}


def sections(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The text of an .rtf."""
    striprtf = import_parser("striprtf.striprtf", path)
    source = _decoded(read_document(file, path))
    omitted = Omissions()
    for kind, pattern in _COUNTED.items():
        omitted.add(kind, sum(1 for _ in pattern.finditer(source)))
    if deleted := sum(1 for _ in _DELETED.finditer(source)):
        omitted.say(f"tracked deletions that are still in the text: {deleted:,}")
    for pattern, replaced in ((_AROUND_THEM, ""), (_FIELD, "{"), (_BIN_WITHOUT_LENGTH, "")):
        source = pattern.sub(replaced, source)
    source = _shown_in_place(source)
    fonts = striprtf.font_table_group(source)
    source = source.replace(fonts, _FONT.sub(r";\n\g<0>", fonts), 1)
    text = striprtf.rtf_to_text(source, errors="replace")
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")
    if not text.strip():
        raise SourceRefused(f"{path} holds no text: open it and save it again, or export it as text")
    yield Section(text=text, note=omitted.note())


def _decoded(data: bytes) -> str:
    """Letters that are not escaped, as they should be, are in UTF-8 or in the code page of the file."""
    found = _CODE_PAGE.search(data)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return decode_document(data, found and f"cp{int(found[1])}")[0]


def _shown_in_place(source: str) -> str:
    """Rewrites each destination that is to be shown as a plain group, as in `[footnote: the note]`."""
    pieces: list[str] = []
    ends: list[str] = []
    done = 0
    for match in _BRACE.finditer(source):
        pieces.append(source[done : match.start()])
        done = match.end()
        name = match[1]
        if name is not None:
            pieces.append("{[" + _NAMES.get(name, name) + ": ")
            ends.append("]" if name in _INLINE else "]\\par ")
        elif match[0] == "}":
            pieces += [ends.pop() if ends else "", "}"]
        else:
            pieces.append(match[0])
            if match[0] == "{":
                ends.append("")
    return "".join([*pieces, source[done:]])

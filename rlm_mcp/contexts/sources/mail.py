"""E-mail: one message or a mailbox, as header lines and the readable body; attachments are only named.

The text of a message is all its text parts in order, those of forwarded messages included. Of alternatives the plain
one is taken, unless it only says that there is another. A part that cannot be decoded costs nothing but itself.

The parser of the standard library takes quadratic time for parameters of headers, and tests every line against all
parts that it may end. So these headers are cut, and a message of too many or too deeply nested parts is left out. The
headers that are shown are decoded here, in linear time.
"""

import re
from collections.abc import Iterator, Sequence
from email.message import Message
from email.parser import BytesFeedParser
from email.policy import Compat32
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

from rlm_mcp.contexts.sources.mail_headers import decode_header_text
from rlm_mcp.contexts.sources.notes import Omissions
from rlm_mcp.contexts.sources.section import MAX_DOCUMENT_BYTES, Section, decode_document, read_document, too_large
from rlm_mcp.contexts.sources.webpage import visible_text
from rlm_mcp.errors import SourceRefused

HEADERS = (
    *("From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Date", "Subject"),
    *("Message-ID", "In-Reply-To", "Resent-From", "Resent-To", "Resent-Date"),
)
_OF_PARTS = ("mime-version", "content-")
"""How the names of headers begin that say how a message is made, not what is in it."""

MAX_HEADER_CHARS = 4096
"""Length of a header with parameters; the rest is cut."""
MAX_ALL_HEADERS_CHARS = 256 << 10
"""For the headers with parameters of one message and its parts, each as often as it is asked for."""
MAX_PARTS, MAX_DEPTH = 5_000, 16
MAX_LINES = 2_000_000
_CHUNK_BYTES = 1 << 16
_STUB_CHARS = 400
"""A plain alternative that is so short, and has less than a third of the letters of the other, only points to that."""

_ENVELOPE_DATE = re.compile(rb"\d\d?:\d\d(?::\d\d)?\b.*\b\d{4}\b|\b\d{4}\b.*\d\d?:\d\d")
_HEADER_LINE = re.compile(rb">From |[!-9;-~]{1,100}[ \t]*:")
_USUAL_HEADER_LINE = re.compile(
    rb"(?:from|to|date|subject|received|return-path|message-id|mime-version|content-type|x-[a-z-]+|delivered-to):",
    re.IGNORECASE,
)
_NOT_SHOWN_PREAMBLE = re.compile(r"mime|multi-?part", re.IGNORECASE)


class _CutHeaders(Compat32):
    """Gives the beginning of each header, while there is a budget for that, and the names of those that were cut."""

    chars_left: list[int] | None = None
    cut: list[str] | None = None

    def header_fetch_parse(self, name: str, value: str) -> Any:
        left = cast("list[int]", self.chars_left)
        shown = value[: min(MAX_HEADER_CHARS, left[0])]
        left[0] -= len(shown)
        if len(shown) < len(value):
            cast("list[str]", self.cut).append(name)
        return shown


def message(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The one message of an .eml file, also as Apple Mail writes it, or of a web archive (.mhtml)."""
    data = read_document(file, path)
    length, end, rest = data.partition(b"\n")
    if path.suffix.lower() == ".emlx" and end and length.strip().isdigit() and len(length) < 20:
        data = rest[: int(length)]
    left_out = Omissions()
    shown = _MessageText(data, path, left_out)
    notes = filter(None, [*shown.notes, left_out.note()])
    yield Section(text="\n".join(shown.lines), note="; ".join(notes) or None)


def messages(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The messages of a mailbox, in order."""
    left_out = Omissions()
    for number, data in enumerate(_split(file), 1):
        label = f"message {number}"
        try:
            shown = _MessageText(data, path, left_out)
        except Exception as error:  # noqa: BLE001 - the parser may raise any
            lost = f"left out: {str(error) or type(error).__name__}"
            yield Section(label=label, text=lost, note=f"{label}: {lost}")
        else:
            note = "; ".join(shown.notes)
            yield Section(label=label, text="\n".join(shown.lines), note=f"{label}: {note}" if note else None)
    yield Section(note=left_out.note())


def _split(file: BinaryIO) -> Iterator[bytes | None]:
    """The messages of a mailbox, without the lines between them; None for one that is too large to be parsed."""
    lines: list[bytes] = []
    size = 0
    begun = False
    after_blank = begins_line = True
    for line, following in pairwise(_lines_and_end(file)):
        if begins_line and _begins_message(line, following, after_blank=after_blank):
            if begun or b"".join(lines).strip():
                yield _joined(lines, size)
            lines, size, begun = [], 0, True
        else:
            size += len(line)
            if size <= MAX_DOCUMENT_BYTES and len(lines) < MAX_LINES:
                lines.append(_unquoted(line) if begins_line else line)
            else:
                size = MAX_DOCUMENT_BYTES + 1
        after_blank = begins_line and not line.strip()
        begins_line = line.endswith(b"\n")
    if begun or b"".join(lines).strip():
        yield _joined(lines, size)


def _lines_and_end(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file in pieces of bounded length, and an empty one."""
    while line := file.readline(_CHUNK_BYTES):
        yield line
    yield b""


def _begins_message(line: bytes, following: bytes, *, after_blank: bool) -> bool:
    """Whether this line is the envelope of a message, not a line of text that some writers leave unquoted."""
    if not line.startswith(b"From "):
        return False
    dated = _ENVELOPE_DATE.search(line[:200]) is not None
    if after_blank and dated:
        return True
    return (_HEADER_LINE if dated else _USUAL_HEADER_LINE).match(following) is not None


def _unquoted(line: bytes) -> bytes:
    """A line as it was before `From ` at its start was quoted for the mailbox."""
    return line[1:] if line.startswith(b">") and line.lstrip(b">").startswith(b"From ") else line


def _joined(lines: Sequence[bytes], size: int) -> bytes | None:
    return b"".join(lines) if size <= MAX_DOCUMENT_BYTES else None


class _Part(Message):
    """A part whose payload the library decodes to bytes only, not to text in any codec that the part may name."""

    def get_param(self, param: str, failobj: Any = None, header: str = "content-type", unquote: bool = True) -> Any:  # noqa: FBT001, FBT002 - as the library calls it
        return "ascii" if param == "charset" else super().get_param(param, failobj, header, unquote)

    def charset(self) -> str | None:
        """The character set that the part names."""
        named = super().get_param("charset")
        return named if isinstance(named, str) else None

    def inside(self) -> "list[_Part] | None":
        """The parts in this one; None if it has none of its own."""
        payload = self.get_payload()
        return cast("list[_Part]", payload) if isinstance(payload, list) else None


def _parse(data: bytes, path: Path, policy: _CutHeaders) -> _Part:
    """Raises SourceRefused for a message of too many parts or lines."""
    parts = 0
    stack: list[object] = []

    def new_part(policy: Any) -> _Part:
        nonlocal parts
        parts += 1
        if parts > MAX_PARTS or len(stack) > MAX_DEPTH:
            raise SourceRefused(
                f"{path} has a message of over {MAX_PARTS:,} parts, or parts nested over {MAX_DEPTH} deep: "
                "save its text and register that"
            )
        return _Part(policy)

    if data.count(b"\n") > MAX_LINES:
        raise SourceRefused(f"{path} has a message of over {MAX_LINES:,} lines: save its text and register that")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")  # a blank line would end the headers
    parser = BytesFeedParser(new_part, policy=policy)  # type: ignore[arg-type] # annotated for one class of messages
    stack = parser._msgstack  # type: ignore[attr-defined] # noqa: SLF001 - the parts around the one that begins
    for start in range(0, len(data), _CHUNK_BYTES):
        parser.feed(data[start : start + _CHUNK_BYTES])
    return cast("_Part", parser.close())


class _MessageText:
    """The text of a message, in `lines` that may hold line ends; what is not in it is counted in `left_out`."""

    def __init__(self, data: bytes | None, path: Path, left_out: Omissions) -> None:
        if data is None:
            raise too_large(path)
        self.lines: list[str] = []
        self.notes: list[str] = []
        self._path = path
        self._left_out = left_out
        policy = _CutHeaders(chars_left=[MAX_ALL_HEADERS_CHARS], cut=[])  # type: ignore[call-arg] # a policy takes each attribute of its class
        self._add_message(_parse(data, path, policy))
        if cut := sorted(set(cast("list[str]", policy.cut))):
            self.notes.append(f"headers were cut after {MAX_HEADER_CHARS:,} characters: {', '.join(cut)[:200]}")

    def _add_message(self, part: _Part) -> None:
        headers: dict[str, list[str]] = {}
        for name, value in part.raw_items():  # before they are parsed
            headers.setdefault(name.lower(), []).append(str(value))
        for shown in HEADERS:
            for value in headers.pop(shown.lower(), ()):
                if text := decode_header_text(value):
                    self.lines.append(f"{shown}: {text}")
        others = sum(len(values) for name, values in headers.items() if not name.startswith(_OF_PARTS))
        self._left_out.add("other headers", others)
        self.lines.append("")
        self._add_part(part)

    def _add_part(self, part: _Part, *, with_text: bool = True) -> None:
        """Adds the text of a part and of those in it; without it, only its attachments are named."""
        kind = part.get_content_type()
        inside = part.inside()
        if inside is None:
            self._add_leaf(part, kind, with_text=with_text)
        elif kind == "message/delivery-status":
            for group in inside:
                self.lines += [f"{name}: {decode_header_text(str(value))}" for name, value in group.raw_items()]
                self._add_part(group)
                self.lines.append("")
        elif kind.startswith("message/"):
            name = self._name(part)
            self.lines.append(f"[forwarded message{f' {name}' if name else ''}]")
            for forwarded in inside:
                self._add_message(forwarded)
        elif kind == "multipart/alternative":
            self._add_alternatives(inside, with_text=with_text)
        else:
            self._add_text_around(part.preamble, with_text=with_text)
            for each in inside:
                self._add_part(each, with_text=with_text)
            self._add_text_around(part.epilogue, with_text=with_text)

    def _add_text_around(self, text: str | None, *, with_text: bool) -> None:
        """Adds what stands before or after the parts of a message, unless it is the usual hint for old programs."""
        if with_text and text and text.strip() and not _NOT_SHOWN_PREAMBLE.search(text[:500]):
            self.lines.append(self._decoded(text.encode("utf-8", "surrogateescape"), None))

    def _add_alternatives(self, parts: list[_Part], *, with_text: bool) -> None:
        """Adds the plain alternative, or the richest one that has text if there is none."""
        shown = None
        texts: list[tuple[_Part, str]] = []
        if with_text:
            texts = [(part, self._text_of_alternative(part)) for part in parts]
            plain = next((at for at, text in enumerate(texts) if text[1].strip()), None)
            longest = max(range(len(texts)), key=lambda at: len(texts[at][1]), default=None)
            if plain is not None and longest is not None:
                is_stub = len(texts[plain][1]) < min(_STUB_CHARS, len(texts[longest][1]) // 3)
                shown = texts[longest if is_stub else plain][0]
        self._left_out.add("other alternatives", sum(part is not shown and bool(text.strip()) for part, text in texts))
        for part in parts:
            is_shown = part is shown or part.get_content_type() == "text/calendar"
            self._add_part(part, with_text=with_text and is_shown)

    def _text_of_alternative(self, part: _Part) -> str:
        """The text of an alternative, to compare it with the others; that of a page is the longest one in it."""
        inside = part.inside()
        if inside is not None:
            return max((self._text_of_alternative(each) for each in inside), key=len, default="")
        return self._shown_text(part) if part.get_content_maintype() == "text" else ""

    def _add_leaf(self, part: _Part, kind: str, *, with_text: bool) -> None:
        name = self._name(part)
        is_text = kind.startswith(("text/", "message/", "multipart/"))
        is_attached = name or part.get_content_disposition() == "attachment"
        if not is_text or (is_attached and kind != "text/calendar"):
            self.lines.append(f"[attachment {name or 'without a name'}, {kind}]")
        if not is_text:
            self._left_out.add(f"attachments of type {kind}", 1)
        elif (with_text or is_attached) and (text := self._shown_text(part, noted=True)):
            self.lines.append(text)

    def _shown_text(self, part: _Part, *, noted: bool = False) -> str:
        data = part.get_payload(decode=True)
        if not isinstance(data, bytes):
            return ""
        text = self._decoded(data, part.charset(), noted=noted)
        if part.get_content_type() != "text/html":
            return text
        return visible_text(text, self._left_out if noted else None)

    def _decoded(self, data: bytes, charset: str | None, *, noted: bool = False) -> str:
        text, note = decode_document(data, charset)
        if noted and note is not None:
            self.notes.append(note)
        text = text.replace("\r\n", "\n")
        return text.strip("\n") + "\n" * text.endswith("\n")

    def _name(self, part: _Part) -> str:
        name = part.get_filename() or part.get_param("name", "", "content-type") or ""
        return " ".join(decode_header_text(name).split()) if isinstance(name, str) else ""

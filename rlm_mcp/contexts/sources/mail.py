"""E-mail: one message or a mailbox, as header lines and the readable body; attachments are only named.

The parser of the standard library takes kilobytes and quadratic time for some headers, and tests every line against all
parts that it may end. So headers are cut, and a message of too many or too deeply nested parts is left out.
"""

from collections.abc import Iterator
from email.message import EmailMessage, MIMEPart
from email.parser import BytesFeedParser
from email.policy import EmailPolicy
from pathlib import Path
from typing import Any, BinaryIO, cast

from rlm_mcp.contexts.sources.section import MAX_DOCUMENT_BYTES, Section, decode_text, read_document, too_large
from rlm_mcp.errors import SourceRefused

HEADERS = ("From", "To", "Cc", "Date", "Subject")

MAX_HEADER_CHARS = 4096
"""About a hundred recipients; the rest of a header is cut."""
MAX_ALL_HEADERS_CHARS = 256 << 10
"""For all headers of one message and its parts, each as often as it is asked for."""
MAX_PARTS, MAX_DEPTH = 5_000, 16
MAX_LINES = 2_000_000
_CHUNK_BYTES = 1 << 16


class _CutHeaders(EmailPolicy):
    """Parses the beginning of each header, while there is a budget for that, and counts those that were cut."""

    chars_left: list[int] | None = None
    cut: list[str] | None = None

    def header_fetch_parse(self, name: str, value: str) -> Any:
        left = cast("list[int]", self.chars_left)
        shown = value[: min(MAX_HEADER_CHARS, left[0])]
        left[0] -= len(shown)
        if len(shown) < len(value):
            cast("list[str]", self.cut).append(name)
        return super().header_fetch_parse(name, shown)


def message(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The one message of an .eml file."""
    text, note = _text(read_document(file, path), path)
    yield Section(text=text, note=note)


def messages(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The messages of a mailbox, in order."""
    for number, data in enumerate(_split(file, path), 1):
        label = f"message {number}"
        try:
            text, note = _text(data, path)
        except Exception as error:  # noqa: BLE001 - the parser may raise any
            text = note = f"left out: {str(error) or type(error).__name__}"
        yield Section(label=label, text=text, note=note and f"{label}: {note}")


def _split(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The messages of a mailbox, each of which follows a line that begins with `From `."""
    lines: list[bytes] | None = None
    size, begins_line = 0, True
    while line := file.readline(_CHUNK_BYTES):
        if begins_line and line.startswith(b"From "):
            if lines is not None:
                yield b"".join(lines)
            lines, size = [], 0
        elif lines is not None:
            lines.append(line)
            size += len(line)
            if size > MAX_DOCUMENT_BYTES or len(lines) > MAX_LINES:
                raise too_large(path)
        begins_line = line.endswith(b"\n")
    if lines is not None:
        yield b"".join(lines)


def _parse(data: bytes, path: Path, policy: _CutHeaders) -> EmailMessage:
    """Raises SourceRefused for a message of too many parts or lines."""
    parts = 0
    stack: list[object] = []

    def new_part(policy: Any) -> EmailMessage:
        nonlocal parts
        parts += 1
        if parts > MAX_PARTS or len(stack) > MAX_DEPTH:
            raise SourceRefused(
                f"{path} has a message of over {MAX_PARTS:,} parts, or parts nested over {MAX_DEPTH} deep: "
                "save its text and register that"
            )
        return EmailMessage(policy)

    if data.count(b"\n") > MAX_LINES:
        raise SourceRefused(f"{path} has a message of over {MAX_LINES:,} lines: save its text and register that")
    parser = BytesFeedParser(new_part, policy=policy)  # type: ignore[arg-type]
    stack = parser._msgstack  # type: ignore[attr-defined]  # noqa: SLF001 - the parts around the one that begins
    for start in range(0, len(data), _CHUNK_BYTES):
        parser.feed(data[start : start + _CHUNK_BYTES])
    return cast("EmailMessage", parser.close())


def _text(data: bytes, path: Path) -> tuple[str, str | None]:
    """A message as text, and a note if some of its headers were cut."""
    policy = _CutHeaders(chars_left=[MAX_ALL_HEADERS_CHARS], cut=[])  # type: ignore[call-overload]
    parsed = _parse(data, path, policy)
    lines = [f"{name}: {value}" for name in HEADERS if (value := parsed[name])]
    body = parsed.get_body(("plain", "html"))
    if body is not None:
        lines += ["", _content(body)]
    for attachment in parsed.iter_attachments():
        lines.append(f"[attachment {attachment.get_filename() or 'without a name'}, {attachment.get_content_type()}]")
    cut = sorted(set(cast("list[str]", policy.cut)))
    note = f"headers were cut after {MAX_HEADER_CHARS:,} characters: {', '.join(cut)[:200]}" if cut else None
    return "\n".join(lines), note


def _content(body: MIMEPart) -> str:
    data = body.get_payload(decode=True)
    return decode_text(data, body.get_content_charset()) if isinstance(data, bytes) else ""

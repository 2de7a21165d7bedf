"""A message of Outlook (.msg): the same lines as those of an .eml file. Attachments are only named."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlm_mcp.contexts.sources.notes import Omissions
from rlm_mcp.contexts.sources.section import Section, import_parser
from rlm_mcp.contexts.sources.webpage import visible_text

_DISPLAY_NAME, _RECIPIENT_TYPE, _RTF_BODY = 0x3001, 0x0C15, 0x1009
"""Numbers of properties, by [MS-OXPROPS]."""
_RECIPIENT_HEADERS = {1: "To", 2: "Cc", 3: "Bcc"}
_SHOWN = frozenset(("from", "to", "cc", "bcc", "date", "subject", "mime-version", "content-type"))
"""Headers that are shown, or say how the message was sent."""


def sections(data: bytes, path: Path) -> Iterator[Section]:
    """The one message of the file."""
    message = import_parser("oxmsg", path).Message.load(io.BytesIO(data))
    omissions = Omissions()
    lines = [*_header_lines(message), "", _body(message, omissions)]
    omissions.add("other headers", sum(name.lower() not in _SHOWN for name in message.message_headers))
    for attachment in message.attachments:
        if attachment.attached_by_value:
            kind = attachment.mime_type or "application/octet-stream"
            omissions.add(f"attachments of type {kind}", 1)
        else:
            kind = "attached message"
            omissions.add("attached messages", 1)
        name = attachment.file_name or attachment.properties.str_prop_value(_DISPLAY_NAME) or "without a name"
        lines.append(f"[attachment {name}, {kind}]")
    yield Section(text="\n".join(lines), note=omissions.note())


def _header_lines(message: Any) -> Iterator[str]:
    if message.sender:
        yield f"From: {message.sender}"
    for number, header in _RECIPIENT_HEADERS.items():
        shown = [_shown(each) for each in message.recipients if _kind(each) == number]
        if shown:
            yield f"{header}: {', '.join(shown)}"
    if message.sent_date is not None:
        yield f"Date: {message.sent_date:%Y-%m-%d %H:%M:%S %z}"
    if message.subject:
        yield f"Subject: {message.subject}"


def _kind(recipient: Any) -> int:
    kind: int | None = recipient.properties.int_prop_value(_RECIPIENT_TYPE)
    return kind if kind in _RECIPIENT_HEADERS else 1


def _shown(recipient: Any) -> str:
    name, address = recipient.name, recipient.email_address
    return f'"{name}" <{address}>' if name and address and name != address else name or address


def _body(message: Any, omissions: Omissions) -> str:
    """The text of the message: the plain one, or that of its page, which is the same."""
    if text := (message.body or "").replace("\r\n", "\n").strip("\n"):
        return text
    if page := message.html_body:
        return visible_text(page, omissions)
    if message.properties.binary_prop_value(_RTF_BODY):
        omissions.add("texts in RTF alone", 1)
    return ""

"""E-mail: one message or a mailbox, as header lines and the readable body; attachments are only named."""

from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import BinaryIO

from rlm_mcp.contexts.sources.section import Section

HEADERS = ("From", "To", "Cc", "Date", "Subject")


def message(file: BinaryIO, _: Path) -> Iterator[Section]:
    """The one message of an .eml file."""
    yield Section(text=_text(message_from_bytes(file.read(), policy=policy.default)))


def messages(file: BinaryIO, _: Path) -> Iterator[Section]:
    """The messages of a mailbox, in order."""
    for number, data in enumerate(_split(file), 1):
        yield Section(label=f"message {number}", text=_text(message_from_bytes(data, policy=policy.default)))


def _split(file: BinaryIO) -> Iterator[bytes]:
    """The messages of a mailbox, each of which follows a line that begins with `From `."""
    lines: list[bytes] | None = None
    for line in file:
        if line.startswith(b"From "):
            if lines is not None:
                yield b"".join(lines)
            lines = []
        elif lines is not None:
            lines.append(line)
    if lines is not None:
        yield b"".join(lines)


def _text(parsed: EmailMessage) -> str:
    lines = [f"{name}: {parsed[name]}" for name in HEADERS if parsed[name]]
    body = parsed.get_body(("plain", "html"))
    if body is not None:
        lines += ["", str(body.get_content())]
    for attachment in parsed.iter_attachments():
        lines.append(f"[attachment {attachment.get_filename() or 'without a name'}, {attachment.get_content_type()}]")
    return "\n".join(lines)

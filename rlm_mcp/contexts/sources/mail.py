"""E-mail: one message or a mailbox, as header lines and the readable body; attachments are only named."""

import mailbox
from collections.abc import Iterator
from email import message_from_binary_file, message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from rlm_mcp.contexts.sources.section import Section

HEADERS = ("From", "To", "Cc", "Date", "Subject")


def message(path: Path) -> Iterator[Section]:
    """The one message of an .eml file."""
    with path.open("rb") as file:
        parsed = message_from_binary_file(file, policy=policy.default)
    yield Section(text=_text(parsed))


def messages(path: Path) -> Iterator[Section]:
    """The messages of a mailbox, in order."""
    box = mailbox.mbox(path, create=False)
    try:
        for number, key in enumerate(box.iterkeys(), 1):
            parsed = message_from_bytes(box.get_bytes(key), policy=policy.default)
            yield Section(label=f"message {number}", text=_text(parsed))
    finally:
        box.close()


def _text(parsed: EmailMessage) -> str:
    lines = [f"{name}: {parsed[name]}" for name in HEADERS if parsed[name]]
    body = parsed.get_body(("plain", "html"))
    if body is not None:
        lines += ["", str(body.get_content())]
    for attachment in parsed.iter_attachments():
        lines.append(f"[attachment {attachment.get_filename() or 'without a name'}, {attachment.get_content_type()}]")
    return "\n".join(lines)

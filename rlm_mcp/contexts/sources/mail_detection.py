"""Whether a file without a telling name is a message or a mailbox, by its first lines."""

import re
from pathlib import PurePath

_UNTELLING_SUFFIXES = frozenset({"", ".mail", ".msg", ".mbx"})
_MAILDIR_NAME = re.compile(r"\d{9,}\.[^/]+\.[^/]+")
"""The time of delivery, a part that is unique on the host, and the host; flags may follow."""
_ENVELOPE = re.compile(rb"From \S+ .*\d\d:\d\d.*\r?\n[!-9;-~]+:")
_PATCH = b"Mon Sep 17 00:00:00 2001"
"""The date in the first line of what `git format-patch` writes."""
_HEADER = re.compile(rb"([!-9;-~]+):|[ \t]")
_OF_MAIL = frozenset(
    b"from to cc date subject received return-path message-id mime-version delivered-to sender reply-to".split()
)


def is_message(name: str, head: bytes) -> bool:
    """Whether these are the first bytes of a message: headers alone, and at least two of those that all mail has."""
    if not _is_untelling(name):
        return False
    lines = head.lstrip().splitlines()
    blank = next((at for at, line in enumerate(lines) if not line.strip()), len(lines) - 1)
    found = [_HEADER.match(line) for line in lines[:blank]]
    names = {header[1].lower() for header in found if header is not None and header[1] is not None}
    return None not in found and len(names & _OF_MAIL) >= 2


def is_mailbox(name: str, head: bytes) -> bool:
    """Whether these are the first bytes of a mailbox, and not of a patch."""
    return _is_untelling(name) and _ENVELOPE.match(head) is not None and _PATCH not in head


def _is_untelling(name: str) -> bool:
    return PurePath(name).suffix.lower() in _UNTELLING_SUFFIXES or _MAILDIR_NAME.match(name) is not None

"""Headers of e-mail as text: folded lines are joined and encoded words are decoded, in linear time, whatever is wrong.

Words that follow each other in one character set are decoded together: many programs cut characters between them.
"""

import binascii
import re
from itertools import groupby

from rlm_mcp.contexts.sources.section import decode_document

_WORD = re.compile(r"=\?([!-)+->@-~]{1,60})\?([bBqQ])\?([^?\r\n]*)\?=")
_BLANKS = re.compile(r"[ \t\r\n]*")
_FOLD = re.compile(r"\r?\n[ \t]*|\r")
_HEX = re.compile(rb"=([0-9A-Fa-f]{2})")


def decode_header_text(value: str) -> str:
    """The value of a header, which may hold bytes beyond ASCII as surrogates, on one line."""
    text: list[str] = []
    words: list[tuple[str, bytes]] = []
    at = 0
    while found := _WORD.search(value, at):
        between = value[at : found.start()]
        if not words or _BLANKS.fullmatch(between) is None:
            text += [_joined(words), _plain(between)]
            words = []
        words.append((found[1].partition("*")[0].lower(), _bytes_of(found[2], found[3])))
        at = found.end()
    text += [_joined(words), _plain(value[at:])]
    return _FOLD.sub(" ", "".join(text)).strip()


def _plain(text: str) -> str:
    """A part without encoded words."""
    return text if text.isascii() else decode_document(text.encode("utf-8", "surrogateescape"), None)[0]


def _joined(words: list[tuple[str, bytes]]) -> str:
    """Encoded words that follow each other."""
    groups = groupby(words, key=lambda word: word[0])
    return "".join(decode_document(b"".join(data for _, data in group), charset)[0] for charset, group in groups)


def _bytes_of(encoding: str, text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if encoding in "bB":
        try:
            return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
        except binascii.Error:
            return data
    return _HEX.sub(lambda found: bytes([int(found[1], 16)]), data.replace(b"_", b" "))

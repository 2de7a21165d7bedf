"""Names of the members of an archive, which were written on any system: their encoding, and a path without ways out."""

import re
from collections.abc import Iterator

from rlm_mcp.contexts.sources.file import printable
from rlm_mcp.contexts.text.encoding import detect

NAMES_GUESSED_FROM = 20
MAX_PATH_CHARS = 1024
"""All paths of an archive are held in memory; a header may have names of hundreds of kilobytes."""
_KOREAN = frozenset({"cp949", "euc_kr", "johab"})
_HANJA = re.compile(r"[\u3400-\u9fff]")
_DRIVE = re.compile(r"[A-Za-z]:(?=/)")
_RUN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff01-\uff5e]{2,}|[\u0400-\u04ff]{3,}")


def decoded_names(names: list[bytes | str]) -> list[str]:
    """The names in a zip archive, all in the same encoding: UTF-8, one of East Asia or Russia, or that of DOS."""
    unknown = b"\n".join(name for name in names if isinstance(name, bytes))
    codec = _codec_of_names(unknown, "cp437")
    return [name if isinstance(name, str) else name.decode(codec, "replace") for name in names]


class TarNames:
    """Decodes the names in a tar archive, which come one by one.

    The encoding of those that are not UTF-8 is that of the first ones: to guess it takes milliseconds.
    """

    def __init__(self) -> None:
        self._seen: list[bytes] = []
        self._codec = "cp1252"

    def decode(self, name: bytes) -> str:
        """A name as text."""
        try:
            return name.decode()
        except UnicodeDecodeError:
            if len(self._seen) < NAMES_GUESSED_FROM:
                self._seen.append(name)
                self._codec = _codec_of_names(b"\n".join(self._seen), "cp1252")
        return name.decode(self._codec, "replace")


def _codec_of_names(names: bytes, fallback: str) -> str:
    try:
        names.decode()
    except UnicodeDecodeError:
        return next((codec for codec in _candidates(names) if _are_words(names, codec)), fallback)
    return "utf-8"


def _candidates(names: bytes) -> Iterator[str]:
    """Encodings in the order in which they are tried: the same bytes are often valid in several."""
    yield from ("cp932", "cp866")
    guess = detect(names)
    if guess is not None and guess.codec in _KOREAN and not _HANJA.search(names.decode(guess.codec, "replace")):
        yield guess.codec
    yield from ("gb2312", "big5", "gb18030", "cp949")


def _are_words(names: bytes, codec: str) -> bool:
    """Whether the bytes beyond ASCII are mostly runs of East Asian or Cyrillic characters in this encoding.

    A single letter of a Western name and the next one can be the two bytes of a character, but seldom twice in a row.
    """
    try:
        text = names.decode(codec)
    except (UnicodeDecodeError, LookupError):
        return False
    in_runs = sum(len(run) for run in _RUN.findall(text))
    return in_runs * 2 > sum(not char.isascii() for char in text)


def member_path(name: str) -> str:
    """The path of a member inside the context, relative and without `.` and `..`, with `/` for a backslash.

    Of a longer path, the end is kept.
    """
    parts = _DRIVE.sub("", name.replace("\\", "/")).split("/")
    return printable("/".join(part for part in parts if part not in {"", ".", ".."}))[-MAX_PATH_CHARS:] or "unnamed"

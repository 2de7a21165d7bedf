"""The old encoding of a text that is not UTF-8: the answer of chardet, corrected where a text contradicts it.

chardet ranks encodings by how frequent the pairs of letters are in the languages written in them. It does not know all
languages, and several encodings often give nearly the same text, so its figures are weighted: an encoding that was used
more is taken for one that was used less, and one in which the text has impossible characters is dropped.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

GUESS_BYTES = 1 << 16
"""How much of the lines that are not ASCII is looked at; more takes longer and does not change the answer."""

MARGIN = 1.25
"""An encoding this many times as probable as the next one with another text is reported as likely, not as a guess."""

INVALID_SHARE = 0.02
"""A text in an East Asian encoding may have lost or gained this share of its bytes."""

CLEAR_SCORE = 0.08
"""A smaller weighted probability is believed only if the text has words in that encoding."""

LIKELY_CHARS = 8
"""With fewer characters beyond ASCII, every encoding is a guess."""

_WEIGHTS: Mapping[str, float] = {
    "iso8859-1": 1.0,
    "cp1252": 1.0,
    "iso8859-15": 1.0,
    "cp1250": 0.9,
    "iso8859-2": 0.9,
    "cp1257": 0.95,
    "iso8859-13": 0.95,
    "cp1251": 1.0,
    "koi8-r": 1.0,
    "koi8-u": 1.0,
    "iso8859-5": 1.0,
    "cp866": 1.0,
    "mac-cyrillic": 0.9,
    "cp855": 0.8,
    "cp1253": 1.0,
    "iso8859-7": 1.0,
    "cp737": 0.9,
    "cp1254": 1.0,
    "iso8859-9": 1.0,
    "cp857": 0.8,
    "cp1255": 1.0,
    "iso8859-8": 1.0,
    "cp862": 0.9,
    "cp1256": 1.0,
    "iso8859-6": 1.0,
    "cp874": 1.0,
    "tis-620": 1.0,
    "cp1258": 1.0,
    "shift_jis_2004": 1.0,
    "cp932": 1.0,
    "euc_jis_2004": 1.0,
    "gb18030": 1.0,
    "big5hkscs": 1.0,
    "cp949": 1.0,
    "euc_kr": 1.0,
    "iso2022_jp_2": 1.0,
    "iso2022_kr": 1.0,
    "cp850": 0.95,
    "cp437": 0.9,
    "cp852": 0.9,
    "cp865": 0.85,
    "mac-roman": 0.95,
    "mac-latin2": 0.8,
}
"""The encodings that files are found in, and how much each is preferred."""

_READ_AS = {
    "iso8859-1": "cp1252",
    "tis-620": "cp874",
    "shift_jis_2004": "cp932",
    "euc_jis_2004": "euc_jp",
    "euc_kr": "cp949",
    "iso2022_jp_2": "iso2022_jp_2",
}
"""Codecs that decode what an encoding has, and what programs write under its name besides."""

_MULTIBYTE = ("cp932", "euc_jp", "gb18030", "big5hkscs", "cp949")
_FOREIGN = re.compile(r"(?<=(.))([^\x00-\x7f])(?=(.))")
"""A character beyond ASCII with its neighbours."""

_IN_WORDS = frozenset("\u2019\u2018\u00b7\u00ad\u2010\u2011\u2013\u200c\u200d")
"""Apostrophes, hyphens, joiners and the middle dot of Catalan."""

_BEGINS_WORDS = frozenset("\u201a\u201e\u2020\u2021\u02c6\u2030\u0192\u02dc\u2022\u00a1\u00bf\u2039")
"""Marks that follow no letter: where they do, they are letters of another code page."""

_LETTERS = {
    language: frozenset(letters)
    for language, letters in {
        "cs": "áčďéěíňóřšťúůýž",
        "eo": "ĉĝĥĵŝŭ",
        "et": "äõöüšž",
        "hr": "čćđšž",
        "hu": "áéíóöőúüű",
        "lt": "ąčęėįšųūž",
        "lv": "āčēģīķļņšūž",
        "pl": "ąćęłńóśźż",
        "ro": "ăâîşţ",
        "sk": "áäčďéíĺľňóôŕšťúýž",
        "sl": "čšž",
    }.items()
}
"""The letters beyond ASCII of the languages for which chardet takes others that it does not know."""

FIT_BYTES = 1 << 12
"""How much of a text is compared with the orthography of its supposed language."""

_WORD = re.compile(r"[^\W\d_]{3,}|[\u3000-\ud7ff]{2,}")
"""Words, of two letters in scripts that write words so."""

_MARKS = re.compile("[\u0300-\u036f\u0591-\u05c7\u064b-\u0652\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]")
_C1 = re.compile(rb"[\x80-\x84\x86-\x9f]")
_RARE = frozenset(
    "\u00ff\u00fe\u00de\u00f0\u00d0\u00d7\u00f7\u00a4\u00a6\u00a8\u00ac\u00af\u00b8\u00bc\u00bd\u00be\u00b6\u00b1\u0192\u02c6\u02dc\u2021\u2020\u2030"
)
"""Characters of cp1252 that seldom stand in a text, such as thorn and the cedilla; binary data is full of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """An encoding; `is_likely` if no other is nearly as probable that gives another text."""

    codec: str
    is_likely: bool


def guess_code_page(sample: bytes, *, is_cut: bool = False) -> Guess | None:
    """The encoding of a sample that is not UTF-8, None if it makes no sense in any. `is_cut`: the file goes on."""
    lines = _telling_lines(sample, is_cut=is_cut)
    data = b"\n".join(lines)
    ranked = _ranked(data)
    if (spoilt := _mended(data)) and (not ranked or spoilt[0][1] > MARGIN * ranked[0][1]):
        ranked = spoilt
    text = data.decode(ranked[0][0], errors="replace") if ranked else ""
    is_clear = ranked and ranked[0][1] >= CLEAR_SCORE and all(map(_is_latin, filter(str.isalpha, text)))
    if not ranked or not (is_clear or _makes_words(text)):
        return Guess(codec="cp1252", is_likely=False) if _is_western(data) else None
    (codec, score), *others = ranked
    rival = next((one for other, one in others if data.decode(other, errors="replace") != text), 0.0)
    is_likely = score > MARGIN * rival and sum(not char.isascii() for char in text) >= LIKELY_CHARS
    return Guess(codec=codec, is_likely=is_likely)


def _telling_lines(sample: bytes, *, is_cut: bool) -> list[bytes]:
    """The lines that are not ASCII, without the one that the end of the sample may cut inside a character."""
    lines = sample.split(b"\n")
    if is_cut and len(lines) > 1:
        lines = lines[:-1]
    kept: list[bytes] = []
    room = GUESS_BYTES
    for line in lines:
        if room > 0 and (not line.isascii() or b"\x1b$" in line):
            kept.append(line)
            room -= len(line)
    return kept


def _ranked(data: bytes) -> list[tuple[str, float]]:
    """The possible codecs and their weighted probabilities, the best first."""
    found: dict[str, float] = {}
    has_c1 = _C1.search(data) is not None
    excerpt = data[:FIT_BYTES]
    best = 0.0
    for name, confidence, language in _probabilities(data):
        score = confidence * _WEIGHTS.get(name, 0.0)
        if (has_c1 and name.startswith("iso8859")) or score < best / 4:
            continue
        codec = _READ_AS.get(name, name)
        if codec not in _MULTIBYTE:
            text = excerpt.decode(codec, errors="replace")
            score *= _orthography(text) * _spelling(text, _LETTERS.get(language or ""))
        best = max(best, score)
        found[codec] = max(found.get(codec, 0.0), score)
    return sorted(found.items(), key=lambda item: -item[1])


def _probabilities(data: bytes) -> Iterator[tuple[str, float, str | None]]:
    import chardet

    for found in chardet.detect_all(
        data, ignore_threshold=True, compat_names=False, include_encodings=[*_WEIGHTS, "utf-8"], max_bytes=len(data) + 1
    ):
        if (encoding := found["encoding"]) in _WEIGHTS and encoding is not None:
            yield encoding, found["confidence"], found["language"]


def _orthography(text: str) -> float:
    """How well the characters beyond ASCII stand: no symbols and capitals inside words, whose script is the same."""
    seen = odd = 0
    for found in _FOREIGN.finditer(text):
        before, char, after = found.group(1, 2, 3)
        seen += 1
        if char.isalpha():
            among_latin = (before.isascii() and before.isalpha()) or (after.isascii() and after.isalpha())
            odd += (char.isupper() and before.islower()) or (among_latin and not _is_latin(char))
        else:
            in_word = before.isalpha() and after.isalpha() and char not in _IN_WORDS
            odd += char == "\ufffd" or in_word or (before.isalpha() and char in _BEGINS_WORDS)
    return (1 - odd / seen) ** 2 if seen else 1.0


def _is_latin(char: str) -> bool:
    return char < "\u0250" or "\u0300" <= char < "\u0370" or "\u1e00" <= char < "\u1f00"


def _spelling(text: str, letters: frozenset[str] | None) -> float:
    """How well the letters beyond ASCII are those of a language: all of them known to it, and not always the same."""
    used = [char for char in text.lower() if not char.isascii() and char.isalpha()]
    if not letters or not used:
        return 1.0
    known = sum(char in letters for char in used) / len(used)
    variety = len(letters.intersection(used)) / min(len(used), len(letters), 6)
    return known * known * math.pow(min(variety, 1.0), 0.35)


def _mended(data: bytes) -> list[tuple[str, float]]:
    """The ranking without the few bytes that are invalid in an East Asian encoding, if it is that encoding then."""
    found: list[list[tuple[str, float]]] = []
    for codec in _MULTIBYTE:
        valid = data.decode(codec, errors="ignore").encode(codec, errors="ignore")
        if 0 < len(data) - len(valid) <= max(INVALID_SHARE * len(data), 2):
            ranked = _ranked(valid)
            if ranked and ranked[0][0] == codec:
                found.append(ranked)
    return max(found, key=lambda ranked: ranked[0][1], default=[])


def _makes_words(text: str) -> bool:
    """Whether most of the characters beyond ASCII are in words."""
    text = _MARKS.sub("", text)
    foreign = sum(not char.isascii() for char in text)
    in_words = sum(not char.isascii() for word in _WORD.findall(text) for char in word)
    return in_words * 2 >= foreign


def _is_western(data: bytes) -> bool:
    """Whether most of the characters beyond ASCII are letters and marks that are frequent in the west of Europe."""
    foreign = [char for char in data.decode("cp1252", errors="replace") if not char.isascii()]
    return sum(char not in _RARE and (char.isprintable() or char.isspace()) for char in foreign) * 2 > len(foreign)

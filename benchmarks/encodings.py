"""The share of texts in old encodings that are read back identically: `python -m benchmarks.encodings [DIRECTORY...]`.

The texts are translations: the messages of the gettext catalogues (`*.mo`) below the directories, by default those of
the system and of the installed packages (`pip install django sphinx` adds many). Every language is written in the
encodings that its speakers used, at four lengths and in three styles. The exit status is 1 if less than LEAST_SHARE of
a group is read back as it was written.
"""

import argparse
import gettext
import random
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlm_mcp.contexts.text.encoding import SAMPLE_BYTES, Utf8Stream, detect

LEAST_SHARE = 0.98

LENGTHS = (80, 400, 4_000, 30_000)
"""Characters of a text: a message, a paragraph, a page, and more than is looked at in one piece."""

ROUNDS = 4
"""Texts of each language, encoding, length and style."""

GROUPS: Mapping[str, Mapping[str, str]] = {
    "Western": dict.fromkeys(
        tuple("af ca da de es eu fi fr ga gl is it nb nl nn oc pt pt_BR sq sv".split()),  # noqa: SIM905 - a list
        "cp1252 latin-1 iso8859-15",
    ),
    "Western DOS and Mac": dict.fromkeys(
        ("da", "de", "es", "fi", "fr", "it", "nb", "nl", "pt", "sv"), "cp850 mac_roman"
    ),
    "Central European": dict.fromkeys(["bs", "cs", "hr", "hu", "pl", "ro", "sk", "sl"], "cp1250 iso8859-2"),
    "Baltic": {"et": "cp1257 iso8859-13", "lt": "cp1257 iso8859-13", "lv": "cp1257 iso8859-13"},
    "Turkish": {"tr": "cp1254 iso8859-9"},
    "Cyrillic": {
        "be": "cp1251",
        "bg": "cp1251",
        "mk": "cp1251",
        "ru": "cp1251 koi8-r cp866 iso8859-5",
        "sr": "cp1251",
        "uk": "cp1251 koi8-u",
    },
    "Greek": {"el": "cp1253 iso8859-7"},
    "Hebrew": {"he": "cp1255 iso8859-8"},
    "Arabic": {"ar": "cp1256 iso8859-6"},
    "Thai": {"th": "cp874"},
    "Vietnamese": {"vi": "cp1258"},
    "Japanese": {"ja": "cp932 shift_jis euc_jp iso2022_jp"},
    "Simplified Chinese": {"zh_CN": "gb18030 gbk gb2312"},
    "Traditional Chinese": {"zh_TW": "big5 cp950"},
    "Korean": {"ko": "euc_kr cp949"},
    "Unicode": dict.fromkeys(
        ["de", "el", "fr", "he", "ja", "ko", "ru", "th", "tr", "zh_CN"],
        "utf-8 utf-8-sig utf-16 utf-16-le utf-16-be utf-32 utf-32-le utf-32-be",
    ),
}
_SPELLINGS = {"zh_CN": "zh_CN zh_Hans", "zh_TW": "zh_TW zh_Hant", "nb": "nb no", "he": "he iw", "sr": "sr"}
_CEDILLAS = str.maketrans("șțȘȚ", "şţŞŢ")  # cp1250 and ISO 8859-2 have no letters with a comma below


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A text as it is written in one encoding."""

    group: str
    language: str
    codec: str
    chars: int
    style: str
    text: str
    data: bytes


def samples(catalogues: Sequence[Path], *, rounds: int = ROUNDS) -> Iterator[Sample]:
    """The samples of every language for which there are messages."""
    for group, languages in GROUPS.items():
        for language, codecs in languages.items():
            found = messages(language, catalogues)
            for codec in codecs.split() if found else ():
                yield from _samples_in(codec, found, group=group, language=language, rounds=rounds)


def messages(language: str, catalogues: Sequence[Path]) -> list[str]:
    """The translated messages of one language, each once and in a fixed order."""
    wanted = _SPELLINGS.get(language, language).split()
    found: dict[str, None] = {}
    for path in catalogues:
        if path.parts[-3] in wanted:
            with path.open("rb") as file:
                try:
                    translated = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]  # noqa: SLF001
                except (OSError, UnicodeDecodeError, ValueError):
                    continue
            for source, text in translated.items():
                line = " ".join(str(text).split())
                is_told = source and line != source and len(line) >= 12 and not line.isascii()
                if is_told and "\u00c3" not in line:  # which most often stands in a text that was converted twice
                    found[line] = None
    return sorted(found)


def _samples_in(codec: str, lines: Sequence[str], *, group: str, language: str, rounds: int) -> Iterator[Sample]:
    written = [line for line in (writable(line, codec) for line in lines) if line]
    if not written:
        return
    chance = random.Random(f"{language} {codec}")
    for chars in LENGTHS:
        for style, shape in STYLES.items():
            for _ in range(rounds):
                text = ""
                while len(text) < chars:
                    text += shape(chance, chance.choice(written))
                data = text.encode(codec)
                yield Sample(
                    group=group, language=language, codec=codec, chars=chars, style=style, text=text, data=data
                )


STYLES: Mapping[str, Callable[[random.Random, str], str]] = {
    "prose": lambda _, line: f"{line}\n",
    "log": lambda chance, line: f"2024-05-{chance.randint(1, 28):02} 10:11:12 INFO app.core: {line}\n",
    "table": lambda chance, line: f'{chance.randint(1, 99_999)},"{line}",{chance.random():.3f}\r\n',
}


def writable(line: str, codec: str) -> str:
    """The line in the characters of a codec; empty if some are missing. cp1258 writes accents on their own."""
    text = unicodedata.normalize("NFC", line)
    if codec in {"cp1250", "iso8859-2"}:
        text = text.translate(_CEDILLAS)
    if codec == "cp1258":
        text = "".join(_tone_apart(char) for char in text)
    try:
        return text if text.encode(codec).decode(codec) == text else ""
    except UnicodeEncodeError:
        return ""


def _tone_apart(char: str) -> str:
    """A Vietnamese letter as cp1258 writes it: its tone follows as a character of its own."""
    try:
        char.encode("cp1258")
    except UnicodeEncodeError:
        apart = unicodedata.normalize("NFD", char)
        tones = [mark for mark in apart[1:] if mark in "\u0300\u0301\u0303\u0309\u0323"]
        rest = "".join(mark for mark in apart if mark not in tones)
        return unicodedata.normalize("NFC", rest) + "".join(tones)
    return char


def read_back(data: bytes) -> str | None:
    """The text of a context of these bytes; None if they are refused as binary."""
    encoding = detect(data[:SAMPLE_BYTES])
    if encoding is None:
        return None
    return b"".join(Utf8Stream(encoding).convert([data])).decode()


def installed_catalogues(directories: Iterable[Path]) -> list[Path]:
    """The gettext catalogues below the directories."""
    return sorted(path for directory in directories for path in directory.rglob("LC_MESSAGES/*.mo"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encodings")
    parser.add_argument("directories", nargs="*", type=Path)
    parser.add_argument("--wrong", action="store_true", help="list what was read wrongly")
    options = parser.parse_args()
    directories = options.directories or [Path("/usr/share/locale"), *map(Path, sys.path[1:])]
    right: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples(installed_catalogues(directories)):
        same = read_back(sample.data) == sample.text
        for row in (sample.group, "all"):
            right[row]["samples"] += 1
            right[row]["same"] += same
            right[row][f"{sample.chars} {'same' if same else 'wrong'}"] += 1
        if options.wrong and not same:
            print(f"wrong: {sample.language} {sample.codec} {sample.style} {sample.chars}")
    print(f"{'group':<22}{'samples':>9}{'identical':>11}   of {', '.join(f'{n:,}' for n in LENGTHS)} characters")
    for row, counts in right.items():
        by_length = (counts[f"{n} same"] / max(counts[f"{n} same"] + counts[f"{n} wrong"], 1) for n in LENGTHS)
        shares = " ".join(f"{share:6.1%}" for share in by_length)
        print(f"{row:<22}{counts['samples']:>9}{counts['same'] / counts['samples']:>11.1%}   {shares}")
    return int(any(counts["same"] < LEAST_SHARE * counts["samples"] for counts in right.values()))


if __name__ == "__main__":
    sys.exit(main())

"""Growth of the time of every regular expression of the packages: `python -m benchmarks.patterns`.

Python's `re` backtracks, so a pattern may take quadratic time or worse for some texts. Here the texts are made from the
pattern: parts that it repeats, repeated many times, so that the pattern nearly matches. A pattern is used as in the
code: searched for everywhere, or only matched in one place (MATCHED_IN_PLACE). The exit status is 1 if the time for 4n
characters is more than MOST_RATIO times that for n.
"""

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import permutations
from typing import Any

import rlm_mcp
import wasm_runtime
from benchmarks.growth import seconds_of

# The parser of `re`, which type checkers do not know; it has been there under this name since Python 3.11.
_PARSER: Any = importlib.import_module("re._parser")
_CHARS = ["a", " ", "0", '"', "'", ".", "-", "\n", *map(chr, range(9, 127)), "“", "”", "«"]
_LENGTH = 6_000
# Faster than this for _LENGTH characters, a pattern cannot be quadratic: that takes 18 million steps.
_FAST_SECONDS = 0.002
_LONGEST_PART = 64
# Halfway between the 4 of linear and the 16 of quadratic time: some milliseconds are not measured exactly.
MOST_RATIO = 8.0
# Patterns that are only matched at the beginning of a text, or against the whole of it.
MATCHED_IN_PLACE = {
    "rlm_mcp.contexts.describe.outline._NUMBERED",  # a whole line
    "rlm_mcp.contexts.sources.address._HELPER",  # the beginning of a source
    "rlm_mcp.contexts.sources.address._SCHEME",  # the beginning of a source
    "rlm_mcp.contexts.sources.address._SCP_LIKE",  # a whole source
    "rlm_mcp.contexts.sources.mail_detection._HEADER",  # the beginning of a line
    "rlm_mcp.contexts.sources.mail_detection._MAILDIR_NAME",  # the beginning of a file name
    "rlm_mcp.contexts.sources.spreadsheet._HELD_WHOLE",  # the name of a part
    "rlm_mcp.contexts.sources.webpage._REST_OF_TAG",  # behind the name of a tag
    "rlm_mcp.engine.reply_parser._FINAL",  # at the beginning of the last line
    "rlm_mcp.engine.reply_parser._FENCE_LINE",  # the first line
    "rlm_mcp.install.edit_json._REST_OF_LINE",  # behind a value
    "rlm_mcp.server.transports.token_file._LINE",  # a whole line
    "rlm_mcp.server.transports.message_limit._MEMBER",  # behind the member before it
}
# Patterns that see a few hundred characters at most, by what bounds them.
BOUNDED = {
    "rlm_mcp.contexts.sources.mail._ENVELOPE_DATE": "the first 200 bytes of a line",
    "rlm_mcp.engine.subcalls._HOLDS_TEXT": "BARE_PROMPT_CHARS",
}


def all_patterns() -> Mapping[str, re.Pattern[Any]]:
    """Returns the compiled patterns of both packages by the name of their constant."""
    found: dict[str, re.Pattern[Any]] = {}
    for package in (rlm_mcp, wasm_runtime):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not re.search(r"\.(guest|build|__main__)\b", module.name):
                for name, value in vars(importlib.import_module(module.name)).items():
                    found |= {f"{module.name}.{name}{at}": pattern for at, pattern in _patterns_in(value)}
    return {name: pattern for name, pattern in found.items() if name not in BOUNDED}


def _patterns_in(value: object) -> Iterator[tuple[str, re.Pattern[Any]]]:
    match value:
        case re.Pattern():
            yield "", value
        case dict():
            yield from _patterns_in(tuple(value.values()))
        case tuple() | list():
            for number, part in enumerate(value):
                yield from ((f"[{number}]{at}", pattern) for at, pattern in _patterns_in(part))
        case _ if is_dataclass(value) and not isinstance(value, type):
            yield from _patterns_in(tuple(getattr(value, field.name) for field in fields(value)))


def worst_ratio(name: str, pattern: re.Pattern[Any]) -> float:
    """Returns the largest ratio of the times for 4n and n characters over the texts, or 0 if all are fast.

    Ends at the first text whose ratio is more than MOST_RATIO.
    """
    worst = 0.0
    for parts in _texts(pattern):
        worst = max(worst, _ratio(name, pattern, *parts))
        if worst > MOST_RATIO:
            break
    return worst


def _ratio(name: str, pattern: re.Pattern[Any], before: str, part: str) -> float:
    def seconds(repeats: int) -> float:
        text: Any = before + part * repeats + "\x01"
        return seconds_of(
            lambda _: _use(name, pattern, text if isinstance(pattern.pattern, str) else text.encode()), ""
        )

    often = _LENGTH // len(part)
    # A time that doubles with each repetition is seen at the first of these; the last ones would not end.
    if any(seconds(repeats) > 10 * _FAST_SECONDS for repeats in (*range(8, 32, 2), often // 4)):
        return float("inf")
    longer = seconds(often)
    if longer >= _FAST_SECONDS:  # else a second measurement would change nothing
        longer = min(longer, seconds(often))
    return 0.0 if longer < _FAST_SECONDS else longer / min(seconds(often // 4) for _ in range(3))


def _use(name: str, pattern: re.Pattern[Any], text: Any) -> None:
    if name in MATCHED_IN_PLACE:
        pattern.fullmatch(text)
        pattern.match(text)
    else:
        for _ in pattern.finditer(text):
            pass


def _texts(pattern: re.Pattern[Any]) -> Iterator[tuple[str, str]]:
    tree = _PARSER.parse(pattern.pattern, pattern.flags & ~re.DEBUG)
    whole = _example(tree)
    examples = [part[:_LONGEST_PART] for part in (*_repeated(tree), whole, whole[:1]) if part]
    parts = list(dict.fromkeys([*examples, *(part.replace(" ", "\n") for part in examples)]))
    for part in (*parts, *("".join(pair) for pair in permutations(parts[:4], 2))):
        yield from ((before, part) for before in dict.fromkeys(["", whole]))


def _repeated(tree: Any) -> Iterator[str]:
    """Yields an example of each part that the pattern repeats."""
    for operator, value in tree:
        inner = _inner(operator, value)
        if str(operator).endswith("_REPEAT"):
            yield _example(value[2])
        for branch in inner:
            yield from _repeated(branch)


def _inner(operator: Any, value: Any) -> list[Any]:
    """Returns the patterns inside one element of a parsed pattern."""
    match str(operator):
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return [value[2]]
        case "SUBPATTERN":
            return [value[3]]
        case "ATOMIC_GROUP":
            return [value]
        case "BRANCH":
            return list(value[1])
        case "ASSERT" | "ASSERT_NOT":
            return [value[1]]
    return []


def _example(tree: Any) -> str:
    """Returns a text that the pattern matches, more or less."""
    return "".join(_example_of(str(operator), value) for operator, value in tree)


def _example_of(operator: str, value: Any) -> str:
    match operator:
        case "LITERAL":
            return chr(int(value))
        case "NOT_LITERAL":
            return "b" if value == ord("a") else "a"
        case "ANY":
            return "a"
        case "IN":
            return next((char for char in _CHARS if _is_in(char, value)), "")
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return _example(value[2]) * max(1, min(int(value[0]), 3))
        case "SUBPATTERN":
            return _example(value[3])
        case "ATOMIC_GROUP":
            return _example(value)
        case "BRANCH":
            return _example(value[1][0])
    return ""


_CATEGORIES = {"SPACE": r"\s", "DIGIT": r"\d", "WORD": r"\w"}


def _is_in(char: str, parts: Any) -> bool:
    found = negated = False
    for operator, value in parts:
        match str(operator):
            case "NEGATE":
                negated = True
            case "LITERAL":
                found |= ord(char) == value
            case "RANGE":
                found |= value[0] <= ord(char) <= value[1]
            case "CATEGORY":
                kind, is_not = str(value).rpartition("_")[2], "NOT" in str(value)
                found |= (re.match(_CATEGORIES[kind], char) is not None) != is_not
    return found != negated


def main() -> int:
    worst = 0.0
    for name, pattern in all_patterns().items():
        found = worst_ratio(name, pattern)
        worst = max(worst, found)
        print(f"{name:<72} {found:5.1f}{'   TOO STEEP' if found > MOST_RATIO else ''}")
    return int(worst > MOST_RATIO)


if __name__ == "__main__":
    sys.exit(main())

"""Globs over paths with slashes: `*` and `?` match within a name, `**` matches any number of directories.

Matching takes time proportional to the length of the pattern times that of the path, whatever both hold: what follows a
wildcard is looked for at its first place only (an atomic group), because a later place leaves less for the rest.
"""

import re
from collections.abc import Iterator

MAX_GLOB_CHARS = 4_096
"""Length of a pattern, as of a path on most systems: a longer one would take seconds to compile."""


def is_glob(text: str) -> bool:
    """Whether a text has wildcards."""
    return any(char in text for char in "*?[")


def glob_regex(pattern: str) -> re.Pattern[str]:
    """A regular expression for `fullmatch`. `**` at the end matches every file below.

    Raises re.error, also for a pattern of more than MAX_GLOB_CHARS.
    """
    if len(pattern) > MAX_GLOB_CHARS:
        raise re.error(f"it has {len(pattern):,} characters and may have {MAX_GLOB_CHARS:,}")
    *directories, last = pattern.split("/")
    groups: list[list[str]] = [[]]
    for name in directories:
        if name == "**":
            groups.append([])
        else:
            groups[-1].append(_name_regex(name) + "/")
    first, *others = ("".join(group) for group in groups)
    if not others:
        return re.compile(first + _last_regex(last))
    # The names between two `**` are looked for at the first directory where they stand; consecutive `**` are one.
    middle = "".join(f"(?>(?:[^/]+/)*?{group})" for group in others[:-1] if group)
    return re.compile(f"{first}{middle}(?:[^/]+/)*{others[-1]}{_last_regex(last)}")


def depth_of(pattern: str) -> int | None:
    """How many directories deep a pattern reaches; None if there is no limit."""
    return None if "**" in pattern.split("/") else pattern.count("/")


def _last_regex(name: str) -> str:
    return ".+" if name == "**" else _name_regex(name)


def _name_regex(name: str) -> str:
    first, *others = ("".join(part) for part in _between_stars(name))
    if not others:
        return first
    middle = "".join(f"(?>[^/]*?{part})" for part in others[:-1] if part)
    return f"{first}{middle}[^/]*{others[-1]}"


def _between_stars(name: str) -> Iterator[list[str]]:
    """The parts between the stars, each as expressions for one character."""
    part: list[str] = []
    at = 0
    while at < len(name):
        char = name[at]
        at += 1
        if char == "*":
            yield part
            part = []
        elif char == "?":
            part.append("[^/]")
        elif char == "[" and (end := name.find("]", at + 1)) > 0:
            inside = name[at:end].replace("\\", r"\\").replace("[", r"\[")
            part.append(f"[^/{inside[1:]}]" if inside[0] in "!^" and len(inside) > 1 else f"[{inside}]")
            at = end + 1
        else:
            part.append(re.escape(char))
    yield part

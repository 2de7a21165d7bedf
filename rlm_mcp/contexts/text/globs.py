"""Globs over paths with slashes: `*` and `?` match within a name, `**` matches any number of directories."""

import re


def is_glob(text: str) -> bool:
    """Whether a text has wildcards."""
    return any(char in text for char in "*?[")


def glob_regex(pattern: str) -> re.Pattern[str]:
    """A regular expression for `fullmatch`. `**` at the end matches every file below."""
    names = pattern.split("/")
    expression = "".join("(?:[^/]+/)*" if name == "**" else _name_regex(name) + "/" for name in names[:-1])
    return re.compile(expression + (".+" if names[-1] == "**" else _name_regex(names[-1])))


def depth_of(pattern: str) -> int | None:
    """How many directories deep a pattern reaches; None if there is no limit."""
    return None if "**" in pattern.split("/") else pattern.count("/")


def _name_regex(name: str) -> str:
    expression = ""
    at = 0
    while at < len(name):
        char = name[at]
        at += 1
        if char == "*":
            expression += "[^/]*"
        elif char == "?":
            expression += "[^/]"
        elif char == "[" and (end := name.find("]", at + 1)) > 0:
            inside = name[at:end].replace("\\", r"\\").replace("[", r"\[")
            expression += f"[^/{inside[1:]}]" if inside[0] in "!^" and len(inside) > 1 else f"[{inside}]"
            at = end + 1
        else:
            expression += re.escape(char)
    return expression

"""Changes one table of a TOML text and leaves every other character as it is.

A new table is appended under a header of its own ([mcp_servers.rlm-mcp]), which TOML allows after any other table.
A servers table that is written inline (`mcp_servers = { … }`) is not changed: the appended header makes the result
invalid, and `entry` refuses it.

`tomlkit` would edit a parsed document, but 0.15 does not write every document as it was read: it moves a table next to
its siblings if an array of tables stands between them.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from rlm_mcp.install.text_edit import NotEditable, line_end

# The tokens that tell a header from a bracket elsewhere; a string or a comment is one token, whatever it contains.
_TOKEN = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}'''
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*|[\[\]{}]|\n"
    r"""|[^"'#\[\]{}\n]+""",
    re.DOTALL,
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def read(text: str) -> dict[str, Any]:
    """Parses the text. Raises NotEditable."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise NotEditable(f"is not TOML ({error})") from error


def set_value(text: str, path: Sequence[str], value: dict[str, Any]) -> str:
    """The text with a table at `path`: in place of an existing one, otherwise at the end."""
    read(text)
    block = _block(path, value).replace("\n", line_end(text))
    spans = list(_spans(text, path))
    if spans:
        (start, end), *others = spans
        for other in reversed(others):
            text = _cut(text, *other)
        ends_open = end == len(text) and not text.endswith("\n")
        return text[:start] + (block.rstrip("\r\n") if ends_open else block) + text[end:]
    if not text:
        return block
    if text.endswith("\n"):
        return text + line_end(text) + block
    return text + line_end(text) * 2 + block.rstrip("\r\n")


def remove_value(text: str, path: Sequence[str]) -> str:
    """The text without the table at `path` and its subtables."""
    for span in reversed(list(_spans(text, path))):
        text = _cut(text, *span)
    return text


def _cut(text: str, start: int, end: int) -> str:
    """The text without a table and without the empty line before it."""
    before, after = text[:start], text[end:]
    for newline in ("\r\n", "\n"):
        if before.endswith(newline * 2) or before == newline:
            before = before.removesuffix(newline)
            break
    if not after and not text.endswith("\n"):
        before = before.removesuffix("\n").removesuffix("\r")
    return before + after


def _spans(text: str, path: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Start and end of the table at `path` and of each subtable, without what belongs to the next header."""
    headers = [*_headers(text), (len(text), ())]
    for (start, name), (following, _) in pairwise(headers):
        if name[: len(path)] == tuple(path):
            yield start, start + _length(text[start:following]) if following < len(text) else len(text)


def _length(block: str) -> int:
    """The length of a table without the comments and empty lines at its end, which belong to the next header."""
    lines = block.splitlines(keepends=True)
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    return sum(map(len, lines))


def _headers(text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The position of each header's line, and the name of its table."""
    depth, line = 0, 0
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "\n":
                line = token.end()
            case "[" | "{":
                if depth == 0 and not text[line : token.start()].strip():
                    yield line, _name(text, line)
                depth += 1
            case "]" | "}":
                depth -= 1


def _name(text: str, start: int) -> tuple[str, ...]:
    """The name of the table whose header begins at `start`."""
    end = text.find("\n", start)
    header = text[start:] if end < 0 else text[start:end].rstrip("\r")
    table, names = tomllib.loads(header), []
    while table:
        (name, table), *_ = table.items()
        names.append(name)
        table = table[0] if isinstance(table, list) else table
    return tuple(names)


def _block(path: Sequence[str], value: dict[str, Any]) -> str:
    lines = [f"{_key(name)} = {_rendered(part)}\n" for name, part in value.items()]
    return f"[{'.'.join(map(_key, path))}]\n" + "".join(lines)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _rendered(name)


def _rendered(value: Any) -> str:
    match value:
        case dict():
            inside = ", ".join(f"{_key(name)} = {_rendered(part)}" for name, part in value.items())
            return f"{{ {inside} }}" if inside else "{}"
        case list():
            return f"[{', '.join(map(_rendered, value))}]"
        case str() | bool() | int() | float():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML forbids DEL, JSON does not
    raise NotEditable(f"has a value that cannot be written: {value!r}")

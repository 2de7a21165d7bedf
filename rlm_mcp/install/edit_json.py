"""Changes one member of a JSON text and leaves every other character as it is.

The text may have comments and trailing commas, as the settings of editors do. A new member is added at the end of its
object in the style of its neighbours: on a line of its own with their indentation, or on the same line.

Of the libraries on PyPI that keep comments, `json-five` needs half a minute for half a megabyte, which ~/.claude.json
can have, and `jsonc-edit` starts Node.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlm_mcp.install.text_edit import NotEditable, line_end, position, splice

_SPACE = re.compile(r"(?:[ \t\r\n\f\v]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_REST_OF_LINE = re.compile(r"(?:[ \t]*(?://[^\r\n]*|/\*[^\r\n]*?\*/))*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SCALAR = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")


@dataclass(slots=True, kw_only=True)
class Member:
    """A key with its value; `comma` is the position of the comma after it, or None."""

    key: str
    start: int
    value: "JsonNode"
    comma: int | None = None


@dataclass(slots=True, kw_only=True)
class JsonNode:
    """A value and its position in the text. `members` is None unless the value is an object."""

    start: int
    value: Any
    end: int = 0
    members: list[Member] | None = None

    def member(self, key: str) -> Member | None:
        """The last member of this name, which is the one that counts, as in JavaScript."""
        return next((member for member in reversed(self.members or []) if member.key == key), None)


def read(text: str) -> Any:
    """Parses the text; an empty text is an empty object. Raises NotEditable."""
    root = _parsed(text)
    return {} if root is None else root.value


def read_strict(text: str) -> Any:
    """Parses the text as a client does that accepts neither comments nor trailing commas. Raises NotEditable."""
    if text.strip():
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            raise NotEditable(f"is not JSON ({error})") from error
    return read(text)


def set_value(text: str, path: Sequence[str], value: Any) -> str:
    """The text with `value` at `path`; missing objects on the path are created."""
    root = _parsed(text)
    if root is None:
        nested = _nested(path, value)
        body = json.dumps(nested, indent=2, ensure_ascii=False).replace("\n", line_end(text))
        gap = line_end(text) if text and not text.endswith("\n") else ""
        return text + gap + body + line_end(text)
    node = root
    for depth, key in enumerate(path):
        if node.members is None:
            raise NotEditable(f"has a value at {'.'.join(path[:depth])} that is not an object")
        found = node.member(key)
        if found is None:
            return _Style(text, root).added(node, key, _nested(path[depth + 1 :], value))
        node = found.value
    style = _Style(text, root)
    new = style.rendered(value, style.indent_of(node.start)) if "\n" in text else style.rendered(value, None)
    return splice(text, [(node.start, node.end, new)])


def remove_value(text: str, path: Sequence[str]) -> str:
    """The text without the member at `path`; the same text if there is none."""
    while (shorter := _without_last(text, path)) != text:  # an object can have several members of one name
        text = shorter
    return text


def _without_last(text: str, path: Sequence[str]) -> str:
    node = _parsed(text)
    for key in path[:-1]:
        found = node.member(key) if node else None
        node = found.value if found else None
    member = node.member(path[-1]) if node else None
    if node is None or node.members is None or member is None:
        return text
    at = node.members.index(member)
    start = member.start - len(_leading_space(text, member.start))
    end = member.value.end if member.comma is None else member.comma + 1
    if len(node.members) == 1 and not text[node.start + 1 : start].strip() and not text[end : node.end - 1].strip():
        return splice(text, [(node.start, node.end, "{}")])
    cuts = [(start, end, "")]
    before = node.members[at - 1].comma if at else None
    if member.comma is None and before is not None:
        cuts.append((before, before + 1, ""))
    return splice(text, cuts)


def _leading_space(text: str, at: int) -> str:
    """The white space before a position, starting at the last line end."""
    space = text[:at][len(text[:at].rstrip(" \t\r\n")) :]
    newline = space.rfind("\n")
    if newline < 0:
        return space
    return space[newline - 1 if newline and space[newline - 1] == "\r" else newline :]


def _nested(path: Sequence[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


# --- the style of the text ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Style:
    """The line ends, indentation and spacing of a text, in which new members are written."""

    text: str
    root: JsonNode
    newline: str = field(init=False)
    unit: str = field(init=False)
    colon: str = field(init=False)

    def __post_init__(self) -> None:
        self.newline = line_end(self.text)
        first = self.root.members[0] if self.root.members else None
        space = _leading_space(self.text, first.start) if first else ""
        self.unit = space.lstrip("\r\n") if "\n" in space and space.lstrip("\r\n") else "  "
        key_end = _STRING.match(self.text, first.start).end() if first else 0  # type: ignore[union-attr] # it was parsed
        self.colon = ":" if first and self.text[key_end : first.value.start] == ":" else ": "

    def indent_of(self, at: int) -> str:
        """The indentation of the line that holds a position."""
        line = self.text[self.text.rfind("\n", 0, at) + 1 : at]
        return line[: len(line) - len(line.lstrip(" \t"))]

    def rendered(self, value: Any, indent: str | None) -> str:
        """The value as JSON: on several lines indented by `indent`, or on one line if that is None."""
        if indent is None:
            return json.dumps(value, ensure_ascii=False, separators=("," if self.colon == ":" else ", ", self.colon))
        lines = json.dumps(value, ensure_ascii=False, indent=self.unit, separators=(",", self.colon)).split("\n")
        return (self.newline + indent).join(lines)

    def added(self, node: JsonNode, key: str, value: Any) -> str:
        """The text with a new member at the end of an object."""
        name = json.dumps(key, ensure_ascii=False) + self.colon
        if not node.members:
            return self._first(node, name, value)
        first, last = node.members[0], node.members[-1]
        space = _leading_space(self.text, first.start)
        end = last.value.end if last.comma is None else last.comma + 1
        if "\n" in space:
            indent = space.lstrip("\r\n")
            at, new = self._end_of_line(end), self.newline + indent + name + self.rendered(value, indent)
        else:
            at, new = end, ("" if self.colon == ":" else " ") + name + self.rendered(value, None)
        if last.comma is not None:
            return splice(self.text, [(at, at, new + ",")])
        if at == end:
            return splice(self.text, [(at, at, "," + new)])
        return splice(self.text, [(end, end, ","), (at, at, new)])

    def _first(self, node: JsonNode, name: str, value: Any) -> str:
        outer = self.indent_of(node.start)
        indent = outer + self.unit
        new = self.newline + indent + name + self.rendered(value, indent)
        inside = self.text[node.start + 1 : node.end - 1]
        if not inside.strip(" \t"):
            return splice(self.text, [(node.start + 1, node.end - 1, new + self.newline + outer)])
        at = self._end_of_line(node.start + 1)
        return splice(self.text, [(at, at, new if "\n" in inside else new + self.newline + outer)])

    def _end_of_line(self, at: int) -> int:
        """The position after any comments that follow on the same line."""
        found = _REST_OF_LINE.match(self.text, at)
        return found.end() if found else at


# --- parsing ------------------------------------------------------------------------------------------------------


def _parsed(text: str) -> JsonNode | None:
    """The object with the positions of its parts; None if there are only white space and comments."""
    start = _skip(text, 0)
    if start == len(text):
        return None
    try:
        root = _value(text, start)
    except RecursionError as error:
        raise NotEditable("is nested too deeply") from error
    if (rest := _skip(text, root.end)) != len(text):
        raise NotEditable(f"is not JSON: text follows its end at {position(text, rest)}")
    if root.members is None:
        raise NotEditable("is not a JSON object")
    return root


def _value(text: str, at: int) -> JsonNode:
    if text.startswith("{", at):
        return _object(text, at)
    if text.startswith("[", at):
        return _array(text, at)
    found = _STRING.match(text, at) or _SCALAR.match(text, at)
    if found is None:
        raise NotEditable(f"is not JSON: a value is missing at {position(text, at)}")
    return JsonNode(start=at, end=found.end(), value=_scalar(text, found))


def _scalar(text: str, found: re.Match[str]) -> Any:
    try:
        return json.loads(found[0])
    except ValueError as error:  # an invalid escape, or a number of thousands of digits
        raise NotEditable(f"is not JSON: {found[0][:40]} at {position(text, found.start())} is not valid") from error


def _object(text: str, start: int) -> JsonNode:
    members: list[Member] = []
    node = JsonNode(start=start, value={}, members=members)
    at = _skip(text, start + 1)
    while not text.startswith("}", at):
        if members and members[-1].comma is None:
            raise NotEditable(f"is not JSON: a comma or }} is missing at {position(text, at)}")
        key = _STRING.match(text, at)
        if key is None:
            raise NotEditable(f"is not JSON: a name in quotes is missing at {position(text, at)}")
        colon = _skip(text, key.end())
        if not text.startswith(":", colon):
            raise NotEditable(f"is not JSON: a colon is missing at {position(text, colon)}")
        value = _value(text, _skip(text, colon + 1))
        member = Member(key=_scalar(text, key), start=at, value=value)
        at = _skip(text, value.end)
        if text.startswith(",", at):
            member.comma, at = at, _skip(text, at + 1)
        members.append(member)
        node.value[member.key] = value.value
    node.end = at + 1
    return node


def _array(text: str, start: int) -> JsonNode:
    node, at, separated = JsonNode(start=start, value=[]), _skip(text, start + 1), True
    while not text.startswith("]", at):
        if not separated:
            raise NotEditable(f"is not JSON: a comma or ] is missing at {position(text, at)}")
        part = _value(text, at)
        node.value.append(part.value)
        at = _skip(text, part.end)
        if separated := text.startswith(",", at):
            at = _skip(text, at + 1)
    node.end = at + 1
    return node


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at

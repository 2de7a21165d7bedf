"""Changes one entry of a mapping in a YAML text and leaves every other character as it is.

A new entry is a block of lines directly below the key of its mapping, with the indentation of its neighbours, so that
comments stay above the lines they belong to. `ruamel.yaml` gives the positions; it does not write the text.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlm_mcp.install.text_edit import NotEditable, line_end, splice

if TYPE_CHECKING:
    # The annotations of ruamel.yaml lack attributes that its nodes have, such as `flow_style` of a mapping.
    YamlNode = Any


def read(text: str) -> Any:
    """Parses the text; an empty text is an empty mapping. Raises NotEditable."""
    from ruamel.yaml.error import YAMLError

    try:
        parsed = _parser().load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise NotEditable(f"is not YAML ({_sentence(error)})") from error
    if parsed is not None and not isinstance(parsed, dict):
        raise NotEditable("is not a YAML mapping")
    return {} if parsed is None else parsed


def set_value(text: str, path: Sequence[str], value: dict[str, Any]) -> str:
    """The text with a mapping at `path`, which is a key of the top level and a key below it."""
    parent_key, key = path
    root = _composed(text)
    pair = _pair(root, parent_key)
    if pair is None:
        return _with_parent(text, root, path, value)
    parent = pair[1]
    if parent.tag.endswith(":null") or (parent.tag.endswith(":map") and not parent.value):
        return _with_first(text, pair, _block(key, value, indent="  ", step="  "))
    if not parent.tag.endswith(":map"):
        raise NotEditable(f"has a value at {parent_key} that is not a mapping")
    found = _pair(parent, key)
    if parent.flow_style:
        return _with_in_flow(text, parent, found, key, value)
    indent = " " * parent.value[0][0].start_mark.column
    block = _block(key, value, indent=indent, step=_step(parent.value, default=indent)).replace("\n", line_end(text))
    if found is None:
        at = _next_line(text, pair[0].end_mark.index)
        return text[:at] + block + text[at:]
    start, end = _lines_of(text, found)
    return text[:start] + (block if text[end - 1 : end] == "\n" else block.rstrip("\r\n")) + text[end:]


def _with_parent(text: str, root: "YamlNode | None", path: Sequence[str], value: dict[str, Any]) -> str:
    """The text with the parent mapping added too: at the end, or inside the braces if the whole text is in braces."""
    parent_key, key = path
    if root is not None and root.flow_style:
        at, comma = root.start_mark.index + 1, ", " if root.value else ""
        return splice(text, [(at, at, json.dumps({parent_key: {key: value}})[1:-1] + comma)])
    gap = "" if not text or text.endswith("\n") else line_end(text)
    block = f"{parent_key}:\n" + _block(key, value, indent="  ", step="  ")
    return text + gap + block.replace("\n", line_end(text))


def _with_in_flow(
    text: str, parent: "YamlNode", found: tuple["YamlNode", "YamlNode"] | None, key: str, value: dict[str, Any]
) -> str:
    if found is not None:
        return splice(text, [(found[1].start_mark.index, found[1].end_mark.index, json.dumps(value))])
    at = parent.start_mark.index + 1
    return splice(text, [(at, at, f"{json.dumps(key)}: {json.dumps(value)}, ")])


def _with_first(text: str, pair: tuple["YamlNode", "YamlNode"], block: str) -> str:
    """The text with the first entry of a mapping that is empty: nothing, null or {}."""
    newline, colon = line_end(text), _after_colon(text, pair[0].end_mark.index)
    value = pair[1]
    if value.end_mark.index > value.start_mark.index:
        text = text[:colon] + text[value.end_mark.index :]
    at = _next_line(text, colon)
    block = block.replace("\n", newline)
    if not text[:at].endswith("\n"):
        block = newline + block.removesuffix(newline)
    return text[:at] + block + text[at:]


def remove_value(text: str, path: Sequence[str]) -> str:
    """The text without the entry at `path`."""
    parent_key, key = path
    pair = _pair(_composed(text), parent_key)
    found = _pair(pair[1], key) if pair else None
    if pair is None or found is None:
        return text
    parent = pair[1]
    if parent.flow_style:
        return _without_in_flow(text, parent, found)
    start, end = _lines_of(text, found)
    if end == len(text) and not text.endswith("\n"):
        start = len(text[:start].removesuffix("\n").removesuffix("\r"))
    text = text[:start] + text[end:]
    if len(parent.value) > 1:
        return text
    colon = _after_colon(text, pair[0].end_mark.index)
    return text[:colon] + " {}" + text[colon:]


def _without_in_flow(text: str, parent: "YamlNode", found: tuple["YamlNode", "YamlNode"]) -> str:
    at = parent.value.index(found)
    if at + 1 < len(parent.value):
        return splice(text, [(found[0].start_mark.index, parent.value[at + 1][0].start_mark.index, "")])
    start = parent.value[at - 1][1].end_mark.index if at else found[0].start_mark.index
    return splice(text, [(start, found[1].end_mark.index, "")])


# --- servers as the items of a list ---------------------------------------------------------------------------


def read_listed(text: str) -> Any:
    """Parses the text, with lists of named items as mappings from their names. Raises NotEditable."""
    return {key: _by_name(part) if isinstance(part, list) else part for key, part in read(text).items()}


def _by_name(items: Sequence[Any]) -> Any:
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if None in names or len(set(map(str, names))) < len(names):
        return items
    return dict(zip(map(str, names), items, strict=True))


def set_listed(text: str, path: Sequence[str], value: dict[str, Any]) -> str:
    """The text with an item of this name in the list, which is a key of the top level."""
    parent_key, key = path
    root = _composed(text)
    pair = _pair(root, parent_key)
    if root is not None and root.flow_style:
        if pair is not None:
            raise NotEditable("is written in braces")
        at, comma = root.start_mark.index + 1, ", " if root.value else ""
        return splice(text, [(at, at, json.dumps({parent_key: [value]})[1:-1] + comma)])
    if pair is None:
        gap = "" if not text or text.endswith("\n") else line_end(text)
        return text + gap + f"{parent_key}:\n{_item(value, '  ')}".replace("\n", line_end(text))
    items = pair[1]
    if items.tag.endswith(":null") or (items.tag.endswith((":seq", ":map")) and not items.value):
        return _with_first(text, pair, _item(value, "  "))
    if not items.tag.endswith(":seq") or items.flow_style:
        raise NotEditable(f"has a value at {parent_key} that is not a list of one item a line")
    block = _item(value, " " * items.start_mark.column).replace("\n", line_end(text))
    found = _item_named(items, key)
    if found is None:
        at = _next_line(text, pair[0].end_mark.index)
        return text[:at] + block + text[at:]
    start, end = _lines_of_item(text, found)
    return text[:start] + (block if text[end - 1 : end] == "\n" else block.rstrip("\r\n")) + text[end:]


def remove_listed(text: str, path: Sequence[str]) -> str:
    """The text without the item of this name."""
    parent_key, key = path
    pair = _pair(_composed(text), parent_key)
    found = None if pair is None else _item_named(pair[1], key)
    if pair is None or found is None:
        return text
    start, end = _lines_of_item(text, found)
    if end == len(text) and not text.endswith("\n"):
        start = len(text[:start].removesuffix("\n").removesuffix("\r"))
    text = text[:start] + text[end:]
    if len(pair[1].value) > 1:
        return text
    colon = _after_colon(text, pair[0].end_mark.index)
    return text[:colon] + " []" + text[colon:]


def _item_named(items: "YamlNode", name: str) -> "YamlNode | None":
    for item in items.value:
        named = _pair(item, "name")
        if named is not None and named[1].value == name:
            return item
    return None


def _lines_of_item(text: str, item: "YamlNode") -> tuple[int, int]:
    return text.rfind("\n", 0, item.start_mark.index) + 1, _next_line(text, _end_of(item, item))


def _item(value: dict[str, Any], indent: str) -> str:
    """An item of a list as lines, its first key beside the dash."""
    _, first, *rest = _block("", value, indent=indent, step="  ").splitlines(keepends=True)
    return "".join([f"{indent}- {first[len(indent) + 2 :]}", *rest])


# --- positions and texts ------------------------------------------------------------------------------------------


def _composed(text: str) -> "YamlNode | None":
    read(text)  # composing does not detect every error
    node: YamlNode | None = _parser().compose(text)
    return node


def _parser() -> Any:
    from ruamel.yaml import YAML

    parser = YAML(typ="safe", pure=True)
    parser.composer.warn_double_anchors = False  # YAML allows them
    return parser


def _pair(node: "YamlNode | None", key: str) -> tuple["YamlNode", "YamlNode"] | None:
    pairs = node.value if node is not None and isinstance(node.value, list) else []
    return next((pair for pair in pairs if isinstance(pair, tuple) and pair[0].value == key), None)


def _step(children: Sequence[tuple["YamlNode", "YamlNode"]], *, default: str) -> str:
    """The indentation of the entries' own keys relative to the entries."""
    for key, value in children:
        if isinstance(value.value, list) and value.value and isinstance(value.value[0], tuple) and not value.flow_style:
            columns: int = value.value[0][0].start_mark.column - key.start_mark.column
            return " " * columns
    return default


def _lines_of(text: str, pair: tuple["YamlNode", "YamlNode"]) -> tuple[int, int]:
    """Start and end of the lines of an entry in a block, from its key to its last value."""
    return text.rfind("\n", 0, pair[0].start_mark.index) + 1, _next_line(text, _end_of(*pair))


def _end_of(key: "YamlNode", value: "YamlNode") -> int:
    """The end of an entry; the end marks of blocks and of empty values lie after the comments that follow."""
    end: int = value.end_mark.index
    if value.start_mark.index == end:
        return int(key.end_mark.index)
    if isinstance(value.value, list) and value.value and not value.flow_style:
        last = value.value[-1]
        return _end_of(*last) if isinstance(last, tuple) else _end_of(last, last)
    if getattr(value, "style", None) in {"|", ">"}:
        return end - 1  # the end mark is at the beginning of the next line
    return end


def _next_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _after_colon(text: str, at: int) -> int:
    return text.index(":", at) + 1


def _block(key: str, value: dict[str, Any], *, indent: str, step: str) -> str:
    """One entry as lines. Scalars are written as JSON, which YAML parses the same way whatever they hold."""
    lines = [f"{indent}{key}:\n"]
    for name, part in value.items():
        if isinstance(part, list) and part:
            lines += [f"{indent}{step}{name}:\n", *(f"{indent}{step}- {json.dumps(item)}\n" for item in part)]
        elif isinstance(part, dict) and part:
            lines += [f"{indent}{step}{name}:\n"]
            lines += [f"{indent}{step * 2}{json.dumps(inner)}: {json.dumps(item)}\n" for inner, item in part.items()]
        else:
            lines += [f"{indent}{step}{name}: {json.dumps(part)}\n"]
    return "".join(lines)


def _sentence(error: Exception) -> str:
    """The parser's message on one line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())[:120]
    return f"{problem}, line {mark.line + 1}, column {mark.column + 1}" if mark else problem

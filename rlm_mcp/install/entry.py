"""This server's entry in the configuration of a client, as a function of texts: old text and entry to new text.

Whatever an editor did, the result is read again: it has to say what the old text said and the entry, and nothing else.
A text for which that fails is not changed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlm_mcp.install import edit_json as jsontext
from rlm_mcp.install import edit_toml as tomltext
from rlm_mcp.install import edit_yaml as yamltext
from rlm_mcp.install.clients import Client, Format
from rlm_mcp.install.text_edit import NotEditable


@dataclass(frozen=True, slots=True)
class _Editor:
    read: Callable[[str], Any]
    set_value: Callable[[str, Sequence[str], dict[str, Any]], str]
    remove_value: Callable[[str, Sequence[str]], str]


_EDITORS: dict[Format, _Editor] = {
    "json": _Editor(jsontext.read_strict, jsontext.set_value, jsontext.remove_value),
    "jsonc": _Editor(jsontext.read, jsontext.set_value, jsontext.remove_value),
    "toml": _Editor(tomltext.read, tomltext.set_value, tomltext.remove_value),
    "yaml": _Editor(yamltext.read, yamltext.set_value, yamltext.remove_value),
}


def read(text: str, client: Client) -> dict[str, Any]:
    """What a configuration says. Raises NotEditable where it says nothing that the client could read."""
    said: dict[str, Any] = _EDITORS[client.format].read(text)
    return said


def find_entry(text: str, client: Client) -> Any:
    """The entry as the client would read it; None where there is none."""
    said: Any = read(text, client)
    for key in client.path:
        said = said.get(key) if isinstance(said, dict) else None
    return said


def set_entry(text: str, client: Client, entry: dict[str, Any]) -> str:
    """The text with this entry and otherwise unchanged."""
    said = read(text, client)
    new = _EDITORS[client.format].set_value(text, client.path, entry)
    return _verified(new, [_with(said, client.path, entry)], client)


def remove_entry(text: str, client: Client) -> str:
    """The text without the entry and otherwise unchanged."""
    if find_entry(text, client) is None:
        return text
    said = read(text, client)
    new = _EDITORS[client.format].remove_value(text, client.path)
    # In TOML the table of all servers is gone with the last of them, in the others it stays and is empty.
    return _verified(new, [_without(said, client.path), _without(said, client.path, prune=True)], client)


def _with(said: Any, path: Sequence[str], entry: Any) -> Any:
    if not path:
        return entry
    said = said if isinstance(said, dict) else {}
    return said | {path[0]: _with(said.get(path[0]), path[1:], entry)}


def _without(said: dict[str, Any], path: Sequence[str], *, prune: bool = False) -> dict[str, Any]:
    rest = {key: part for key, part in said.items() if key != path[0]}
    inner = _without(said[path[0]], path[1:], prune=prune) if path[1:] else None
    return rest if inner is None or (prune and not inner) else rest | {path[0]: inner}


def _verified(text: str, expected: Sequence[Any], client: Client) -> str:
    try:
        if _canonical(read(text, client)) in map(_canonical, expected):
            return text
        why = "is written in a way that cannot be changed without risk to the rest"
    except (NotEditable, RecursionError) as error:
        why = f"would become unreadable ({error})"
    raise NotEditable(why)


def _canonical(value: Any) -> Any:
    """A value that equals another one only if they say the same: 1 is not true, and no number is not itself."""
    match value:
        case dict():
            return sorted((repr(key), _canonical(part)) for key, part in value.items())
        case list():
            return [_canonical(part) for part in value]
    return repr(value)

"""Adds, replaces and removes this server's entry in the text of a client's configuration.

Every edited text is parsed again and must differ from the old one in the entry alone; otherwise the edit is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlm_mcp.install import edit_json, edit_toml, edit_yaml
from rlm_mcp.install.clients import Client, Format
from rlm_mcp.install.text_edit import NotEditable


@dataclass(frozen=True, slots=True)
class _Editor:
    read: Callable[[str], Any]
    set_value: Callable[[str, Sequence[str], dict[str, Any]], str]
    remove_value: Callable[[str, Sequence[str]], str]


_EDITORS: dict[Format, _Editor] = {
    "json": _Editor(edit_json.read_strict, edit_json.set_value, edit_json.remove_value),
    "jsonc": _Editor(edit_json.read, edit_json.set_value, edit_json.remove_value),
    "toml": _Editor(edit_toml.read, edit_toml.set_value, edit_toml.remove_value),
    "yaml": _Editor(edit_yaml.read, edit_yaml.set_value, edit_yaml.remove_value),
    "yaml list": _Editor(edit_yaml.read_listed, edit_yaml.set_listed, edit_yaml.remove_listed),
}


def read(text: str, client: Client) -> dict[str, Any]:
    """The configuration as the client would parse it. Raises NotEditable if the client could not."""
    config: dict[str, Any] = _EDITORS[client.format].read(text)
    return config


def find_entry(text: str, client: Client) -> Any:
    """The entry as the client would parse it, or None."""
    config: Any = read(text, client)
    for key in client.path:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def set_entry(text: str, client: Client, entry: dict[str, Any]) -> str:
    """The text with this entry, otherwise unchanged."""
    config = read(text, client)
    new = _EDITORS[client.format].set_value(text, client.path, entry)
    return _verified(new, [_with(config, client.path, entry)], client)


def remove_entry(text: str, client: Client) -> str:
    """The text without the entry, otherwise unchanged."""
    if find_entry(text, client) is None:
        return text
    config = read(text, client)
    new = _EDITORS[client.format].remove_value(text, client.path)
    # In TOML the parent table disappears with its last server; in the other formats it stays and is empty.
    return _verified(new, [_without(config, client.path), _without(config, client.path, prune=True)], client)


def _with(config: Any, path: Sequence[str], entry: Any) -> Any:
    if not path:
        return entry
    config = config if isinstance(config, dict) else {}
    return config | {path[0]: _with(config.get(path[0]), path[1:], entry)}


def _without(config: dict[str, Any], path: Sequence[str], *, prune: bool = False) -> dict[str, Any]:
    rest = {key: part for key, part in config.items() if key != path[0]}
    inner = _without(config[path[0]], path[1:], prune=prune) if path[1:] else None
    return rest if inner is None or (prune and not inner) else rest | {path[0]: inner}


def _verified(text: str, expected: Sequence[Any], client: Client) -> str:
    try:
        if _canonical(read(text, client)) in map(_canonical, expected):
            return text
        why = "is written in a way that cannot be edited without a risk to the rest of it"
    except (NotEditable, RecursionError) as error:
        why = f"would become unreadable ({error})"
    raise NotEditable(why)


def _canonical(value: Any) -> Any:
    """A form in which two values are equal only if they say the same: 1 differs from true, and NaN equals itself."""
    match value:
        case dict():
            return sorted((repr(key), _canonical(part)) for key, part in value.items())
        case list():
            return [_canonical(part) for part in value]
    return repr(value)

"""Accepts aliases of argument names before a tool call is validated, and names an argument that does not exist.

Models write `question` for `query` and one id where a list is wanted. The SDK drops unknown arguments silently; a
dropped `max_cost` would cost money, so an argument without an alias is an error with the tool's real names.
"""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from rlm_mcp.errors import RlmError

_QUERY = {"question": "query", "prompt": "query"}
_ONE_CONTEXT = {"context_id": "context", "contexts": "context", "name": "context", "id": "context"}
_SEARCH = {"pattern": "search", "regex": "search"}

ARGUMENT_ALIASES: Mapping[str, Mapping[str, str]] = {
    "register_context": {
        "path": "source", "file": "source", "content": "text", "filename": "source", "directory": "source"
    },
    "list_contexts": {**_QUERY, "search": "query", "pattern": "query"},
    "inspect_context": {
        **_ONE_CONTEXT, **_SEARCH, "query": "search", "file": "path", "timeout": "timeout_seconds", "python": "code"
    },
    "rlm_solve": {
        **_QUERY, "context": "contexts", "context_id": "contexts", "context_ids": "contexts", "wait": "wait_seconds",
        "max_cost": "max_usd", "max_cost_usd": "max_usd", "timeout_seconds": "max_seconds", "schema": "output_schema",
        "depth": "max_depth",
    },
    "rlm_result": {"id": "run_id", "run": "run_id", "wait": "wait_seconds"},
    "cancel_run": {"id": "run_id", "run": "run_id"},
    "remove_context": _ONE_CONTEXT,
}  # fmt: skip
"""tool -> name that models write -> name of the argument"""


class UnknownArgument(RlmError):
    """A call has an argument that its tool does not have."""


class UnknownName(RlmError):
    """There is no tool or prompt of that name."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a tool or prompt that does not exist, with the nearest one that does."""
    names = list(known)
    near = get_close_matches(name[:80], names, n=1)
    meant = f": did you mean {near[0]}?" if near else "."
    return UnknownName(f"there is no {kind} {name[:80]!r}{meant} The {kind}s are {', '.join(names)}.")


def resolve_aliases(tool: str, arguments: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """`arguments` under their real names: nulls left out, aliases renamed unless the real name is given too.

    Raises UnknownArgument for a name that is neither in `known` nor an alias of one.
    """
    renames = ARGUMENT_ALIASES.get(tool, {})
    given = {name: value for name, value in arguments.items() if value is not None}
    forgiven = {name: value for name, value in given.items() if name in known}
    for name, value in given.items():
        if name in known:
            continue
        if renames.get(name) not in known:
            raise UnknownArgument(f"{tool} has no argument {name[:80]!r}; it takes {', '.join(known)}.")
        forgiven.setdefault(renames[name], value)
    match forgiven:
        case {"contexts": str(one)} if not one.lstrip().startswith("["):
            forgiven["contexts"] = [one]
        case {"context": [str(one)]}:
            forgiven["context"] = one
    return forgiven

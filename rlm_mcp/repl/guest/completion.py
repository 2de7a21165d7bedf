"""Completions of a typed name, for the prompt of `rlm-mcp inspect`. Runs inside the sandbox."""

import builtins
import keyword
import re

import __main__

MOST = 200
NAME = re.compile(r"(?:[^\W\d]\w*\.)*(?:[^\W\d]\w*)?$")


def complete(text):
    """The completions of `text`, each with the part before the last dot; after a dot these are attributes."""
    if not text or not NAME.match(text):
        return []
    before, dot, begun = text.rpartition(".")
    names = sorted(_attributes(before) if dot else {*vars(__main__), *vars(builtins), *keyword.kwlist})
    shown = [name for name in names if name.startswith(begun) and (begun.startswith("_") or not name.startswith("_"))]
    return [f"{before}{dot}{name}" for name in shown[:MOST]]


def _attributes(dotted):
    first, *rest = dotted.split(".")
    try:
        value = vars(__main__)[first] if first in vars(__main__) else vars(builtins)[first]
        for name in rest:
            value = getattr(value, name)
        return {name for name in dir(value) if isinstance(name, str)}
    except Exception:  # attributes may be computed, which may raise anything; then there are no completions
        return set()

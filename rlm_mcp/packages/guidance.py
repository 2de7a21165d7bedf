"""Guidance for models about the packages of their sandbox: in the system prompt, and when an import fails."""

import re
from collections.abc import Sequence

_NAME = re.compile(r"No module named '([\w.]+)'")
_NOTEBOOK_COMMAND = re.compile(r"^ *[!%] *(?:pip|uv|conda|mamba|apt)\b", re.MULTILINE)
# Ways to install something that work elsewhere, and what only a browser has; nobody can add these.
_NOT_PACKAGES = frozenset({"pip", "micropip", "ensurepip", "pyodide", "pyodide_js", "js", "conda", "uv"})
_NO_PROCESSES = "does not support processes"  # what `subprocess` raises
_MOST_NAMED = 40
_INSTEAD = {
    "numpy": "For numbers use statistics, array, fractions or plain lists.",
    "pandas": "For tables use csv.DictReader, sqlite3 and collections.",
    "regex": "Use re.",
    "lxml": "Use xml.etree.ElementTree or html.parser.",
    "bs4": "Use html.parser.",
    "yaml": "Parse the few keys that are needed with re.",
    "dateutil": "Use datetime.strptime and zoneinfo.",
    "pytz": "Use zoneinfo.",
    "js": "There is no network.",
    "requests": "There is no network.",
    "httpx": "There is no network.",
}

_PROJECTS = {
    "bs4": "beautifulsoup4",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "PIL": "pillow",
    "pptx": "python-pptx",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
"""The projects whose modules have another name: `packages add` takes the project's."""


def installed_phrase(imports: Sequence[str]) -> str:
    """The sentence of a prompt that says which packages code can import."""
    if not imports:
        return "standard library, no network"
    named = ", ".join(imports[:_MOST_NAMED])
    return f"standard library; installed besides: {named}; nothing else can be installed, no network"


def import_advice(message: str, imports: Sequence[str]) -> str | None:
    """The advice for the message of a failed import, or of a program that was not started, such as pip.

    A line that runs pip in a notebook, as `!pip install numpy`, is in the traceback of its SyntaxError.
    None if it names a module of something installed, or is about something else.
    """
    there = f"the standard library and: {', '.join(imports[:_MOST_NAMED])}" if imports else "the standard library only"
    if _NO_PROCESSES in message or _NOTEBOOK_COMMAND.search(message):
        return f"This sandbox has {there}. Nothing can be installed from here."
    found = _NAME.search(message)
    if found is None:
        return None
    name = found[1].partition(".")[0]
    if name in imports:
        return None
    instead = f" {_INSTEAD[name]}" if name in _INSTEAD else ""
    project = _PROJECTS.get(name, name)
    owner = "" if name in _NOT_PACKAGES else f" (Its owner can add it: rlm-mcp packages add {project})"
    return f"This sandbox has {there}. Nothing can be installed from here.{instead}{owner}"

"""Sections, of which the text of a document is made, and the import of third-party parsers."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm_mcp.errors import SourceRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A page, sheet, slide, cell or message; without a label when the format has none."""

    text: str
    label: str | None = None


def import_parser(name: str, path: Path) -> Any:
    """Imports the library that parses `path`. Raises SourceRefused when the extra is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SourceRefused(
            f"{path} is a document that {name} could read, which is not installed: `pip install 'rlm-mcp[documents]'`"
        ) from error

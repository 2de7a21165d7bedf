"""A Jupyter notebook: its cells and their textual output."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rlm_mcp.contexts.sources.section import Section, read_document


def sections(file: BinaryIO, path: Path) -> Iterator[Section]:
    """The cells of a notebook."""
    notebook = json.loads(read_document(file, path).decode("utf-8-sig"))
    for number, cell in enumerate(notebook["cells"], 1):
        text = _joined(cell.get("source", ""))
        outputs = [_output(output) for output in cell.get("outputs", ())]
        shown = "".join(f"\n--- output ---\n{output.rstrip()}" for output in outputs if output)
        yield Section(label=f"cell {number}, {cell.get('cell_type', 'unknown')}", text=text + shown)


def _output(output: dict[str, object]) -> str:
    match output:
        case {"output_type": "stream", "text": text}:
            return _joined(text)
        case {"output_type": "error", "ename": name, "evalue": value}:
            return f"{name}: {value}"
        case {"data": {"text/plain": text}}:
            return _joined(text)
        case _:
            return ""


def _joined(text: object) -> str:
    return "".join(map(str, text)) if isinstance(text, list) else str(text)

"""The page of a run, or of two runs compared: one self-contained HTML file that can do no harm.

Texts of models and contexts reach the page as one JSON object in a data block, in which no `<`, `>` or `&` is left; the
script shows them as text and never as markup. The content security policy allows the page's own style and script,
named by their hashes, and nothing else: no other script, no request, no form, no frame.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import RlmError
from rlm_mcp.files import replacing
from rlm_mcp.records.events import Event
from rlm_mcp.records.protocols import RunRecord
from rlm_mcp.redact import escape_controls
from rlm_mcp.version import __version__
from rlm_mcp.viewer.comparing import compare_runs
from rlm_mcp.viewer.coverage import coverage_data
from rlm_mcp.viewer.passages import StoredTexts, read_passages
from rlm_mcp.viewer.story import Story, story_of

FILE_NAME = "page.html"

# In this order: each may use what those before it define.
_SHARED = ("dom.js", "code.js", "theme.js", "shape.js", "tree.js", "coverage.js", "turns.js")
_RUN = (*_SHARED, "grid.js", "flight.js", "answer.js", "spending.js", "detail.js", "run.js")
_SCRIPTS = {
    "run": (*_RUN, "follow.js"),
    "run-app": (*_RUN, "host.js", "run-app.js"),
    "context-app": ("dom.js", "structure.js", "host.js", "context-app.js"),
    "index": ("dom.js", "theme.js", "index.js"),
    "compare": (*_SHARED, "compare.js"),
}

PageKind = Literal["run", "run-app", "context-app", "index", "compare"]


class PageNotWritten(RlmError):
    """The file of a page cannot be written."""


def write_page(record: RunRecord | Iterable[Event], store: Store, path: Path | None = None) -> Path:
    """Writes the page of a run and returns its path.

    `record` is a stored run, whose page is written next to its record by default, or the events of another run, for
    which `path` must be given. Raises RunRecordTooNew, RunRecordDamaged, PageNotWritten.
    """
    if path is None:
        if isinstance(record, Iterable):
            raise ValueError("events alone have no directory: pass the path of the page")
        path = record.path_of(FILE_NAME)
    return write_text(path, run_page(record, store))


def write_text(path: Path, page: str) -> Path:
    """Writes a page atomically, so that a browser never reads half of it. Raises PageNotWritten."""
    try:
        with replacing(path) as file:
            file.write(page.encode())
    except OSError as error:
        raise PageNotWritten(
            f"the page cannot be written to {path} ({error.strerror}): name another place with --out"
        ) from error
    return path


def run_page(record: RunRecord | Iterable[Event], store: Store) -> str:
    """The HTML page of a run. Raises RunRecordTooNew, RunRecordDamaged."""
    story, facts = run_facts(record, store)
    return assemble("run", title=story.title, data=facts)


def compare_page(first: RunRecord, second: RunRecord, store: Store) -> tuple[str, dict[str, Any]]:
    """The HTML page of two runs side by side, and their comparison. Raises RunRecordTooNew, RunRecordDamaged."""
    both = [run_facts(run, store)[1] for run in (first, second)]
    facts = compare_runs(*both)
    title = f"{first.run_id} and {second.run_id}"
    return assemble("compare", title=title, data={"runs": both, "facts": facts}), facts


def run_facts(record: RunRecord | Iterable[Event], store: Store) -> tuple[Story, dict[str, Any]]:
    """The story of a run and the data of its page, read from its record and from the store."""
    if isinstance(record, Iterable):
        story = story_of(record)
        return story, page_data(story, read_passages(store, story.context_ids, story.citations))
    is_live = record.is_live()  # first: a run that ends in between has its end on record when the record is read
    story = story_of(event for event, _ in record.events_from(0))
    texts = read_passages(store, story.context_ids, story.citations)
    data = page_data(story, texts, is_live=is_live, answer=record.answer())
    if not is_live and record.is_torn():
        data["head"]["notes"].append("The record ends in the middle of an event, so what came after it is lost.")
    return story, data


def page_data(story: Story, texts: StoredTexts, *, is_live: bool = False, answer: object = None) -> dict[str, Any]:
    """The data for the script of the page."""
    coverage = coverage_data(story.coverage, story.contexts, texts.files, texts.places) if story.coverage else None
    return {
        "version": __version__,
        "head": story.head(is_live=is_live, answer=answer),
        "rows": story.rows,
        "passages": texts.passages,
        "coverage": coverage,
    }


# --- assembling


def assemble(kind: PageKind, *, title: str, data: Mapping[str, Any], follows: bool = False) -> str:
    """The HTML page. If it `follows` a run, it is served, and may request new data from its server."""
    style, script = _part("page.css"), "".join(_part(name) for name in _SCRIPTS[kind])
    script = f'(() => {{\n"use strict";\n{script}}})();\n'
    parts = {
        "policy": policy(style, script, follows=follows),
        "title": html.escape(escape_controls(title)),
        "kind": kind,
        "style": style,
        "data": as_data(data),
        "script": script,
    }
    # Split once: inserted text may hold anything, marks like these included.
    pieces = re.split(r"\{\{(\w+)\}\}", _part("page.html"))
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def policy(style: str, script: str, *, follows: bool) -> str:
    """The content security policy: this style, this script and, if it follows a run, requests to its own server."""
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "img-src data:",
            "connect-src 'self'" if follows else "connect-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def as_data(value: object) -> str:
    """JSON that is safe in a script element: ASCII, with nothing that begins a tag, a comment or an entity."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _part(name: str) -> str:
    return files("rlm_mcp.viewer").joinpath("static", name).read_text(encoding="utf-8")

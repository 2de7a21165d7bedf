"""Data of a page from the store: the lines of each citation with those around them, and the sizes of files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.errors import ContextError, OutOfRange, StorageUnreachable
from rlm_mcp.viewer.coverage import FileSize
from rlm_mcp.viewer.story import Cut, head_and_tail

LINES_AROUND = 3
MOST_PASSAGE_CHARS = 12_000
MOST_AROUND_CHARS = 2_000
MOST_LINE_CHARS = 2_000
MOST_PASSAGES = 200  # further citations are shown by their quotes alone


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTexts:
    """The facts that the store adds to a record, ready for JSON."""

    passages: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """by the number of the citation"""
    places: Mapping[int, tuple[str, str, int]] = field(default_factory=dict)
    """context, path and first character of each citation"""
    files: Mapping[str, Sequence[FileSize]] = field(default_factory=dict)
    """by context id"""


def read_passages(store: Store, context_ids: Sequence[str], citations: Sequence[Mapping[str, Any]]) -> StoredTexts:
    """Reads the passages and file sizes. Removed contexts are left out; an unreadable citation says why."""
    contexts: dict[str, Context] = {}
    files: dict[str, Sequence[FileSize]] = {}
    for identity in context_ids:
        try:
            contexts[identity] = store.get(identity)
            entries = store.files(contexts[identity])
        except ContextError:
            continue
        files[identity] = [FileSize(path=entry.path, chars=entry.chars) for entry in entries]
    passages: dict[int, Mapping[str, Any]] = {}
    places: dict[int, tuple[str, str, int]] = {}
    for number, citation in enumerate(citations[:MOST_PASSAGES]):
        if citation["state"] == "unverified" or citation["start_line"] < 1:
            continue
        context = contexts.get(str(citation["context_id"]))
        if context is None:
            passages[number] = {"missing": "The context is no longer stored, so only the quote can be shown."}
            continue
        try:
            passages[number] = _passage(store, context, citation)
            char = store.locate_line(context, citation["start_line"], path=citation["path"]).char
        except (ContextError, StorageUnreachable) as error:
            passages[number] = {"missing": f"The text cannot be read: {error}"}
        else:
            places[number] = (context.context_id, str(citation["path"]), char)
    return StoredTexts(passages=passages, places=places, files=files)


def _passage(store: Store, context: Context, citation: Mapping[str, Any]) -> dict[str, Any]:
    """The cited lines, and a few on either side."""
    path, start, end = str(citation["path"]), int(citation["start_line"]), int(citation["end_line"])
    cited = store.read_lines(context, start, end, path=path, max_chars=MOST_PASSAGE_CHARS)
    first = max(1, start - LINES_AROUND)
    before = _around(store, context, path, first, start - 1)
    after = [] if cited.truncated else _around(store, context, path, end + 1, end + LINES_AROUND)
    return {
        "first_line": start - len(before),
        "before": before,
        "cited": _lines(cited.text),
        "after": after,
        "cut": cited.truncated,
    }


def _around(store: Store, context: Context, path: str, first: int, last: int) -> list[Cut]:
    """These lines; none where the text has ended or they are too long."""
    if last < first:
        return []
    try:
        lines = store.read_lines(context, first, last, path=path, max_chars=MOST_AROUND_CHARS)
    except OutOfRange:
        return []
    return [] if lines.truncated else _lines(lines.text)


def _lines(text: str) -> list[Cut]:
    return [head_and_tail(line.removesuffix("\r"), MOST_LINE_CHARS) for line in text.removesuffix("\n").split("\n")]

"""The index of a data directory: all runs and contexts, newest first, on disk or served and followed.

A followed index reads again the newest runs and those that go on; older ones have ended and stay as they are.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.records.protocols import RunStore
from rlm_mcp.records.types import RunState
from rlm_mcp.viewer.page import FILE_NAME, assemble, write_text
from rlm_mcp.viewer.story import USAGE, head_and_tail

MOST_LISTED_RUNS = 1_000
MOST_CONTEXTS = 1_000
NEWEST_RUNS = 20
"""Read again by a followed index, so that new and resumed runs are found."""
MOST_QUERY_CHARS = 400
_MOST_NAMES = 8  # of contexts of one run

PageAddress = Callable[[str], str]
"""Where the page of a run is, seen from the index; empty if it is not written."""


class FollowedIndex:
    """The data of the index. Safe from any thread."""

    def __init__(self, records: RunStore, store: Store, address: PageAddress, *, served: bool = False) -> None:
        self._records = records
        self._store = store
        self._address = address
        self._served = served
        self._lock = threading.Lock()
        self._rows: dict[str, dict[str, Any]] = {}
        self._has_more = False
        self._seen: Mapping[str, Any] = {}
        self._changes = 0

    def __repr__(self) -> str:
        return f"<FollowedIndex of {len(self._rows)} runs>"

    def page(self) -> str:
        """The whole index as of now."""
        with self._lock:
            data = self._data()
        return assemble("index", title="Runs and contexts", data=data, follows=self._served)

    def news(self, seen: int) -> Mapping[str, Any] | None:
        """The index if it is not the one that a page has seen."""
        with self._lock:
            data = self._data()
        return None if data["changes"] == seen else data

    def _data(self) -> dict[str, Any]:
        self._read_runs()
        contexts = self._store.list(limit=MOST_CONTEXTS)
        rows = sorted(self._rows.values(), key=lambda row: (row["created_at"], row["id"]), reverse=True)
        data = {
            "runs": [{**row, "href": self._address(row["id"])} for row in rows],
            "has_more_runs": self._has_more,
            "contexts": [_context_row(context) for context in contexts.contexts],
            "contexts_in_all": contexts.total,
            "follow": self._served,
        }
        if data != self._seen:
            self._seen = data
            self._changes += 1
        return {**data, "changes": self._changes}

    def _read_runs(self) -> None:
        if not self._rows:
            page = self._records.list(limit=MOST_LISTED_RUNS)
            self._has_more = page.next_cursor is not None
        else:
            page = self._records.list(limit=NEWEST_RUNS)
        newest = {state.run_id for state in page.runs}
        going_on = [run_id for run_id, row in self._rows.items() if row["is_live"] and run_id not in newest]
        for state in (*page.runs, *(self._records.get(run_id).state() for run_id in going_on)):
            if state.created_at or not self._records.get(state.run_id).is_live():  # else it is just being created
                self._rows[state.run_id] = _run_row(state)


def write_index(records: RunStore, store: Store, path: Path) -> Path:
    """Writes the index and returns its path. It leads to the pages that `write_page` has written next to the records.

    Raises PageNotWritten.
    """

    def address(run_id: str) -> str:
        page = records.get(run_id).path_of(FILE_NAME)
        return page.resolve().as_uri() if page.is_file() else ""

    return write_text(path, FollowedIndex(records, store, address).page())


def _run_row(state: RunState) -> dict[str, Any]:
    return {
        "id": state.run_id,
        "is_live": state.status == "running",
        "status": state.status,
        "stopped_by": state.stopped_by or "",
        "created_at": state.created_at,
        "query": head_and_tail(state.query, MOST_QUERY_CHARS),
        "contexts": _names(state.contexts),
        "answer": _answer_head(state.answer) or state.message[:MOST_QUERY_CHARS],
        "citations": [sum(one.verified for one in state.citations), len(state.citations)],
        "turns": state.iterations,
        "usage": {name: getattr(state.usage, name) for name in (*USAGE, "cost_usd", "seconds")},
    }


def _names(contexts: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [str(context.get("name") or context.get("context_id") or "") for context in contexts]
    more = len(names) - _MOST_NAMES
    return names if more <= 0 else [*names[:_MOST_NAMES], f"{more} more"]


def _answer_head(answer: object) -> str:
    if answer is None:
        return ""
    text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, default=str)
    return text[:MOST_QUERY_CHARS]


def _context_row(context: Context) -> dict[str, Any]:
    names = ("context_id", "name", "kind", "chars", "lines", "files", "created_at", "source", "version")
    return {name: getattr(context, name) for name in names}

"""A run read bit by bit while it goes on: for the page served on loopback, and for the page inside a chat.

A page asks for what it lacks. The served page gets it at once (`news`); a page inside a chat in pieces that fit into
results of tools (`piece`).
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.records.protocols import RunRecord, RunStore
from rlm_mcp.viewer.page import assemble, page_data
from rlm_mcp.viewer.passages import StoredTexts, read_passages
from rlm_mcp.viewer.story import MOST_CALL_CHARS, Story

PIECE_CHARS = 200_000
"""Claude Desktop refuses results above 1 MB; as a string in JSON, a piece can take twice its characters."""

PIECE_CALL_CHARS = 400
"""Length of each reply of a sub-call in pieces: five thousand calls are then about twenty pieces."""

MOST_PIECE_ROWS = 20_000
"""Rows of one run in pieces. This bounds what the browser holds."""

MOST_KEPT_ROWS = 160_000
"""Rows of all runs that one owner's pages follow: eight runs of the longest that a page shows, or many short ones."""

RUN_ROWS = 1_000
"""Rows that a run counts for besides its own: for its facts, and the text that its page has not yet fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePiece:
    """A part of the data that a page lacks, as JSON text. The page joins parts until one is the `last` of its text."""

    text: str
    offset: int
    """where the part belongs in the text"""
    is_last: bool
    next_rows: int
    """the rows that the page has with this text"""
    is_behind: bool
    """there is more to be had at once"""
    is_live: bool


class FollowedRun:
    """The page data of a run; each call reads what its record has gained since the last. Safe from any thread."""

    def __init__(self, run: RunRecord, store: Store, *, call_chars: int = MOST_CALL_CHARS) -> None:
        self._run = run
        self._store = store
        self._story = Story(call_chars=call_chars)
        self._position = 0
        self._lock = threading.Lock()
        self._rest: tuple[int, str] | None = None
        """rows that a page has, and all that it lacks of a run that does not go on"""

    def __repr__(self) -> str:
        return f"<FollowedRun {self._run.run_id}, {self._position:,} bytes read>"

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self._run.run_id

    @property
    def kept_rows(self) -> int:
        """The size of this object in memory, in rows."""
        return len(self._story.rows) + RUN_ROWS

    def page(self) -> str:
        """The whole page as of now. Raises RunRecordDamaged, RunRecordTooNew."""
        with self._lock:
            data, is_live = self._data()
            title = self._story.title
        return assemble("run", title=title, data={**data, "follow": is_live}, follows=True)

    def news(self, rows: int) -> Mapping[str, Any] | None:
        """The data that a page with so many rows lacks; None if there is nothing new and the run goes on."""
        with self._lock:
            data, is_live = self._data()
        if is_live and len(data["rows"]) <= rows:
            return None
        return {**data, "rows": data["rows"][rows:]}

    def piece(self, rows: int, offset: int = 0) -> PagePiece:
        """The data that a page with so many rows lacks, from a character of its JSON text on.

        Raises RunRecordDamaged, RunRecordTooNew.
        """
        with self._lock:
            before = self._position
            if self._run.is_live() or self._read_new_events() != before:
                self._rest = None
            if self._rest is None or self._rest[0] != rows:
                data, is_live = self._data()
                if is_live:
                    return _live_piece(data, rows)
                self._rest = rows, _as_text({**data, "rows": _shown(data)[rows:]})
            return self._rest_piece(self._rest[1], rows, offset)

    def _rest_piece(self, text: str, rows: int, offset: int) -> PagePiece:
        offset = offset if 0 <= offset < len(text) else 0
        end = offset + PIECE_CHARS
        is_last = end >= len(text)
        return PagePiece(
            text=text[offset:end],
            offset=offset,
            is_last=is_last,
            next_rows=min(len(self._story.rows), MOST_PIECE_ROWS) if is_last else rows,
            is_behind=not is_last,
            is_live=False,
        )

    def _data(self) -> tuple[dict[str, Any], bool]:
        is_live = self._run.is_live()  # first: everything that was written before the end is then read
        self._read_new_events()
        story = self._story
        texts = read_passages(self._store, story.context_ids, story.citations) if story.has_ended else StoredTexts()
        answer = self._run.answer() if story.has_ended else None
        data = page_data(story, texts, is_live=is_live, answer=answer)
        return {**data, "rows": list(story.rows)}, is_live and not story.has_ended

    def _read_new_events(self) -> int:
        """Reads on, and returns how far the record has been read."""
        for event, end in self._run.events_from(self._position):
            self._story.add(event)
            self._position = end
        return self._position


class FollowedRuns:
    """The followed runs of one store: the last used, with `most_rows` together. Safe from any thread.

    The record of a run that is not among them is read from its beginning.
    """

    def __init__(
        self,
        records: RunStore,
        store: Store,
        *,
        call_chars: int = MOST_CALL_CHARS,
        most_rows: int = MOST_KEPT_ROWS,
    ) -> None:
        self._records = records
        self._store = store
        self._call_chars = call_chars
        self._most_rows = most_rows
        self._followed: OrderedDict[str, FollowedRun] = OrderedDict()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<FollowedRuns of {self._records!r}, {len(self._followed)} kept>"

    def __len__(self) -> int:
        return len(self._followed)

    def get(self, run_id: str) -> FollowedRun:
        """The run, which keeps its place in its record. Raises UnknownRun, AmbiguousRun."""
        run = self._records.get(run_id)
        with self._lock:
            followed = self._followed.pop(run.run_id, None) or FollowedRun(
                run, self._store, call_chars=self._call_chars
            )
            self._followed[run.run_id] = followed
            rows = sum(one.kept_rows for one in self._followed.values())
            while rows > self._most_rows and len(self._followed) > 1:
                rows -= self._followed.popitem(last=False)[1].kept_rows
        return followed

    def forget(self, followed: FollowedRun) -> None:
        """Keeps the run no longer, because its page has all of it."""
        with self._lock:
            self._followed.pop(followed.run_id, None)


def _shown(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = data["rows"]
    if len(rows) > MOST_PIECE_ROWS:
        shown = f"The first {MOST_PIECE_ROWS:,} of {len(rows):,} events are shown"
        left_out = f"{shown}; rlm-mcp runs view {data['head']['id']} shows all."
        data["head"]["notes"].append(left_out)
    return rows[:MOST_PIECE_ROWS]


def _live_piece(data: Mapping[str, Any], rows: int) -> PagePiece:
    """The rows that fit into one piece, and the facts at the top."""
    shown = _shown(data)
    used, end = 0, min(rows, len(shown))
    while end < len(shown) and used < PIECE_CHARS:
        used += len(_as_text(shown[end]))
        end += 1
    text = _as_text({**data, "rows": shown[rows:end]})
    return PagePiece(text=text, offset=0, is_last=True, next_rows=end, is_behind=end < len(shown), is_live=True)


def _as_text(value: object) -> str:
    """JSON that can be encoded: without lone surrogates, which stand for undecodable bytes."""
    return (
        json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        .encode("utf-8", "replace")
        .decode("utf-8")
    )

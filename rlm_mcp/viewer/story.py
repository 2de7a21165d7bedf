"""The content of a run's page, computed from its events: facts for the top, and a row for each thing that happened.

A record holds text from models, contexts and crashes. Lines and events of unknown shape are left out and counted. Text
stays text; one that is longer than its share of the page becomes its head, its tail and its true length.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rlm_mcp.errors import RunRecordDamaged
from rlm_mcp.records.events import (
    Cell,
    Decided,
    Event,
    JsonMap,
    RootAsked,
    RootReply,
    Routed,
    RunEnded,
    RunLeft,
    RunResumed,
    RunStarted,
    SubAsked,
    SubFailed,
    SubReply,
)
from rlm_mcp.records.fold import RunFold
from rlm_mcp.viewer.timing import Timing, number, seconds_of

Cut = str | dict[str, Any]
"""A text, or `{"head", "tail", "chars"}` of one that was cut."""

MOST_ANSWER_CHARS = 200_000
MOST_TEXT_CHARS = 24_000  # of a prompt, reply, block or output
MOST_CALL_CHARS = 4_000  # of a sub-call's reply: a thousand of these are four megabytes
MOST_CALLS_CHARS = 6_000_000  # of all replies of sub-calls: a browser opens this much in a second or two
LEAST_CALL_CHARS = 120
MOST_CITATIONS = 500
_MOST_VARIABLES = 40
_TAIL_SHARE = 4  # a quarter of what is kept of a text is its end

USAGE = (
    "root_calls", "sub_calls", "cached_calls", "failed_calls", "calls_in_vain", "prompt_tokens", "completion_tokens"
)  # fmt: skip


class Story:
    """The content of one page, built event by event. `rows` only grows, so that a page can follow a run."""

    def __init__(self, *, call_chars: int = MOST_CALL_CHARS) -> None:
        self.rows: list[dict[str, Any]] = []
        self._call_chars = call_chars
        self._timing = Timing()
        self._fold = RunFold()
        self._unread = 0
        self._unknown = 0

    def __repr__(self) -> str:
        return f"<Story of {self._fold.started.run_id if self._fold.started else 'nothing yet'}, {len(self.rows)} rows>"

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended, as far as its events tell."""
        return self._fold.ended is not None

    @property
    def title(self) -> str:
        """The title of the page."""
        started = self._fold.started
        return " · run" if started is None else f"{' '.join(started.query.split())[:80]} · {started.run_id}"

    @property
    def context_ids(self) -> tuple[str, ...]:
        """The contexts of the run."""
        return tuple(context["context_id"] for context in self.contexts)

    @property
    def coverage(self) -> Mapping[str, Any]:
        """The coverage in the last event; empty before the end."""
        return self._fold.ended.coverage if self._fold.ended else {}

    @property
    def contexts(self) -> list[dict[str, Any]]:
        """Name and size of each context."""
        return [
            {
                "context_id": str(context.get("context_id", "")),
                "name": str(context.get("name", "")),
                "kind": str(context.get("kind", "")),
                "chars": as_count(context.get("chars")),
                "lines": as_count(context.get("lines")),
                "files": as_count(context.get("files")),
            }
            for context in _objects(self._fold.started.contexts if self._fold.started else ())
        ]

    @property
    def citations(self) -> list[dict[str, Any]]:
        """The first MOST_CITATIONS citations of the answer."""
        return [
            {
                "context_id": str(one.get("context_id") or ""),
                "path": str(one.get("path") or ""),
                "start_line": as_count(one.get("start_line")),
                "end_line": as_count(one.get("end_line")),
                "quote": head_and_tail(str(one.get("quote") or ""), MOST_CALL_CHARS),
                "state": _state_of(one),
            }
            for one in self._cited[:MOST_CITATIONS]
        ]

    @property
    def _cited(self) -> list[JsonMap]:
        return _objects(self._fold.ended.citations if self._fold.ended else ())

    def add(self, event: Event | None) -> None:
        """Adds the next event, or None for a line of the record that is no event."""
        if event is None:
            self._unread += 1
            return
        pause = self._timing.pause_before(event)
        span = self._timing.span_of(event)
        self._fold.apply(event)
        row = self._row(event, pause)
        if row is not None:
            start, end = (round(moment, 3) for moment in span)
            self.rows.append({"path": event.path, "turn": event.turn, "start": start, "end": end} | row)

    def head(self, *, is_live: bool, answer: object = None) -> dict[str, Any]:
        """The facts at the top. `answer` is the stored answer, for records that leave a long one to a file."""
        started, ended, route = self._fold.started, self._fold.ended, self._fold.route
        usage = _usage(self._fold.spent)
        if started is None:
            raise RunRecordDamaged("the record of this run has no readable first event, so nothing of it can be shown")
        status = (ended and ended.status) or ("running" if is_live else "cut off")
        given = ended.answer if ended and ended.answer is not None else answer
        return {
            "id": started.run_id,
            "status": status,
            "is_live": is_live and not ended,
            "created_at": started.created_at,
            "query": head_and_tail(started.query, MOST_TEXT_CHARS),
            "models": {role: str(_object(started.models.get(role)).get("name", "")) for role in ("root", "sub")},
            "mode": route.mode if route else "",
            "mode_reason": route.reason if route else "",
            "depth": route.depth if route else 0,
            "stopped_by": (ended and ended.stopped_by) or "",
            "answered_by": ended.answered_by if ended else "",
            "confidence": (ended and ended.confidence) or "",
            "message": ended.message if ended else "",
            "limits": {name: value for name, value in started.limits.items() if number(value)},
            "usage": usage | {"seconds": usage["seconds"] or round(self._timing.end, 3)},
            "turns": (ended and ended.iterations) or self._fold.replies,
            "end": round(self._timing.end, 3),
            "contexts": self.contexts,
            "answer": None if given is None else _answer(given, (ended and ended.answer_chars) or 0),
            "citations": self.citations,
            "notes": self._notes(),
        }

    def _row(self, event: Event, pause: float) -> dict[str, Any] | None:
        match event:
            case Routed():
                told = {"kind": "routed", "mode": event.mode, "text": event.reason}
                return told | {"query": head_and_tail(event.query or "", MOST_CALL_CHARS)}
            case RootReply():
                return _reply(event)
            case Cell():
                return _cell(event)
            case SubReply() | SubFailed():
                return _call(event, self._call_chars)
            case Decided():
                return {"kind": "decided", "step": event.step, "why": event.why, "detail": event.detail}
            case RunEnded():
                return _end(event)
            case RunResumed():
                return {"kind": "resumed", "pause": round(pause, 3)}
            case RunStarted() | RunLeft() | RootAsked() | SubAsked():
                return None
        self._unknown += 1
        return None

    def _notes(self) -> list[str]:
        notes = []
        if self._unread:
            notes.append(f"Left out: {self._unread:,} lines of the record that are no events.")
        if self._unknown:
            notes.append(f"Left out: {self._unknown:,} events of kinds that this version does not know.")
        cited = len(self._cited)
        if cited > MOST_CITATIONS:
            notes.append(f"The first {MOST_CITATIONS} of {cited:,} citations are shown.")
        return notes


def call_chars(calls: int) -> int:
    """How many characters of each reply a page with so many sub-calls holds."""
    return max(LEAST_CALL_CHARS, min(MOST_CALL_CHARS, MOST_CALLS_CHARS // max(calls, 1)))


def story_of(events: Iterable[Event | None]) -> Story:
    """The story of a whole record."""
    kept = list(events)
    calls = sum(isinstance(event, SubReply | SubFailed) for event in kept)
    story = Story(call_chars=call_chars(calls))
    for event in kept:
        story.add(event)
    return story


def head_and_tail(text: str, most: int) -> Cut:
    """The text, or head and tail if it is longer than `most` characters."""
    if len(text) <= most:
        return text
    tail = most // _TAIL_SHARE
    return {"head": text[: most - tail], "tail": text[-tail:], "chars": len(text)}


def as_count(value: object) -> int:
    """A count, or 0."""
    return int(number(value))


# --- rows


def _reply(event: RootReply) -> dict[str, Any]:
    usage = event.usage
    return {
        "kind": "reply",
        "text": head_and_tail(event.text, MOST_TEXT_CHARS),
        "told": head_and_tail(event.told or "", MOST_TEXT_CHARS),
        "model": event.model,
        "finish": event.finish_reason,
        "tokens": [as_count(usage.get("prompt_tokens")), as_count(usage.get("completion_tokens"))],
        "cached_tokens": as_count(usage.get("cached_prompt_tokens")),
        "cost": _cost(usage.get("cost_usd")),
        "last": " ".join(str(part) for part in event.last[1:]),
        "spent": _usage(event.spent),
    }


def _cell(event: Cell) -> dict[str, Any]:
    return {
        "kind": "cell",
        "block": event.block,
        "seconds": round(seconds_of(event), 3),
        "code": head_and_tail(event.code, MOST_TEXT_CHARS),
        "stdout": head_and_tail(event.stdout, MOST_TEXT_CHARS),
        "stdout_chars": max(len(event.stdout), event.stdout_chars),
        "stderr": head_and_tail(event.stderr, MOST_CALL_CHARS),
        "value": head_and_tail(event.value or "", MOST_CALL_CHARS),
        "error": _error(event.error),
        "stopped_by": event.stopped_by or "",
        "undone": event.undone,
        "changed": [str(name) for name in event.changed][:_MOST_VARIABLES],
        "notes": [str(note) for note in event.notes][:_MOST_VARIABLES],
        "final": str(event.final.get("via") or "") if event.final else "",
    }


def _error(error: JsonMap | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {
        "type": str(error.get("type") or ""),
        "message": head_and_tail(str(error.get("message") or ""), MOST_CALL_CHARS),
        "line": as_count(error.get("line")),
        "traceback": head_and_tail(str(error.get("traceback") or ""), MOST_CALL_CHARS),
    }


def _call(event: SubReply | SubFailed, most: int) -> dict[str, Any]:
    failed = isinstance(event, SubFailed)
    text, kind = (event.error, "text") if isinstance(event, SubFailed) else text_of(event.said("?"))
    usage = event.usage
    told: dict[str, Any] = {
        "kind": "call",
        "prompt": head_and_tail(event.prompt_head, MOST_CALL_CHARS),
        "prompt_chars": event.prompt_chars or 0,
        "text": head_and_tail(text, most),
        "is_json": kind == "json",
        "failed": failed,
        "child": event.child or "",
        "model": event.model or "",
        "cached": event.cached is True,
    }
    if not usage:  # of a child run, whose own events have it, or of a call that reached no model
        return told | {"spent": _usage(event.spent)}
    return told | {
        "tokens": [as_count(usage.get("prompt_tokens")), as_count(usage.get("completion_tokens"))],
        "cost": _cost(usage.get("cost_usd")),
        "asked_seconds": round(number(usage.get("request_seconds")), 3),
    }


def _end(event: RunEnded) -> dict[str, Any]:
    return {
        "kind": "ended",
        "status": event.status,
        "stopped_by": event.stopped_by or "",
        "text": head_and_tail("" if event.answer is None else text_of(event.answer)[0], MOST_TEXT_CHARS),
        "message": event.message,
        "usage": _usage(event.usage),
    }


# --- pieces


def text_of(value: object) -> tuple[str, str]:
    """The text that shows a value, and whether it is "text" or "json"."""
    if isinstance(value, str):
        return value, "text"
    return json.dumps(value, ensure_ascii=False, indent=1, default=str), "json"


def _answer(value: object, chars: int) -> dict[str, Any]:
    text, kind = text_of(value)
    return {"text": head_and_tail(text, MOST_ANSWER_CHARS), "kind": kind, "chars": max(chars, len(text))}


def _state_of(citation: Mapping[str, Any]) -> str:
    if citation.get("verified") is not True:
        return "unverified"
    return "corrected" if citation.get("corrected") is True else "verified"


def _usage(spent: object) -> dict[str, Any]:
    known = _object(spent)
    counts: dict[str, Any] = {name: as_count(known.get(name)) for name in USAGE}
    return counts | {"cost_usd": _cost(known.get("cost_usd")), "seconds": round(number(known.get("seconds")), 3)}


def _cost(value: object) -> float | None:
    return None if value is None else number(value)


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(values: Iterable[object]) -> list[JsonMap]:
    return [one for one in values if isinstance(one, Mapping)]

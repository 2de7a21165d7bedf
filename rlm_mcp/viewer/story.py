"""What the page of a run shows, computed from its events: facts at the top, and a row for each thing that happened.

A record is text from models, contexts and crashes. What does not have the expected shape is left out and counted; every
text is kept as text, and one that is longer than its share of the page becomes its head, its tail and its true length.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rlm_mcp.errors import RunRecordDamaged
from rlm_mcp.records.events import Event
from rlm_mcp.viewer.timing import Timing, number, path_of, seconds_of

Cut = str | dict[str, Any]
"""A text, or `{"head", "tail", "chars"}` of one that was cut."""

MOST_ANSWER_CHARS = 200_000
MOST_TEXT_CHARS = 24_000  # of a prompt, a reply, a block or an output
MOST_CALL_CHARS = 4_000  # of a sub-call's reply; a thousand of these make four megabytes
MOST_CALLS_CHARS = 6_000_000  # of all replies of sub-calls: what a browser opens in a second or two
LEAST_CALL_CHARS = 120
MOST_CITATIONS = 500
_MOST_VARIABLES = 40
_TAIL_SHARE = 4  # one part in four of what is kept is the end of a text

USAGE = ("root_calls", "sub_calls", "cached_calls", "failed_calls", "prompt_tokens", "completion_tokens")


class Story:
    """A run told event by event; `rows` only ever grows, so that a page can follow it."""

    def __init__(self, *, call_chars: int = MOST_CALL_CHARS) -> None:
        self.rows: list[dict[str, Any]] = []
        self._call_chars = call_chars
        self._timing = Timing()
        self._started: Event = {}
        self._ended: Event = {}
        self._route: Event = {}
        self._usage: dict[str, Any] = _usage({})
        self._turns = 0
        self._unread = 0
        self._unknown = 0

    def __repr__(self) -> str:
        return f"<Story of {self._started.get('run_id', 'nothing yet')}, {len(self.rows)} rows>"

    @property
    def has_ended(self) -> bool:
        """Whether the record has its last event."""
        return bool(self._ended)

    @property
    def title(self) -> str:
        """What a tab of the browser shows."""
        return f"{' '.join(str(self._started.get('query', '')).split())[:80]} · {self._started.get('run_id', 'run')}"

    @property
    def context_ids(self) -> tuple[str, ...]:
        """The contexts that the run is about."""
        return tuple(str(context.get("context_id", "")) for context in _objects(self._started.get("contexts")))

    @property
    def coverage(self) -> Mapping[str, Any]:
        """What was read, as the record's last event has it."""
        return _object(self._ended.get("coverage"))

    @property
    def contexts(self) -> list[dict[str, Any]]:
        """Name and size of each context."""
        return [
            {
                "context_id": str(context.get("context_id", "")),
                "name": str(context.get("name", "")),
                "kind": str(context.get("kind", "")),
                "chars": whole(context.get("chars")),
                "lines": whole(context.get("lines")),
                "files": whole(context.get("files")),
            }
            for context in _objects(self._started.get("contexts"))
        ]

    @property
    def citations(self) -> list[dict[str, Any]]:
        """What the answer rests on: at most MOST_CITATIONS."""
        return [
            {
                "context_id": str(one.get("context_id") or ""),
                "path": str(one.get("path") or ""),
                "start_line": whole(one.get("start_line")),
                "end_line": whole(one.get("end_line")),
                "quote": cut(str(one.get("quote") or ""), MOST_CALL_CHARS),
                "state": _state_of(one),
            }
            for one in _objects(self._ended.get("citations"))[:MOST_CITATIONS]
        ]

    def tell(self, event: object) -> None:
        """Takes in the next event."""
        if not isinstance(event, Mapping) or not isinstance(event.get("event"), str):
            self._unread += 1
            return
        pause = self._timing.pause_before(event)
        span = self._timing.place(event)
        if not path_of(event):
            self._note(event)
        row = self._row(event, pause)
        if row is not None:
            start, end = (round(moment, 3) for moment in span)
            self.rows.append(
                {"path": path_of(event), "turn": whole(event.get("turn")), "start": start, "end": end} | row
            )

    def head(self, *, is_live: bool, answer: object = None) -> dict[str, Any]:
        """The facts at the top. `answer` is the stored one, for records that leave a long answer to its own file."""
        started, ended = self._started, self._ended
        if not started:
            raise RunRecordDamaged("the record of this run has no readable first event, so nothing of it can be shown")
        status = str(ended.get("status") or ("running" if is_live else "cut off"))
        models = _object(started.get("models"))
        given = ended.get("answer") if ended.get("answer") is not None else answer
        return {
            "id": str(started.get("run_id", "")),
            "status": status,
            "is_live": is_live and not ended,
            "created_at": str(started.get("created_at", "")),
            "query": cut(str(started.get("query", "")), MOST_TEXT_CHARS),
            "models": {role: str(_object(models.get(role)).get("name", "")) for role in ("root", "sub")},
            "mode": str(self._route.get("mode", "")),
            "mode_reason": str(self._route.get("reason", "")),
            "depth": whole(self._route.get("depth")),
            "stopped_by": str(ended.get("stopped_by") or ""),
            "answered_by": str(ended.get("answered_by") or ""),
            "message": str(ended.get("message") or ""),
            "limits": {name: value for name, value in _object(started.get("limits")).items() if number(value)},
            "usage": self._usage | {"seconds": self._usage["seconds"] or round(self._timing.end, 3)},
            "turns": whole(ended.get("iterations")) or self._turns,
            "end": round(self._timing.end, 3),
            "contexts": self.contexts,
            "answer": None if given is None else _answer(given, whole(ended.get("answer_chars"))),
            "citations": self.citations,
            "notes": self._notes(),
        }

    def _note(self, event: Event) -> None:
        """What the run that the client asked for says about itself."""
        match event["event"]:
            case "run_started":
                self._started = event
            case "run_resumed":
                self._ended = {}
            case "routed":
                self._route = event
            case "root_reply":
                self._turns = max(self._turns, whole(event.get("turn")))
                self._usage = _usage(event.get("spent"))
            case "sub_reply" | "sub_failed":
                self._usage = _usage(event.get("spent")) if event.get("spent") else self._usage
            case "run_ended":
                self._ended = event
                self._usage = _usage(event.get("usage")) if event.get("usage") else self._usage

    def _row(self, event: Event, pause: float) -> dict[str, Any] | None:
        match event["event"]:
            case "routed":
                told = {"kind": "routed", "mode": str(event.get("mode", "")), "text": str(event.get("reason", ""))}
                return told | {"query": cut(str(event.get("query") or ""), MOST_CALL_CHARS)}
            case "root_reply":
                return _reply(event)
            case "cell":
                return _cell(event)
            case "sub_reply" | "sub_failed":
                return _call(event, self._call_chars)
            case "decided":
                return {"kind": "decided"} | {name: str(event.get(name) or "") for name in ("step", "why", "detail")}
            case "run_ended":
                return _end(event)
            case "run_resumed":
                return {"kind": "resumed", "pause": round(pause, 3)}
            case "run_started":
                return None
        self._unknown += 1
        return None

    def _notes(self) -> list[str]:
        notes = []
        if self._unread:
            notes.append(f"Left out: {self._unread:,} lines of the record that are no events.")
        if self._unknown:
            notes.append(f"Left out: {self._unknown:,} events of kinds that this version does not know.")
        cited = len(_objects(self._ended.get("citations")))
        if cited > MOST_CITATIONS:
            notes.append(f"The first {MOST_CITATIONS} of {cited:,} citations are shown.")
        return notes


def call_chars(calls: int) -> int:
    """How much of each sub-call's reply a page of so many sub-calls holds."""
    return max(LEAST_CALL_CHARS, min(MOST_CALL_CHARS, MOST_CALLS_CHARS // max(calls, 1)))


def told(events: Iterable[object]) -> Story:
    """The story of a whole record."""
    kept = list(events)
    calls = sum(isinstance(event, Mapping) and event.get("event") in ("sub_reply", "sub_failed") for event in kept)
    story = Story(call_chars=call_chars(calls))
    for event in kept:
        story.tell(event)
    return story


def cut(text: str, most: int) -> Cut:
    """The text, or head and tail of one that is longer than `most`."""
    if len(text) <= most:
        return text
    tail = most // _TAIL_SHARE
    return {"head": text[: most - tail], "tail": text[-tail:], "chars": len(text)}


def whole(value: object) -> int:
    """A count, or 0."""
    return int(number(value))


# --- rows


def _reply(event: Event) -> dict[str, Any]:
    usage = _object(event.get("usage"))
    return {
        "kind": "reply",
        "text": cut(str(event.get("text") or ""), MOST_TEXT_CHARS),
        "told": cut(str(event.get("told") or ""), MOST_TEXT_CHARS),
        "model": str(event.get("model") or ""),
        "finish": str(event.get("finish_reason") or ""),
        "tokens": [whole(usage.get("prompt_tokens")), whole(usage.get("completion_tokens"))],
        "cached_tokens": whole(usage.get("cached_prompt_tokens")),
        "cost": _cost(usage.get("cost_usd")),
        "last": " ".join(str(part) for part in _list(event.get("last"))[1:]),
        "spent": _usage(event.get("spent")),
    }


def _cell(event: Event) -> dict[str, Any]:
    stdout = str(event.get("stdout") or "")
    final = event.get("final")
    return {
        "kind": "cell",
        "block": whole(event.get("block")),
        "seconds": round(seconds_of(event), 3),
        "code": cut(str(event.get("code") or ""), MOST_TEXT_CHARS),
        "stdout": cut(stdout, MOST_TEXT_CHARS),
        "stdout_chars": max(len(stdout), whole(event.get("stdout_chars"))),
        "stderr": cut(str(event.get("stderr") or ""), MOST_CALL_CHARS),
        "value": cut(str(event.get("value") or ""), MOST_CALL_CHARS),
        "error": _error(event.get("error")),
        "stopped_by": str(event.get("stopped_by") or ""),
        "undone": bool(event.get("undone")),
        "changed": [str(name) for name in _list(event.get("changed"))][:_MOST_VARIABLES],
        "notes": [str(note) for note in _list(event.get("notes"))][:_MOST_VARIABLES],
        "final": str(_object(final).get("via") or "") if final else "",
    }


def _error(error: object) -> dict[str, Any] | None:
    if not isinstance(error, Mapping):
        return None
    return {
        "type": str(error.get("type") or ""),
        "message": cut(str(error.get("message") or ""), MOST_CALL_CHARS),
        "line": whole(error.get("line")),
        "traceback": cut(str(error.get("traceback") or ""), MOST_CALL_CHARS),
    }


def _call(event: Event, most: int) -> dict[str, Any]:
    text, kind = text_of(event.get("value"))
    failed = event["event"] == "sub_failed"
    usage = _object(event.get("usage"))
    told: dict[str, Any] = {
        "kind": "call",
        "prompt": cut(str(event.get("prompt_head") or ""), MOST_CALL_CHARS),
        "prompt_chars": whole(event.get("prompt_chars")),
        "text": cut(str(event.get("error") or "") if failed else text, most),
        "is_json": kind == "json",
        "failed": failed,
        "child": str(event.get("child") or ""),
        "model": str(event.get("model") or ""),
        "cached": event.get("cached") is True,
    }
    if not usage:  # a child run, whose own events tell, or a call that reached no model
        return told | {"spent": _usage(event.get("spent"))}
    return told | {
        "tokens": [whole(usage.get("prompt_tokens")), whole(usage.get("completion_tokens"))],
        "cost": _cost(usage.get("cost_usd")),
        "asked_seconds": round(number(usage.get("request_seconds")), 3),
    }


def _end(event: Event) -> dict[str, Any]:
    answer = event.get("answer")
    return {
        "kind": "ended",
        "status": str(event.get("status") or ""),
        "stopped_by": str(event.get("stopped_by") or ""),
        "text": cut("" if answer is None else text_of(answer)[0], MOST_TEXT_CHARS),
        "message": str(event.get("message") or ""),
        "usage": _usage(event.get("usage")),
    }


# --- pieces


def text_of(value: object) -> tuple[str, str]:
    """A value as the text that stands for it, and whether that is "text" or "json"."""
    if isinstance(value, str):
        return value, "text"
    return json.dumps(value, ensure_ascii=False, indent=1, default=str), "json"


def _answer(value: object, chars: int) -> dict[str, Any]:
    text, kind = text_of(value)
    return {"text": cut(text, MOST_ANSWER_CHARS), "kind": kind, "chars": max(chars, len(text))}


def _state_of(citation: Mapping[str, Any]) -> str:
    if citation.get("verified") is not True:
        return "unverified"
    return "corrected" if citation.get("corrected") is True else "verified"


def _usage(spent: object) -> dict[str, Any]:
    known = _object(spent)
    counts: dict[str, Any] = {name: whole(known.get(name)) for name in USAGE}
    return counts | {"cost_usd": _cost(known.get("cost_usd")), "seconds": round(number(known.get("seconds")), 3)}


def _cost(value: object) -> float | None:
    return None if value is None else number(value)


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [one for one in _list(value) if isinstance(one, Mapping)]

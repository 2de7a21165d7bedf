"""Events of a run: how they are read from a record, and the state that they lead to."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rlm_mcp.errors import RunRecordTooNew
from rlm_mcp.records.types import Citation, Coverage, RunState
from rlm_mcp.spending import Spent

Event = Mapping[str, Any]
"""One thing that happened in a run, as `runs.py` writes it: "event", "path" of the (child) run, "turn", and facts.

What only begins is told to `on_event` and not put on record: root_asked, cell_begun, sub_asked.
"""


FORMAT = 1


INLINE_ANSWER_CHARS = 200_000  # a longer answer is kept only in its own file, so that reading events stays cheap


def read_events(path: Path, *, until: int | None = None, only: tuple[bytes, ...] = ()) -> Iterator[dict[str, Any]]:
    """The events of a record file. A torn last line is left out; a newer format raises RunRecordTooNew.

    With `only`, what follows the first line is parsed where it begins so.
    """
    size = 0
    with path.open("rb") as file:
        for number, line in enumerate(file):
            size += len(line)
            if not line.endswith(b"\n") or (until is not None and size > until):
                return
            if only and number and not line.startswith(only):
                continue
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a line that a crash tore and a later writer ended
            if number == 0 and event.get("format", 0) > FORMAT:
                raise RunRecordTooNew(
                    f"{path.parent.name} was written in format {event['format']}, this version reads up to {FORMAT}:"
                    " update rlm-mcp"
                )
            yield event


def fold(events: Iterator[dict[str, Any]]) -> RunState:
    """The state that a sequence of events leads to."""
    started: dict[str, Any] = {}
    ended: dict[str, Any] = {}
    route: dict[str, Any] = {}
    usage: Mapping[str, Any] = {}
    iterations = 0
    for event in events:
        match event["event"]:
            case "run_started":
                started = event
            case "run_resumed" | "run_left":
                ended = {}
            case "routed" if not event.get("path"):
                route = event
            case "root_reply" if not event.get("path"):
                iterations = max(iterations, event["turn"])
                usage = event.get("spent") or usage
            case "root_reply" | "sub_reply" | "sub_failed":
                usage = event.get("spent") or usage
            case "run_ended" if not event.get("path"):
                ended = event
                usage = event.get("usage") or usage
    coverage = ended.get("coverage") or {}
    return RunState(
        run_id=started.get("run_id", ""),
        status=ended.get("status", "running"),
        query=started.get("query", ""),
        contexts=tuple(started.get("contexts", ())),
        created_at=started.get("created_at", ""),
        answer=ended.get("answer"),
        answer_chars=ended.get("answer_chars", 0),
        stopped_by=ended.get("stopped_by"),
        answered_by=ended.get("answered_by", ""),
        citations=tuple(Citation(**_known(Citation, c)) for c in ended.get("citations", ())),
        coverage=Coverage(**_known(Coverage, coverage)),
        usage=Spent.from_json(usage),
        iterations=ended.get("iterations", iterations),
        mode=route.get("mode", ""),
        mode_reason=route.get("reason", ""),
        depth=route.get("depth", 0),
        message=ended.get("message", ""),
        output_schema=started.get("output_schema"),
        fingerprint=started.get("fingerprint", ""),
    )


def ended_event(**facts: Any) -> dict[str, Any]:
    """The last event of a run. An answer too long for the record is left to its own file."""
    answer = facts.get("answer")
    text = answer if isinstance(answer, str) else json.dumps(answer)
    facts["answer_chars"] = 0 if answer is None else len(text)
    if len(text) > INLINE_ANSWER_CHARS:
        facts["answer"] = None
        facts["answer_sha256"] = hashlib.sha256(answer_bytes(answer)[1]).hexdigest()
    return {"event": "run_ended", **facts}


def answer_bytes(answer: object) -> tuple[str, bytes]:
    """The name and the bytes of the file that keeps an answer."""
    if isinstance(answer, str):
        return "answer.txt", answer.encode("utf-8", "surrogatepass")
    return "answer.json", json.dumps(answer, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")


def _known(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {name: value for name, value in data.items() if name in names}

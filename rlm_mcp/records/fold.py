"""The state that the events of a run lead to."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from rlm_mcp.records.events import (
    Event,
    RootReply,
    Routed,
    RunEnded,
    RunLeft,
    RunResumed,
    RunStarted,
    SubFailed,
    SubReply,
)
from rlm_mcp.records.types import Citation, Coverage, RunState
from rlm_mcp.spending import Spent


def fold(events: Iterable[Event]) -> RunState:
    """The state that a sequence of events leads to."""
    started = RunStarted(query="")
    ended = RunEnded(status="running", stopped_by=None, message="")
    route: Routed | None = None
    usage: Mapping[str, Any] = {}
    iterations = 0
    for event in events:
        match event:
            case RunStarted():
                started = event
            case RunResumed() | RunLeft():
                ended = RunEnded(status="running", stopped_by=None, message="")
            case Routed(path=""):
                route = event
            case RootReply():
                iterations = iterations if event.path else max(iterations, event.turn)
                usage = event.spent or usage
            case SubReply() | SubFailed():
                usage = event.spent or usage
            case RunEnded(path=""):
                ended = event
                usage = event.usage or usage
    return RunState(
        run_id=started.run_id,
        status=ended.status,
        query=started.query,
        contexts=tuple(started.contexts),
        created_at=started.created_at,
        answer=ended.answer,
        answer_chars=ended.answer_chars or 0,
        stopped_by=ended.stopped_by,
        answered_by=ended.answered_by,
        citations=tuple(Citation(**_known(Citation, one)) for one in ended.citations),
        coverage=Coverage(**_known(Coverage, ended.coverage)),
        usage=Spent.from_json(usage),
        iterations=ended.iterations if ended.tells_all else iterations,
        mode=route.mode if route else "",
        mode_reason=route.reason if route else "",
        depth=route.depth if route else 0,
        message=ended.message,
        output_schema=started.output_schema,
        fingerprint=started.fingerprint or "",
    )


def _known(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {name: value for name, value in data.items() if name in names}

"""The fold of a run's events: what they have led to so far, for everything that shows or reports a run.

`RunFold.apply` takes in one event after the other, as they happen or out of a record. The fold keeps what was asked,
which way the run took, what it has spent, how it ended, and the tree of runs that are going on: what each is doing and
which of its sub-calls are in flight. It does not keep what happened before: page and terminal, which list that, do so
event by event. Records have only those events that begin something which precede a request to a model, so in their fold
no block is being run.

There is no clock in here: `apply` is given the time, in seconds on any clock.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from rlm_mcp.records.events import (
    Cell,
    CellBegun,
    Event,
    JsonMap,
    RootAsked,
    RootReply,
    Routed,
    RunEnded,
    RunEvent,
    RunLeft,
    RunResumed,
    RunStarted,
    SubAsked,
    SubFailed,
    SubReply,
    is_sound,
    types_of,
)
from rlm_mcp.records.types import Citation, Confidence, Coverage, RunState, Status, StoppedBy
from rlm_mcp.spending import Spent

Phase = Literal["starting", "asking", "running", "calling", "done"]

_PHASES: Mapping[type[RunEvent], Phase] = {
    RunStarted: "starting",
    Routed: "asking",
    RootAsked: "asking",
    RootReply: "running",
    CellBegun: "running",
    SubAsked: "calling",
    SubReply: "calling",
    SubFailed: "calling",
    Cell: "asking",
    RunEnded: "done",
}


@dataclass(slots=True, kw_only=True)
class CallCounts:
    """The sub-calls of one block of code, counted."""

    asked: int = 0
    answered: int = 0
    cached: int = 0
    """of those answered: without asking a model again"""
    failed: int = 0

    @property
    def ended(self) -> int:
        """Answered or failed."""
        return self.answered + self.failed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Work:
    """A root call, a block of code or a sub-call that has begun and not ended yet. Compared by identity."""

    begun: RootAsked | CellBegun | SubAsked
    since: float
    counts: CallCounts
    """the counts that a sub-call belongs to"""


@dataclass(slots=True, kw_only=True, eq=False)
class OpenRun:
    """A run or child run that is going on."""

    path: str
    query: str
    since: float
    """when it began to do this"""
    call: Work | None = None
    """the sub-call that a child run answers"""
    turn: int = 0
    turns: int | None = None
    """the most that the run may take"""
    doing: Literal["starting", "asking", "running"] = "starting"
    code: str = ""
    """the block that is being run"""
    work: Work | None = None
    """the root call or block in progress"""
    counts: CallCounts = field(default_factory=CallCounts)
    """sub-calls of the block that is being run"""
    calls: dict[str, list[Work]] = field(default_factory=dict)
    """sub-calls in flight by key; the same request can be in flight twice"""

    @property
    def depth(self) -> int:
        """0 for the run that a client asked for, 1 for its children, and so on."""
        return depth_of(self.path)

    def in_flight(self) -> Iterator[Work]:
        """The unanswered sub-calls of the block that is being run."""
        return (work for works in self.calls.values() for work in works if work.counts is self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldChange:
    """The work that one event began and ended. `run` is its run; None for events of the record as a whole."""

    run: OpenRun | None = None
    begun: Work | None = None
    ended: tuple[Work, ...] = ()
    """at the end of a run: everything that it and the runs below it were doing"""


class RunFold:
    """The state of a run and its child runs after the events so far."""

    def __init__(self) -> None:
        self.started: RunStarted | None = None
        self.route: Routed | None = None
        """of the run that a client asked for"""
        self.ended: RunEnded | None = None
        """the end of that run; None again when it is resumed or left to another process"""
        self.spent: JsonMap = {}
        """spending.Spent as JSON, over the whole tree of runs"""
        self.events = 0
        self.turn = 0
        """the latest turn of the run that a client asked for"""
        self.replies = 0
        """the latest of its turns that has a reply of the root model"""
        self.depth = 0
        """the deepest of the runs so far"""
        self.phase: Phase = "starting"
        """set by the latest event, whichever run it belongs to"""
        self.open_runs: dict[str, OpenRun] = {}
        """by path"""

    def __repr__(self) -> str:
        return f"<RunFold of {self.events} events, {len(self.open_runs)} open runs>"

    def apply(self, event: Event, now: float = 0.0) -> FoldChange:
        """Takes in the next event of the run or of one of its child runs."""
        self.events += 1
        self.depth = max(self.depth, depth_of(event.path))
        self.phase = _PHASES.get(type(event), self.phase)
        if not event.path:
            self.turn = max(self.turn, event.turn)
        match event:
            case RunStarted():
                self.started = event
            case RunResumed() | RunLeft():
                self.ended = None
                self.open_runs.clear()
                if isinstance(event, RunResumed):
                    self.spent = event.spent or self.spent
            case Routed():
                return self._route(event, now)
            case RootAsked():
                return self._ask_root(event, now)
            case RootReply():
                return self._reply(event, now)
            case CellBegun():
                return self._begin_cell(event, now)
            case Cell():
                return self._end_cell(event, now)
            case SubAsked():
                return self._begin_call(event, now)
            case SubReply() | SubFailed():
                return self._end_call(event, now)
            case RunEnded():
                return self._end(event, now)
        return FoldChange()

    def _open_run(self, path: str, now: float) -> OpenRun:
        run = self.open_runs.get(path)
        if run is None:
            run = self.open_runs[path] = OpenRun(path=path, query="", since=now, call=self._call_of(path))
            if not path:
                run.query = self.started.query if self.started else ""
            elif run.call is not None and isinstance(run.call.begun, SubAsked):
                run.query = run.call.begun.prompt_head
            else:
                run.query = path.rpartition(".")[2]
        return run

    def _call_of(self, path: str) -> Work | None:
        parent, _, name = path.rpartition(".")
        above = self.open_runs.get(parent) if path else None
        if above is None:
            return None
        return next((w for w in _all_calls(above) if isinstance(w.begun, SubAsked) and w.begun.child == name), None)

    def _route(self, event: Routed, now: float) -> FoldChange:
        run = self._open_run(event.path, now)
        run.query = event.query or run.query
        if not event.path:
            self.route = event
        return FoldChange(run=run)

    def _ask_root(self, event: RootAsked, now: float) -> FoldChange:
        run = self._open_run(event.path, now)
        run.turn, run.doing, run.since = event.turn, "asking", now
        run.work = Work(begun=event, since=now, counts=run.counts)
        return FoldChange(run=run, begun=run.work)

    def _reply(self, event: RootReply, now: float) -> FoldChange:
        run = self._open_run(event.path, now)
        run.turn, run.doing, run.since, run.code = event.turn, "running", now, ""
        run.turns = event.left.get("turns") or run.turns
        self.spent = event.spent or self.spent
        if not event.path:
            self.replies = max(self.replies, event.turn)
        return FoldChange(run=run, ended=_end_work(run))

    def _begin_cell(self, event: CellBegun, now: float) -> FoldChange:
        run = self._open_run(event.path, now)
        run.turn, run.doing, run.since, run.code = event.turn, "running", now, event.code
        run.work = Work(begun=event, since=now, counts=run.counts)
        return FoldChange(run=run, begun=run.work)

    def _end_cell(self, event: Cell, now: float) -> FoldChange:
        run = self._open_run(event.path, now)
        run.doing, run.since, run.code, run.counts = "starting", now, "", CallCounts()
        return FoldChange(run=run, ended=_end_work(run))

    def _begin_call(self, event: SubAsked, now: float) -> FoldChange:
        run = self._open_run(event.path, now)
        if (event.request or 1) > 1:  # the call goes on
            return FoldChange(run=run)
        work = Work(begun=event, since=now, counts=run.counts)
        run.counts.asked += 1
        run.calls.setdefault(event.key, []).append(work)
        return FoldChange(run=run, begun=work)

    def _end_call(self, event: SubReply | SubFailed, now: float) -> FoldChange:
        run = self._open_run(event.path, now)
        self.spent = event.spent or self.spent
        same = run.calls.get(event.key, [])
        work = same.pop(0) if same else None
        if not same:
            run.calls.pop(event.key, None)
        if work is None or work.counts is not run.counts:  # it began in another block, or comes from a record
            run.counts.asked += 1
        if isinstance(event, SubFailed):
            run.counts.failed += 1
        else:
            run.counts.answered += 1
            run.counts.cached += bool(event.cached)
        return FoldChange(run=run, ended=(work,) if work else ())

    def _end(self, event: RunEnded, now: float) -> FoldChange:
        own = self._open_run(event.path, now)
        below = [run for path, run in self.open_runs.items() if is_below(path, event.path)]
        ended = tuple(work for run in below for work in (*_end_work(run), *_all_calls(run)))
        for run in below:
            del self.open_runs[run.path]
        if not event.path:
            self.ended = event
            self.spent = event.usage or self.spent
        return FoldChange(run=own, ended=ended)


def run_state(events: Iterable[Event]) -> RunState:
    """The state of a run that a sequence of events leads to.

    Raises ValueError if a value of the record is not of the type that this program writes.
    """
    fold = RunFold()
    for event in events:
        fold.apply(event)
    started = fold.started or RunStarted(query="")
    ended = fold.ended or RunEnded(status="running", stopped_by=None, message="")
    _require(ended.status in get_args(Status), "status", ended.status)
    _require(ended.stopped_by is None or ended.stopped_by in get_args(StoppedBy), "stopped_by", ended.stopped_by)
    _require((ended.confidence or "") in get_args(Confidence), "confidence", ended.confidence)
    for context in started.contexts:
        _require(isinstance(context, dict) and isinstance(context.get("context_id"), str), "contexts", context)
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
        coverage=_coverage(ended.coverage),
        usage=Spent(**_known(Spent, fold.spent)),
        iterations=ended.iterations if ended.tells_all else fold.replies,
        mode=fold.route.mode if fold.route else "",
        mode_reason=fold.route.reason if fold.route else "",
        depth=fold.route.depth if fold.route else 0,
        message=ended.message,
        confidence=ended.confidence or "",
        output_schema=started.output_schema,
        fingerprint=started.fingerprint or "",
    )


def depth_of(path: str) -> int:
    """The depth of the run of this path: 0 for the run that a client asked for."""
    return path.count(".") + 1 if path else 0


def is_below(path: str, top: str) -> bool:
    """Whether a path is that of `top` or of a run below it."""
    return path == top or not top or path.startswith(f"{top}.")


def _end_work(run: OpenRun) -> tuple[Work, ...]:
    work, run.work = run.work, None
    return () if work is None else (work,)


def _all_calls(run: OpenRun) -> list[Work]:
    return [work for works in run.calls.values() for work in works]


_TYPES = {
    kind: {name: types_of(hint) for name, hint in get_type_hints(kind).items()} for kind in (Citation, Coverage, Spent)
}


def _known(kind: type[Citation | Coverage | Spent], data: JsonMap) -> dict[str, Any]:
    """The fields of a class in a JSON object, whose types are checked."""
    _require(isinstance(data, dict), kind.__name__, data)
    known = {name: value for name, value in data.items() if name in _TYPES[kind]}
    for name, value in known.items():
        _require(type(value) in _TYPES[kind][name] and is_sound(value), name, value)
    return known


def _coverage(data: JsonMap) -> Coverage:
    coverage = Coverage(**_known(Coverage, data))
    for texts in coverage.ranges.values():
        _require(isinstance(texts, dict), "ranges", texts)
        for pair in (pair for ranges in texts.values() for pair in ranges):
            _require(len(pair) == 2 and all(type(end) is int and is_sound(end) for end in pair), "ranges", pair)
    return coverage


def _require(is_valid: object, name: str, value: object) -> None:
    if not is_valid:
        raise ValueError(f"{name} is {repr(value)[:60]}")

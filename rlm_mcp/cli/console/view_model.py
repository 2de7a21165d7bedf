"""A run as somebody who watches it sees it, folded out of its events: what has happened, and what is going on.

`notes` only grows: whoever draws prints what is new in it. The rest is the present, drawn anew each time. There is no
clock and no I/O in here; `take` is given the time, in seconds on any clock that `screen` is then drawn by. Events come
from `Workspace.attend` or out of a record; those that only begin something may be missing. All texts of models and
contexts leave this file harmless and cut.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rlm_mcp.cli.console.excerpt import Excerpt, excerpt, one_line
from rlm_mcp.records.events import (
    Cell,
    CellBegun,
    Event,
    RootAsked,
    RootReply,
    Routed,
    RunEnded,
    RunResumed,
    RunStarted,
    SubAsked,
    SubFailed,
    SubReply,
)

CODE_LINES = 14
OUTPUT_LINES = (6, 3)
PROSE_LINES = 3
EXAMPLES = 3
"""Sub-calls of one block that are told with their answers; of the others, how many there were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIntro:
    """The question, what it is about, and who is asked."""

    query: str
    contexts: tuple[str, ...]
    root: str
    sub: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteNote:
    """Which way the run takes."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnNote:
    """A reply of the root model. Its code is told with what it did."""

    turn: int
    seconds: float
    tokens: int
    prose: Excerpt


@dataclass(frozen=True, slots=True, kw_only=True)
class CallExample:
    """A sub-call and its answer."""

    prompt: str
    answer: str
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildNote:
    """A recursive run that has come to its end. Many go on at once, so their turns are shown, but not told."""

    query: str
    turns: int
    answer: str
    is_answered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockNote:
    """A block of code, its sub-calls, and what it printed."""

    code: Excerpt
    output: Excerpt
    error: str
    final: str
    seconds: float
    answered: int
    cached: int
    failed: int
    examples: tuple[CallExample, ...]
    children: tuple[ChildNote, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeNote:
    """What came before this is from the record of a run that was cut off."""

    turns: int


Note = RunIntro | RouteNote | TurnNote | BlockNote | ResumeNote


@dataclass(frozen=True, slots=True, kw_only=True)
class CallInFlight:
    """A sub-call in flight, since when."""

    prompt: str
    since: float
    child: str


@dataclass(slots=True)
class BlockCalls:
    """Those of the block that runs now."""

    asked: int = 0
    answered: int = 0
    cached: int = 0
    """of those answered: without asking a model again"""
    failed: int = 0
    waiting: dict[str, list[CallInFlight]] = field(default_factory=dict)
    """by the key of the request; the same request can be in flight twice"""
    examples: list[CallExample] = field(default_factory=list)
    children: list[ChildNote] = field(default_factory=list)

    @property
    def ended(self) -> int:
        """Answered or failed."""
        return self.answered + self.failed

    def in_flight(self) -> Iterator[CallInFlight]:
        """Those without an answer yet, oldest first."""
        for waiting in self.waiting.values():
            yield from waiting


@dataclass(slots=True, kw_only=True)
class OpenRun:
    """What one run of the tree is doing."""

    path: str
    query: str
    since: float
    turn: int = 0
    turns: int | None = None
    """the most there can be"""
    doing: Literal["starting", "asking", "running"] = "starting"
    code: Excerpt = field(default_factory=lambda: excerpt("", first=0))
    calls: BlockCalls = field(default_factory=BlockCalls)

    @property
    def nested(self) -> int:
        """0 for the run that was asked for, 1 for its children, and so on."""
        return _nested(self.path)


class RunView:
    """What a watcher sees of one run."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.open_runs: dict[str, OpenRun] = {}
        """of the runs that are going on, by path"""
        self.query = ""
        self.root = ""
        self.sub = ""
        self.limits: Mapping[str, Any] = {}
        self.spent: Mapping[str, Any] = {}
        self.began = 0.0
        """when the run was created"""

    def __repr__(self) -> str:
        return f"<RunView {len(self.notes)} notes, {len(self.open_runs)} open runs>"

    def take(self, event: Event, now: float) -> None:
        """One more event of the run or of one of its child runs."""
        if isinstance(event, RootReply | SubReply | SubFailed):
            self.spent = event.spent or self.spent
        if event.at is not None:  # read from a record, after it happened
            self.began = min(self.began, now - event.at)
        path = event.path
        match event:
            case RunStarted():
                self._begin(event, now)
            case RunResumed():
                self._go_on(now)
            case Routed():
                self._route(event, self._open_run(path, now))
            case RootAsked():
                _turn(self._open_run(path, now), event.turn, "asking", now)
            case RootReply():
                self._reply(event, self._open_run(path, now), now)
            case CellBegun():
                level = self._open_run(path, now)
                _turn(level, event.turn, "running", now)
                level.code = excerpt(event.code, first=CODE_LINES)
            case SubAsked():
                _ask(self._open_run(path, now).calls, event, now)
            case SubReply() | SubFailed():
                _answer(self._open_run(path, now).calls, event)
            case Cell():
                self._ran(event, self._open_run(path, now), now)
            case RunEnded():
                self._end(event, path)

    def _begin(self, event: RunStarted, now: float) -> None:
        models = event.models
        self.root, self.sub = (one_line(str((models.get(which) or {}).get("name", ""))) for which in ("root", "sub"))
        self.query = one_line(event.query)
        self.limits = event.limits
        self.began = now
        about = tuple(_about(context) for context in event.contexts)
        self.notes.append(RunIntro(query=self.query, contexts=about, root=self.root, sub=self.sub))

    def _go_on(self, now: float) -> None:
        turns = sum(isinstance(one, TurnNote) for one in self.notes)
        self.notes = [one for one in self.notes if isinstance(one, RunIntro)]
        self.notes.append(ResumeNote(turns=turns))
        self.open_runs.clear()
        self.began = now - (self.spent.get("seconds") or 0.0)

    def _open_run(self, path: str, now: float) -> OpenRun:
        level = self.open_runs.get(path)
        if level is None:
            level = self.open_runs[path] = OpenRun(path=path, query=self._asked_of(path), since=now)
        return level

    def _asked_of(self, path: str) -> str:
        if not path:
            return self.query
        parent, _, name = path.rpartition(".")
        calls = self.open_runs[parent].calls if parent in self.open_runs else BlockCalls()
        return next((waiting.prompt for waiting in calls.in_flight() if waiting.child == name), name)

    def _route(self, event: Routed, level: OpenRun) -> None:
        level.query = one_line(event.query or "") or level.query
        if not level.path:
            self.notes.append(RouteNote(reason=one_line(event.reason)))

    def _reply(self, event: RootReply, level: OpenRun, now: float) -> None:
        _turn(level, event.turn, "running", now)
        level.code = excerpt("", first=0)
        level.turns = event.left.get("turns") or level.turns
        usage = event.usage
        if level.path:
            return
        self.notes.append(
            TurnNote(
                turn=level.turn,
                seconds=float(event.seconds),
                tokens=int(usage.get("prompt_tokens") or 0) + int(usage.get("completion_tokens") or 0),
                prose=excerpt(_prose(event.text), first=PROSE_LINES),
            )
        )

    def _ran(self, event: Cell, level: OpenRun, now: float) -> None:
        calls, level.calls = level.calls, BlockCalls()
        level.doing, level.since, level.code = "starting", now, excerpt("", first=0)
        if level.path:
            return
        error, final = event.error, event.final
        first, last = OUTPUT_LINES
        self.notes.append(
            BlockNote(
                code=excerpt(event.code, first=CODE_LINES),
                output=excerpt(_output(event), first=first, last=last, total_chars=event.stdout_chars),
                error=one_line(f"{error['type']}: {error['message']}") if error else _stopped(event),
                final=one_line(f"{final['via']}: {final['value']}") if final else "",
                seconds=float(event.seconds),
                answered=calls.answered,
                cached=calls.cached,
                failed=calls.failed,
                examples=tuple(calls.examples),
                children=tuple(calls.children),
            )
        )

    def _end(self, event: RunEnded, path: str) -> None:
        level = self.open_runs.pop(path, None)
        if not path:
            self.spent = event.usage or self.spent
            self.open_runs.clear()
            return
        for inner in [other for other in self.open_runs if other.startswith(f"{path}.")]:
            del self.open_runs[inner]
        parent = self.open_runs.get(path.rpartition(".")[0])
        if parent is None:
            return
        parent.calls.children.append(
            ChildNote(
                query=level.query if level else path,
                turns=event.iterations or event.turn,
                answer=one_line(str(event.answer if event.answer is not None else event.message)),
                is_answered=event.answer is not None,
            )
        )


def _nested(path: str) -> int:
    return path.count(".") + 1 if path else 0


def _turn(level: OpenRun, turn: int, doing: Literal["asking", "running"], now: float) -> None:
    level.turn, level.doing, level.since = turn, doing, now


def _ask(calls: BlockCalls, event: SubAsked, now: float) -> None:
    calls.asked += 1
    waiting = CallInFlight(prompt=one_line(event.prompt_head), since=now, child=event.child or "")
    calls.waiting.setdefault(event.key, []).append(waiting)


def _answer(calls: BlockCalls, event: SubReply | SubFailed) -> None:
    waiting = calls.waiting.get(event.key, [])
    if waiting:
        waiting.pop(0)
    else:  # a record does not say when a call began
        calls.asked += 1
    if not waiting:
        calls.waiting.pop(event.key, None)
    failed = isinstance(event, SubFailed)
    if failed:
        calls.failed += 1
    else:
        calls.answered += 1
        calls.cached += bool(event.cached)
    if len(calls.examples) < EXAMPLES and event.kind != "rlm":
        answer = one_line(str(event.error if isinstance(event, SubFailed) else event.value))
        calls.examples.append(CallExample(prompt=one_line(event.prompt_head), answer=answer, failed=failed))


def _about(context: Mapping[str, Any]) -> str:
    files = f"{context['files']:,} files, " if context.get("kind") == "files" else ""
    return one_line(f"{context['name']} ({files}{context['lines']:,} lines, {context['chars']:,} characters)")


def _prose(reply: str) -> str:
    """What a reply says beside its code."""
    return "\n".join(line for line in "".join(reply.split("```")[::2]).splitlines() if line.strip())


def _output(cell: Cell) -> str:
    return "\n".join(part for part in (cell.stdout.rstrip("\n"), cell.value) if part)


def _stopped(cell: Cell) -> str:
    return f"stopped: {cell.stopped_by}" if cell.stopped_by else ""

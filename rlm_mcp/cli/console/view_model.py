"""The view model of a run on a terminal: what has happened, as notes to print, over the fold of its events.

`notes` only grows: a printer prints what is new in it. What is going on (`fold.open_runs`) is drawn anew each time.
There is no clock and no I/O in here: `apply` is given the time, in seconds on any clock, and the renderer must be given
times of the same clock. Events come from `LiveRuns.stream_events` or out of a record, which lacks those that only begin
something. Texts of models and contexts in notes are cut, and their control characters are escaped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlm_mcp.cli.console.excerpt import Excerpt, excerpt, one_line
from rlm_mcp.records.events import (
    Cell,
    Event,
    RootReply,
    Routed,
    RunEnded,
    RunResumed,
    RunStarted,
    SubFailed,
    SubReply,
)
from rlm_mcp.records.fold import CallCounts, RunFold

CODE_LINES = 14
OUTPUT_LINES = (6, 3)
"""the first and the last lines that are shown"""

PROSE_LINES = 3
EXAMPLES = 3
"""Sub-calls of a block that are shown with their answers; the others are only counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIntro:
    """The question, its contexts, and the names of the models."""

    query: str
    contexts: tuple[str, ...]
    root: str
    sub: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteNote:
    """Why the run answers directly or in turns."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnNote:
    """A reply of the root model; its code follows in a BlockNote, with what it did."""

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
    """A child run that has ended. Many run at once, so their turns are shown while they last, but get no notes."""

    query: str
    turns: int
    answer: str
    is_answered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockNote:
    """A block of code, its sub-calls, and its output."""

    code: Excerpt
    output: Excerpt
    error: str
    final: str
    seconds: float
    calls: CallCounts
    examples: tuple[CallExample, ...]
    children: tuple[ChildNote, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeNote:
    """The run is resumed; so many turns are on record."""

    turns: int


Note = RunIntro | RouteNote | TurnNote | BlockNote | ResumeNote


class RunView:
    """One run as a person at a terminal sees it."""

    def __init__(self) -> None:
        self.fold = RunFold()
        self.notes: list[Note] = []
        self.root = ""
        self.sub = ""
        self.began = 0.0
        """when the run was created"""
        self._examples: list[CallExample] = []
        self._children: list[ChildNote] = []
        """both of the block that the run itself is running"""

    def __repr__(self) -> str:
        return f"<RunView {len(self.notes)} notes, {len(self.fold.open_runs)} open runs>"

    @property
    def limits(self) -> Mapping[str, Any]:
        """The limits of the run, by name."""
        return self.fold.started.limits if self.fold.started else {}

    def apply(self, event: Event, now: float) -> None:
        """Takes in the next event of the run or of one of its child runs."""
        if event.at is not None:  # it comes from a record, and happened before now
            self.began = min(self.began, now - event.at)
        match event:
            case RunStarted():
                self._introduce(event, now)
            case RunResumed():
                self._resume(now)
            case Routed(path=""):
                self.notes.append(RouteNote(reason=one_line(event.reason)))
            case RootReply(path=""):
                self._note_turn(event)
            case SubReply(path="") | SubFailed(path=""):
                self._keep_example(event)
            case Cell(path=""):
                self._note_block(event)
            case RunEnded() if event.path and "." not in event.path:
                self._keep_child(event)
        self.fold.apply(event, now)

    def _introduce(self, event: RunStarted, now: float) -> None:
        self.root, self.sub = (one_line(str((event.models.get(r) or {}).get("name", ""))) for r in ("root", "sub"))
        self.began = now
        contexts = tuple(_about(context) for context in event.contexts)
        self.notes.append(RunIntro(query=one_line(event.query), contexts=contexts, root=self.root, sub=self.sub))

    def _resume(self, now: float) -> None:
        turns = sum(isinstance(note, TurnNote) for note in self.notes)
        self.notes = [note for note in self.notes if isinstance(note, RunIntro)]
        self.notes.append(ResumeNote(turns=turns))
        self._examples, self._children = [], []
        self.began = now - (self.fold.spent.get("seconds") or 0.0)

    def _note_turn(self, event: RootReply) -> None:
        tokens = int(event.usage.get("prompt_tokens") or 0) + int(event.usage.get("completion_tokens") or 0)
        prose = excerpt(_prose(event.text), first=PROSE_LINES)
        self.notes.append(TurnNote(turn=event.turn, seconds=event.seconds, tokens=tokens, prose=prose))

    def _keep_example(self, event: SubReply | SubFailed) -> None:
        if len(self._examples) < EXAMPLES and event.kind != "rlm":
            failed = isinstance(event, SubFailed)
            answer = one_line(str(event.error if isinstance(event, SubFailed) else event.said("?")))
            self._examples.append(CallExample(prompt=one_line(event.prompt_head), answer=answer, failed=failed))

    def _keep_child(self, event: RunEnded) -> None:
        if "" not in self.fold.open_runs:
            return
        run = self.fold.open_runs.get(event.path)
        answer = event.message if event.answer is None else event.answer
        self._children.append(
            ChildNote(
                query=one_line(run.query) if run else event.path,
                turns=event.iterations or event.turn,
                answer=one_line(str(answer)),
                is_answered=event.answer is not None,
            )
        )

    def _note_block(self, event: Cell) -> None:
        run = self.fold.open_runs.get("")
        error, final = event.error, event.final
        stopped = f"stopped: {event.stopped_by}" if event.stopped_by else ""
        first, last = OUTPUT_LINES
        self.notes.append(
            BlockNote(
                code=excerpt(event.code, first=CODE_LINES),
                output=excerpt(_output(event), first=first, last=last, total_chars=event.stdout_chars),
                error=one_line(f"{error['type']}: {error['message']}") if error else stopped,
                final=one_line(f"{final['via']}: {final['value']}") if final else "",
                seconds=event.seconds,
                calls=run.counts if run else CallCounts(),
                examples=tuple(self._examples),
                children=tuple(self._children),
            )
        )
        self._examples, self._children = [], []


def _about(context: Mapping[str, Any]) -> str:
    files = f"{context['files']:,} files, " if context.get("kind") == "files" else ""
    return one_line(f"{context['name']} ({files}{context['lines']:,} lines, {context['chars']:,} characters)")


def _prose(reply: str) -> str:
    """A reply without its code."""
    return "\n".join(line for line in "".join(reply.split("```")[::2]).splitlines() if line.strip())


def _output(cell: Cell) -> str:
    return "\n".join(part for part in (cell.stdout.rstrip("\n"), cell.value) if part)

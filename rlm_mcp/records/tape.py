"""The tape from which resume and replay take replies and results; and a record kept in memory."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rlm_mcp.records.events import (
    Cell,
    Event,
    RootReply,
    Routed,
    RunEnded,
    RunResumed,
    SubFailed,
    SubReply,
    event_from_json,
    to_json,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TapedRequest:
    """A request of a replay to a model, whose `reply` it takes from the record. Records do not hold whole requests.

    To the root model it is `messages`, pairs of role and text. A sub-call has the arguments of `llm_query` instead.
    """

    reply: RootReply | SubReply | SubFailed
    messages: tuple[tuple[str, str], ...] = ()
    prompt: str = ""
    material: str | None = None
    schema: object | None = None
    is_as_sent: bool = True
    """False unless the record shows that the run asked just this; old records do not tell"""


def _ignore(_: TapedRequest) -> None:
    """Does nothing: nobody wants the requests."""


class Tape:
    """The replies and results on record: root replies and cells by turn, sub-calls by key.

    A resumed run continues where the tape of its own record ends. A replay is `strict`: it has nothing but the tape.
    `difference` describes the first place where the new run asked for, or did, something else than the record says.
    `on_request` gets each request that a replay answers from the record.
    """

    def __init__(
        self,
        events: Iterable[Event] = (),
        *,
        strict: bool = False,
        on_request: Callable[[TapedRequest], None] = _ignore,
    ) -> None:
        self.strict = strict
        self.on_request = on_request
        self.difference: str | None = None
        self.spent: Mapping[str, Any] = {}
        """the usage of the run when it ended"""
        self._routes: dict[str, Routed] = {}
        self._roots: dict[tuple[str, int], RootReply] = {}
        self._subs: dict[str, SubReply | SubFailed] = {}
        self._cells: dict[tuple[str, int, int], Cell] = {}
        self._is_time_over = False
        for event in events:
            self._load(event)
        if not strict:
            self._begin_time_anew()

    def _load(self, event: Event) -> None:
        match event:
            case Routed():
                self._routes[event.path] = event
            case RootReply():
                self._roots[event.path, event.turn] = event
            case SubReply():
                self._subs[event.key] = event
            case SubFailed():
                self._subs.setdefault(event.key, event)
            case Cell():
                self._cells[event.path, event.turn, event.block] = event
            case RunEnded(path=""):
                self.spent = event.usage
                self._is_time_over = event.stopped_by == "seconds"
            case RunResumed():
                self._begin_time_anew()

    def _begin_time_anew(self) -> None:
        """Opens the turn again whose question was the last one only because the time was nearly used up."""
        if not self._is_time_over:
            return
        self._is_time_over = False
        pressed = {turn for (path, turn), reply in self._roots.items() if not path and "seconds" in reply.last[:1]}
        self._roots = {key: reply for key, reply in self._roots.items() if key[0] or key[1] not in pressed}
        self._cells = {key: cell for key, cell in self._cells.items() if key[0] or key[1] not in pressed}

    def route(self, path: str) -> Routed | None:
        """The route of this run or child run, if it had begun."""
        return self._routes.get(path)

    def root_reply(self, path: str, turn: int) -> RootReply | None:
        """The recorded root reply of this turn."""
        return self._roots.get((path, turn))

    def sub_call(self, key: str) -> SubReply | SubFailed | None:
        """The recorded answer to the same request, or its failure."""
        return self._subs.get(key)

    def cell(self, path: str, turn: int, block: int) -> Cell | None:
        """The recorded result of one block."""
        return self._cells.get((path, turn, block))

    def cells(self, path: str) -> Iterable[Cell]:
        """The recorded results of all blocks of this run or child run."""
        return (cell for cell in self._cells.values() if cell.path == path)

    def note_difference(self, sentence: str) -> None:
        """Notes a difference. Only the first is kept, since the others follow from it."""
        if self.difference is None:
            self.difference = sentence


class MemoryRecord:
    """A record in memory, for replays and tests."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.answer: object = None

    def append(self, event: Event) -> None:
        """Keeps one event as it would be read from a file."""
        self.events.append(event_from_json(json.loads(json.dumps(to_json(event), default=str))))

    async def settled(self) -> None:
        """Returns at once: nothing is written later."""

    def require_lease(self) -> None:
        """Does nothing: nobody else can have the run."""

    def write_answer(self, answer: object) -> None:
        """Keeps the answer."""
        self.answer = answer

    def save_checkpoint(self, turn: int, data: bytes) -> bool:  # noqa: ARG002 - the Record protocol
        """Does nothing: a record in memory has no checkpoints."""
        return False

    def checkpoint(self) -> tuple[int, bytes] | None:
        """None: there are no checkpoints."""
        return None

"""What a record has already paid for, and a record that keeps nothing."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rlm_mcp.records.events import (
    Cell,
    Event,
    RootReply,
    Routed,
    RunEnded,
    SubFailed,
    SubReply,
    event_from_json,
    to_json,
)


class Tape:
    """What a record has already paid for, handed out again: root replies and cells by turn, sub-calls by key.

    `resume` gives the tape of its own record and goes on where it ends. `replay` is `strict`: it has nothing but the
    tape. `difference` is the first place where the new run asked for or did something else than the record says.
    """

    def __init__(self, events: Iterable[Event] = (), *, strict: bool = False) -> None:
        self.strict = strict
        self.difference: str | None = None
        self.spent: Mapping[str, Any] = {}
        """the usage on record when it ended"""
        self._ways: dict[str, Routed] = {}
        self._roots: dict[tuple[str, int], RootReply] = {}
        self._subs: dict[str, SubReply | SubFailed] = {}
        self._cells: dict[tuple[str, int, int], Cell] = {}
        for event in events:
            self._load(event)

    def _load(self, event: Event) -> None:
        match event:
            case Routed():
                self._ways[event.path] = event
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

    def way(self, path: str) -> Routed | None:
        """The way that this (child) run had taken, if it had begun."""
        return self._ways.get(path)

    def root(self, path: str, turn: int) -> RootReply | None:
        """The recorded root reply of this turn."""
        return self._roots.get((path, turn))

    def sub(self, key: str) -> SubReply | SubFailed | None:
        """The recorded answer to this very request, or its failure."""
        return self._subs.get(key)

    def cell(self, path: str, turn: int, block: int) -> Cell | None:
        """The recorded result of one block."""
        return self._cells.get((path, turn, block))

    def differ(self, sentence: str) -> None:
        """Notes a difference; only the first is kept, since the others follow from it."""
        if self.difference is None:
            self.difference = sentence


class NoRecord:
    """A record that keeps nothing on disk, for replays and tests; `events` holds what was written."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.answer: object = None

    def append(self, event: Event) -> None:
        """Keeps one event in memory, as it would be read from a file."""
        self.events.append(event_from_json(json.loads(json.dumps(to_json(event), default=str))))

    def write_answer(self, answer: object) -> None:
        """Keeps the answer in memory."""
        self.answer = answer

    def save_checkpoint(self, turn: int, data: bytes) -> bool:  # noqa: ARG002 - the Record protocol
        """Keeps no checkpoint."""
        return False

    def checkpoint(self) -> tuple[int, bytes] | None:
        """There is none."""
        return None

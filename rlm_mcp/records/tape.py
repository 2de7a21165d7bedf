"""What a record has already paid for, and a record that keeps nothing."""

import json
from collections.abc import Iterable, Mapping
from typing import Any


class Tape:
    """What a record has already paid for, handed out again: root replies and cells by turn, sub-calls by key.

    `resume` gives the tape of its own record and goes on where it ends. `replay` is `strict`: it has nothing but the
    tape. `difference` is the first place where the new run asked for or did something else than the record says.
    """

    def __init__(self, events: Iterable[Mapping[str, Any]] = (), *, strict: bool = False) -> None:
        self.strict = strict
        self.difference: str | None = None
        self.spent: dict[str, Any] = {}
        """the usage on record when it ended"""
        self._ways: dict[str, dict[str, Any]] = {}
        self._roots: dict[tuple[str, int], dict[str, Any]] = {}
        self._subs: dict[str, dict[str, Any]] = {}
        self._cells: dict[tuple[str, int, int], dict[str, Any]] = {}
        for event in events:
            self._load(dict(event))

    def _load(self, event: dict[str, Any]) -> None:
        path = event.get("path", "")
        match event["event"]:
            case "routed":
                self._ways[path] = event
            case "root_reply":
                self._roots[path, event["turn"]] = event
            case "sub_reply":
                self._subs[event["key"]] = event
            case "sub_failed":
                self._subs.setdefault(event["key"], event)
            case "cell":
                self._cells[path, event["turn"], event["block"]] = event
            case "run_ended" if not path:
                self.spent = dict(event.get("usage") or {})

    def way(self, path: str) -> dict[str, Any] | None:
        """The way that this (child) run had taken, if it had begun."""
        return self._ways.get(path)

    def root(self, path: str, turn: int) -> dict[str, Any] | None:
        """The recorded root reply of this turn."""
        return self._roots.get((path, turn))

    def sub(self, key: str) -> dict[str, Any] | None:
        """The recorded answer ("value") or failure ("error") of this very request."""
        return self._subs.get(key)

    def cell(self, path: str, turn: int, block: int) -> dict[str, Any] | None:
        """The recorded result of one block."""
        return self._cells.get((path, turn, block))

    def differ(self, sentence: str) -> None:
        """Notes a difference; only the first is kept, since the others follow from it."""
        if self.difference is None:
            self.difference = sentence


class NoRecord:
    """A record that keeps nothing on disk, for replays and tests; `events` holds what was written."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.answer: object = None

    def append(self, event: Mapping[str, Any]) -> None:
        """Keeps one event in memory, as JSON would."""
        self.events.append(json.loads(json.dumps(event, default=str)))

    def write_answer(self, answer: object) -> None:
        """Keeps the answer in memory."""
        self.answer = answer

    def save_checkpoint(self, turn: int, data: bytes) -> bool:  # noqa: ARG002 - the Record protocol
        """Keeps no checkpoint."""
        return False

    def checkpoint(self) -> tuple[int, bytes] | None:
        """There is none."""
        return None

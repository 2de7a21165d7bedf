"""Calls of `parallel_map` that run in several processes: what a REPL gives to others, and what it gets from them.

`wasm_runtime/distributed.py` says what travels. These protocols are the ends of that in the storage of a cluster, which
knows nothing of the sandbox.
"""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

MapOutcome = dict[str, object]
"""The `value` of an item, pickled and in base64, and its `stdout`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapNeeds:
    """What a process must have to work on the items of a map."""

    context_ids: tuple[str, ...]
    image: str
    """identifies the image of the sandbox, with the prelude"""
    packages: Mapping[str, Any] | None
    """the image with packages, as records name it"""


class CheckpointOfMap(Protocol):
    """The state of the waiting code."""

    def to_bytes(self) -> bytes:
        """Packs it, which takes milliseconds to seconds."""


class MapItems(Protocol):
    """The items of a map at its home, where the code waits. One thread at a time may use it."""

    @property
    def left(self) -> int:
        """How many items could be taken."""

    @property
    def is_idle(self) -> bool:
        """Whether the home could work on more items than it has."""

    @property
    def item_seconds(self) -> float | None:
        """What an item takes on average; None while that is not known."""

    @property
    def seconds_left(self) -> float:
        """The rest of the time of the code."""

    @property
    def processors(self) -> int:
        """How many items compute at the same time at the home."""

    def checkpoint(self) -> CheckpointOfMap | None:
        """The state of the waiting code; None if it is too large, or the map is over."""

    def take(self, most: int) -> list[int]:
        """Takes items, each of which is given back or finished."""

    def give_back(self, items: Collection[int], *, keep: bool = False) -> None:
        """Returns items; with `keep`, they are not taken again."""

    def finish(self, index: int, outcome: Mapping[str, object]) -> None:
        """Takes the outcome of an item. Of one that was not taken, it is ignored."""


class ShareMap(Protocol):
    """Lets other processes take items of a map during a block. Entering and leaving take no time."""

    def __call__(self, items: MapItems, needs: MapNeeds) -> AbstractContextManager[None]:
        """The block in which the map goes on."""


class MapSupply(Protocol):
    """The items of a map whose home is another process. One thread uses it."""

    def exchange(self, finished: Mapping[int, MapOutcome | None]) -> Collection[int] | None:
        """Reports outcomes, None for items that go back; the items to work on, or None when it is over."""

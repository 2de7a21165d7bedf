"""Which items of a map are worked on by which process: decided by the home of the map, without I/O.

An item is allotted by a row with the name of the worker, and the outcome is written into that row. So one rule covers
workers that die, leave or are cut off, and transactions of which nobody knows whether they were committed: an item that
was allotted and has no row of that worker any more is lost, and belongs to the home again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ALLOTTED_SECONDS = 1.0
"""Work that each processor of a worker has at most, and at least two items, so that it need not wait for the next."""

COMES_BACK = b""
"""The outcome of an item that has to be worked on at home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRows:
    """What the database has of a map: the processors of its workers, and by item the worker and the outcome."""

    workers: Mapping[str, int]
    items: Mapping[int, tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What has become of items since the last time."""

    finished: Mapping[int, bytes]
    refused: Sequence[int]
    """a worker could not work on them"""
    lost: Sequence[int]
    useless: Sequence[int]
    """items whose rows are not needed any more"""


@dataclass(slots=True)
class Allotments:
    """The items that are elsewhere, and with whom, in the order in which they were allotted."""

    _worker_of: dict[int, str] = field(default_factory=dict)

    @property
    def items(self) -> Sequence[int]:
        """All items that are elsewhere."""
        return list(self._worker_of)

    def end(self) -> Sequence[int]:
        """Forgets all items, and gives those that were elsewhere."""
        items, self._worker_of = self.items, {}
        return items

    def add(self, worker: str, items: Sequence[int]) -> None:
        """Notes that rows of these items have been written."""
        self._worker_of |= dict.fromkeys(items, worker)

    def compare(self, rows: MapRows) -> Compared:
        """Compares with the rows, and forgets the items that are no longer elsewhere."""
        finished: dict[int, bytes] = {}
        refused, useless = [], []
        there = set()
        for item, (worker, outcome) in rows.items.items():
            if self._worker_of.get(item) != worker:
                useless.append(item)
            elif outcome is None:
                there.add(item)
            else:
                useless.append(item)
                if outcome == COMES_BACK:
                    refused.append(item)
                else:
                    finished[item] = outcome
        lost = [item for item in self._worker_of if item not in there and item not in finished and item not in refused]
        self._worker_of = {item: worker for item, worker in self._worker_of.items() if item in there}
        return Compared(finished=finished, refused=refused, lost=lost, useless=useless)

    def missing(
        self, workers: Mapping[str, int], *, left: int, item_seconds: float | None, home_processors: int
    ) -> dict[str, int]:
        """How many more items each worker gets, of those that are left: no more than its share of them."""
        most = 2 if item_seconds is None else max(2, math.ceil(ALLOTTED_SECONDS / max(item_seconds, 1e-4)))
        processors = home_processors + sum(workers.values())
        missing: dict[str, int] = {}
        for worker, own in workers.items():
            has = len(self._items_of(worker))
            more = min(own * most, math.ceil((left + has) * own / processors)) - has
            if more > 0 and left > 0:
                missing[worker] = min(more, left)
                left -= missing[worker]
        return missing

    def surplus(self, workers: Mapping[str, int]) -> Sequence[int]:
        """Items of one worker that it has hardly begun, half of them, which a home without work does sooner."""
        surplus = [self._items_of(worker)[processors:] for worker, processors in workers.items()]
        longest = max(surplus, key=len, default=[])
        return longest[len(longest) // 2 :]

    def _items_of(self, worker: str) -> list[int]:
        return [item for item, whose in self._worker_of.items() if whose == worker]


def rest_seconds(left: int, *, item_seconds: float | None, processors: int) -> float:
    """What a home would need for the items that are left; endless while it is not known what they take."""
    if not left:  # all of them are worked on, or wait for models
        return 0.0
    return math.inf if item_seconds is None else left * item_seconds / processors

"""Copies of one guest that work through items in parallel, while the guest itself waits in a host call.

There are two kinds of work. For `parallel_map`, what counts is what the copies return. For tasks that run *ahead*, what
counts is the answers to the host calls that the copies made: the guest then runs the same tasks itself and finds the
answers ready, so its own variables change as if there had been no copies (see guest/host/parallel.py).
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future
from concurrent.futures import wait as wait_for_futures
from contextlib import AbstractContextManager
from typing import Protocol, Self

from wasm_runtime.channel import MESSAGE_BYTES, CallLog, ItemSource, Json

ITEMS_AT_MOST = 100_000
# A task that computes this long ahead is not waiting for the host, so doing its work twice gains nothing.
_AHEAD_SECONDS = 2.0


class GuestCopy(AbstractContextManager["GuestCopy"], Protocol):
    """A copy of the waiting guest: a `Session`. Leaving its context closes it."""

    @property
    def call_log(self) -> CallLog:
        """The host calls of the item it works on."""

    @property
    def stopped_by(self) -> str | None:
        """What has asked it to stop."""

    @property
    def seconds_left(self) -> float:
        """What is left of its time."""

    def __enter__(self) -> Self: ...

    def work_on_items(self, items: ItemSource, seconds: float) -> str | None:
        """Work until there are no more items; -> what stopped it before that."""

    def take_output(self) -> str:
        """Return and forget what was printed since the last time."""

    def interrupt(self) -> None:
        """Stop the work. May be called from any thread."""


class ParallelCopies:
    """One round of work. `make_copy` copies the waiting guest; it is called from several threads."""

    def __init__(self, make_copy: Callable[[], GuestCopy], *, count: int, ahead: bool, seconds: float) -> None:
        """`seconds` limits the time of each copy, not counting its waits for the host."""
        self._make_copy = make_copy
        self._count = count
        self._ahead = ahead
        self._seconds = min(seconds, _AHEAD_SECONDS) if ahead else seconds
        self._waiting = deque(range(min(count, ITEMS_AT_MOST)))
        self._outcomes: dict[int, dict[str, Json]] = {}
        self._outcome_bytes = 0
        self._lock = threading.Lock()
        self._working: set[GuestCopy] = set()
        self._stopped = False
        self.logs: dict[int, CallLog] = {}
        self.longest_seconds = 0.0

    def work_on_all(self, threads: Executor, workers: int, interrupted: "Future[None]") -> dict[str, Json]:
        """Work through all items on up to `workers` threads; -> the answer for the guest."""
        if not 0 < self._count <= ITEMS_AT_MOST:
            return {"refused": f"{self._count} items cannot be worked on in parallel: give from 1 to {ITEMS_AT_MOST}"}
        pending: set[Future[None]] = {threads.submit(self._work) for _ in range(max(1, min(workers, self._count)))}
        failures: list[BaseException] = []
        while pending:
            done, _ = wait_for_futures([*pending, interrupted], return_when=FIRST_COMPLETED)
            if interrupted in done:
                self._stop()
                wait_for_futures(pending)
                return {"interrupted": True}
            pending -= done
            failures += [error for f in done if (error := f.exception()) is not None]
        if failures and not self._ahead and len(self._outcomes) < self._count:
            return {"refused": f"the copies could not be made: {failures[0]}"}
        missing: dict[str, Json] = {"error": "this item was not worked on"}
        return {"ok": [] if self._ahead else [self._outcomes.get(index, missing) for index in range(self._count)]}

    def next_index(self) -> int | None:
        """Return an item that nobody works on, or None."""
        try:
            return None if self._stopped else self._waiting.popleft()
        except IndexError:
            return None

    def describe_item(self, index: int) -> dict[str, Json]:
        """Return what a copy is told about an item."""
        # A task that runs ahead must draw the random numbers that the guest itself will draw.
        return {"index": index, "ahead": self._ahead, "entropy": None if self._ahead else os.urandom(32).hex()}

    def record_outcome(self, index: int, outcome: dict[str, Json], copy: GuestCopy) -> None:
        """Store the outcome of item `index`."""
        if self._ahead:
            self.logs[index] = copy.call_log
        elif copy.stopped_by is not None:
            self._outcomes[index] = _stopped_item(copy.stopped_by)
        else:
            self._outcomes[index] = self._limited(outcome | {"stdout": copy.take_output()})

    def _work(self) -> None:
        """Work until there are no items left; a copy that is lost to an item is replaced by another one.

        All copies made here share one time limit, so a thousand items that never end take no longer than one.
        """
        left = self._seconds
        while self._waiting and not self._stopped and left > 0:
            with self._make_copy() as copy:
                with self._lock:
                    self._working.add(copy)
                items = _ItemsOfCopy(self, copy)
                started = time.monotonic()
                stopped = copy.work_on_items(items, left)
                left = copy.seconds_left if copy.stopped_by is None else 0.0
                with self._lock:
                    self._working.discard(copy)
                    used = min(time.monotonic() - started, self._seconds - left)
                    self.longest_seconds = max(self.longest_seconds, used)
                if stopped is not None and items.current is not None:
                    self._outcomes[items.current] = _stopped_item(stopped)

    def _limited(self, outcome: dict[str, Json]) -> dict[str, Json]:
        """Return the outcome, or an error once all outcomes together are longer than a message may be."""
        with self._lock:
            self._outcome_bytes += sum(len(text) for text in outcome.values() if isinstance(text, str))
            if self._outcome_bytes <= MESSAGE_BYTES:
                return outcome
        return {"error": f"the values of all items are more than {MESSAGE_BYTES >> 20} MiB: return less from each"}

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            working = list(self._working)
        for copy in working:
            copy.interrupt()


class _ItemsOfCopy:
    """The `ItemSource` of one copy."""

    def __init__(self, round_of_work: ParallelCopies, copy: GuestCopy) -> None:
        self._round = round_of_work
        self._copy = copy
        self.current: int | None = None

    def next_item(self) -> dict[str, Json] | None:
        self.current = self._round.next_index()
        return None if self.current is None else self._round.describe_item(self.current)

    def finish_item(self, index: int, outcome: dict[str, Json]) -> None:
        if index == self.current:  # the guest's claim is not trusted: a copy reports on its own item only
            self._round.record_outcome(index, outcome, self._copy)
            self.current = None


def _stopped_item(cause: str) -> dict[str, Json]:
    return {"error": f"the work on this item was stopped: {cause}"}

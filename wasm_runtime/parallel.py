"""Copies of one guest that work through items in parallel, while the guest itself waits in a host call.

There are two kinds of work. For `parallel_map`, what counts is what the copies return. For tasks that run *ahead*, what
counts is the answers to the host calls that the copies made: the guest then runs the same tasks itself and finds the
answers ready, so its own variables change as if there had been no copies (see guest/host/parallel.py).
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future
from concurrent.futures import wait as wait_for_futures
from contextlib import AbstractContextManager
from sys import getsizeof
from typing import Protocol, Self

from wasm_runtime.channel import AHEAD_CALLS_OF_ALL, AnswerLog, CallLog, ItemSource, Json
from wasm_runtime.held_bytes import Reservable, Unlimited, json_bytes
from wasm_runtime.pending_calls import KeptOutcome, Pause, no_pause

ITEMS_AT_MOST = 100_000
# What `parallel_map` asks for unless its caller says how many (guest/host/parallel.py).
WORKERS_AT_MOST = 64
# A task that computes this long ahead is not waiting for the host, so doing its work twice gains nothing.
_AHEAD_SECONDS = 2.0
# How long a task that would run ahead waits for a thread, in the time of the cell.
_AHEAD_THREAD_SECONDS = 0.2
# An interrupt that comes while a copy is between two of its steps is lost, so it is repeated.
_INTERRUPT_SECONDS = 0.1
# The outcomes of all items together.
OUTCOME_BYTES = 256 << 20
_OUTCOME_FIELDS = ("value", "exception", "error")


class GuestCopy(AbstractContextManager["GuestCopy"], Protocol):
    """A copy of the waiting guest: a `Session`. Leaving its context closes it."""

    @property
    def call_log(self) -> CallLog:
        """The host calls of the item it works on."""

    @property
    def stopped_by(self) -> str | None:
        """The reason for which it was asked to stop."""

    @property
    def seconds_left(self) -> float:
        """The rest of its time."""

    def __enter__(self) -> Self: ...

    def work_on_items(self, items: ItemSource, seconds: float) -> str | None:
        """Work until there are no more items; -> what stopped it before that."""

    def take_output(self) -> str:
        """Return and forget what was printed since the last time."""

    def interrupt(self) -> None:
        """Stop the work. May be called from any thread."""


class ParallelCopies:
    """One round of work. `make_copy` copies the waiting guest; it is called from several threads, by one at a time."""

    def __init__(
        self,
        make_copy: Callable[[], GuestCopy],
        *,
        count: int,
        ahead: bool,
        seconds: float,
        memory: Reservable | None = None,
    ) -> None:
        """`seconds` limits the time of each copy, not counting its waits for somebody outside.

        Outcomes and logs are reserved in `memory`, up to `held_bytes` at the end.
        """
        self._make_copy = make_copy
        self._count = count
        self._ahead = ahead
        self._seconds = min(seconds, _AHEAD_SECONDS) if ahead else seconds
        self._memory = memory or Unlimited()
        self._waiting = deque(range(min(count, ITEMS_AT_MOST)))
        self._outcomes: dict[int, dict[str, Json]] = {}
        self._lock = threading.Lock()
        self._copying = threading.Lock()
        self._working: set[GuestCopy] = set()
        self._workers = 0
        self._begun: Future[None] = Future()
        self._stopped = False
        self.logs: dict[int, AnswerLog] = {}
        self._logged = 0
        self.held_bytes = 0
        self.longest_seconds = 0.0

    def work_on_all(
        self, threads: Executor, workers: int, interrupted: "Future[None]", pause: Pause = no_pause
    ) -> dict[str, Json]:
        """Work through all items on up to `workers` threads; -> the answer for the guest.

        `pause` is entered while the guest waits, as for somebody outside while at least one worker has a thread: copies
        have clocks of their own.
        """
        if not 0 < self._count <= ITEMS_AT_MOST:
            return {"refused": f"{self._count} items cannot be worked on in parallel: give from 1 to {ITEMS_AT_MOST}"}
        return self._work_with(threads, workers, interrupted, pause)

    def _work_with(self, threads: Executor, workers: int, interrupted: "Future[None]", pause: Pause) -> dict[str, Json]:
        pending: set[Future[None]] = {threads.submit(self._work) for _ in range(max(1, min(workers, self._count)))}
        failures: list[BaseException] = []
        while pending:
            done = self._wait_for_workers(pending, interrupted, pause)
            if interrupted in done:
                self._stop(pending)
                return {"interrupted": True}
            if not done:  # running ahead only saves time: the guest does without
                self._stop(pending)
                return {"ok": []}
            pending -= done
            failures += [error for f in done if (error := f.exception()) is not None]
            if not self._waiting:  # a worker that has no thread yet would find nothing to do
                pending = {f for f in pending if not f.cancel()}
        return self._answer(failures)

    def _answer(self, failures: Sequence[BaseException]) -> dict[str, Json]:
        """Return what the guest is told once all workers have ended."""
        if failures and not self._ahead and len(self._outcomes) < self._count:
            return {"refused": f"the copies could not be made: {failures[0]}"}
        missing: dict[str, Json] = {"error": "this item was not worked on"}
        return {"ok": [] if self._ahead else [self._outcomes.get(index, missing) for index in range(self._count)]}

    def _wait_for_workers(
        self, pending: set[Future[None]], interrupted: "Future[None]", pause: Pause
    ) -> set[Future[None]]:
        with self._lock:
            has_thread, begun = self._workers > 0, self._begun
        either = {*pending, interrupted} if has_thread else {*pending, interrupted, begun}
        seconds = _AHEAD_THREAD_SECONDS if self._ahead and not has_thread else None
        with pause(outside=has_thread):
            return wait_for_futures(either, timeout=seconds, return_when=FIRST_COMPLETED).done

    def next_index(self) -> int | None:
        """Return an item that nobody works on, or None."""
        try:
            return None if self._stopped else self._waiting.popleft()
        except IndexError:
            return None

    def begin_item(self, copy: GuestCopy) -> None:
        """Hear that a copy begins with an item."""

    def end_item(self, copy: GuestCopy) -> None:
        """Hear that the work of a copy on an item has ended."""

    def describe_item(self, index: int) -> dict[str, Json]:
        """Return what a copy is told about an item."""
        # A task that runs ahead must draw the random numbers that the guest itself will draw.
        return {"index": index, "ahead": self._ahead, "entropy": None if self._ahead else os.urandom(32).hex()}

    def record_outcome(self, index: int, outcome: dict[str, Json], copy: GuestCopy) -> None:
        """Store the outcome of item `index`."""
        if self._ahead:
            log = [(key, answer.kept) for key, answer in copy.call_log if answer.kept is not None and answer.is_settled]
            self._logged += len(log)
            if self._logged <= AHEAD_CALLS_OF_ALL and self._hold(sum(map(_logged_bytes, log))):
                self.logs[index] = log  # otherwise the guest makes these calls again
        elif copy.stopped_by is not None:
            self._outcomes[index] = _stopped_item(copy.stopped_by)
        else:
            self._outcomes[index] = self._limited(outcome, copy.take_output())

    def lose_item(self, index: int, cause: str) -> None:
        """Note that the work on item `index` ended together with its copy."""
        self._outcomes[index] = _stopped_item(cause)

    def _work(self) -> None:
        """Work until there are no items left; a copy that is lost to an item is replaced by another one.

        All copies made here share one time limit, so a thousand items that never end take no longer than one. Making
        them counts, and so does what earlier workers have used when this one gets its thread late.
        """
        with self._lock:
            self._workers += 1
            left = self._time_left()
            if not self._begun.done():
                self._begun.set_result(None)
        began = time.monotonic()
        try:
            while self._has_items() and not self._stopped and left > 0:
                left = self._work_in_copy(left)
        finally:
            with self._lock:
                self._workers -= 1
                if not self._workers:
                    self._begun = Future()
                used = min(time.monotonic() - began, self._seconds - left)
                self.longest_seconds = max(self.longest_seconds, used)

    def _has_items(self) -> bool:
        return bool(self._waiting)

    def _time_left(self) -> float:
        return self._seconds - self.longest_seconds

    def _work_in_copy(self, seconds: float) -> float:
        """Work in one copy; -> the seconds that are left then."""
        began = time.monotonic()
        with self._copying:
            if self._stopped or time.monotonic() - began >= seconds:
                return 0.0
            made = self._make_copy()
        with made as copy:
            with self._lock:
                if self._stopped:
                    return 0.0
                self._working.add(copy)
            left = seconds - (time.monotonic() - began)
            if left <= 0:
                return 0.0
            items = _ItemsOfCopy(self, copy)
            try:
                stopped = copy.work_on_items(items, left)
            finally:
                with self._lock:
                    self._working.discard(copy)
            if stopped is not None and items.current is not None:
                self.lose_item(items.current, stopped)
            items.end()
            return copy.seconds_left if copy.stopped_by is None else 0.0

    def _limited(self, outcome: dict[str, Json], stdout: str) -> dict[str, Json]:
        """Return the texts of an outcome, or an error once all together are longer than fits."""
        texts: dict[str, Json] = {name: outcome[name] for name in _OUTCOME_FIELDS if isinstance(outcome.get(name), str)}
        texts["stdout"] = stdout
        if self._hold(json_bytes(texts)):
            return texts
        return {
            "error": f"the values of all items are more than {OUTCOME_BYTES >> 20} MiB or do not fit into the memory "
            "of this session: return less from each"
        }

    def _hold(self, n: int) -> bool:
        with self._lock:
            if self.held_bytes + n > OUTCOME_BYTES or not self._memory.reserve(n):
                return False
            self.held_bytes += n
            return True

    def _stop(self, pending: set[Future[None]]) -> None:
        """Interrupt every copy, and wait until all have ended."""
        self._stopped = True
        pending = {f for f in pending if not f.cancel()}
        while pending:
            with self._lock:
                working = list(self._working)
            for copy in working:
                copy.interrupt()
            pending = wait_for_futures(pending, timeout=_INTERRUPT_SECONDS).not_done


class _ItemsOfCopy:
    """The `ItemSource` of one copy."""

    def __init__(self, round_of_work: ParallelCopies, copy: GuestCopy) -> None:
        self._round = round_of_work
        self._copy = copy
        self.current: int | None = None

    def next_item(self) -> dict[str, Json] | None:
        self.current = self._round.next_index()
        if self.current is None:
            return None
        self._round.begin_item(self._copy)
        return self._round.describe_item(self.current)

    def finish_item(self, index: int, outcome: dict[str, Json]) -> None:
        if index == self.current:  # the guest's claim is not trusted: a copy reports on its own item only
            self._round.record_outcome(index, outcome, self._copy)
            self.end()

    def end(self) -> None:
        """The work on the current item has ended, if there is one."""
        if self.current is not None:
            self.current = None
            self._round.end_item(self._copy)


def _logged_bytes(entry: tuple[str, KeptOutcome]) -> int:
    return getsizeof(entry[0]) + getsizeof(entry[1])


def _stopped_item(cause: str) -> dict[str, Json]:
    return {"error": f"the work on this item was stopped: {cause}"}

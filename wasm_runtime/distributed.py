"""Items of one `parallel_map` on which other processes work, too, each in copies of the waiting guest.

Theory of operation. The process whose guest waits is the *home* of the map. It works through the items as ever, but in
no more copies that compute than it has processors, so that items are left for others to take. Those restore a
checkpoint of the waiting guest, and work in copies of that.

Only values travel. A copy elsewhere that calls a host function, except one that only reads, is stopped at the call, and
its item comes back to the home, as does an item that fails in any way. It is worked on there once more: so calls are
made at the home only, as often as without others, and errors are those of the home. What an item changes stays in its
copy, so it does no harm that one was worked on twice.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future
from concurrent.futures import wait as wait_for_futures
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from wasm_runtime.channel import CallWatcher, Json
from wasm_runtime.held_bytes import Reservable
from wasm_runtime.parallel import GuestCopy, ParallelCopies
from wasm_runtime.pending_calls import NOTHING, KeptOutcome, Pause
from wasm_runtime.priority import processor_count
from wasm_runtime.snapshot import Checkpoint

EXCHANGE_SECONDS = 0.1
"""How often a process that works for another one's map reports, and looks for more items."""

ItemOutcome = dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Has other processes work on items of `parallel_map`.

    share       is entered with the items while their home works on them, and takes some. It returns at once, and leaves
                at once
    readers     functions that only read: copies elsewhere call them, too
    most_bytes  a guest with more memory is not copied to others
    processors  copies that compute at the same time at the home; by default as many as this process may use
    """

    share: "Callable[[DistributedCopies], AbstractContextManager[object]]"
    readers: frozenset[str]
    most_bytes: int
    processors: int | None = None


class WatchedCopy(GuestCopy, Protocol):
    """A copy whose calls are heard of: a `Session`."""

    def watch_calls(self, watcher: CallWatcher) -> None:
        """Have the watcher hear of the host calls that it makes from now on."""

    def abandon(self) -> None:
        """Stop the work for good: the copy is of no use afterwards. May be called from any thread."""


class ItemSupply(Protocol):
    """Gives a process the items of a map whose home is elsewhere."""

    def exchange(self, finished: Mapping[int, ItemOutcome | None]) -> Collection[int] | None:
        """Report outcomes, None for items that go back; -> the items to work on, or None when it is over."""


class DistributedCopies(ParallelCopies):
    """One round of work at its home. The methods for others may be called from one other thread."""

    def __init__(
        self,
        make_copy: Callable[[], WatchedCopy],
        *,
        count: int,
        seconds_left: Callable[[], float],
        memory: Reservable,
        distribution: Distribution,
        make_checkpoint: Callable[[], Checkpoint | None],
    ) -> None:
        """`seconds_left` tells the time of the waiting guest."""
        super().__init__(self._make_watched_copy, count=count, ahead=False, seconds=seconds_left(), memory=memory)
        self._make_plain_copy = make_copy
        self._seconds_left = seconds_left
        self._distribution = distribution
        self._make_checkpoint = make_checkpoint
        self.processors = distribution.processors or processor_count()
        self._elsewhere: set[int] = set()
        self._returned: deque[int] = deque()
        self._calling: set[GuestCopy] = set()
        self._is_over = False
        self._news: Future[None] = Future()
        self._began: dict[GuestCopy, float] = {}
        self._spent_seconds, self._measured = 0.0, 0

    # for others

    @property
    def left(self) -> int:
        """How many items could be taken."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether more copies could compute at the home, and there is nothing for them to do."""
        with self._lock:
            computing = self._workers - len(self._calling)
        return computing < self.processors and not self._has_items()

    @property
    def item_seconds(self) -> float | None:
        """What an item takes on average that makes no calls; None while that is not known."""
        return self._spent_seconds / self._measured if self._measured else None

    @property
    def seconds_left(self) -> float:
        """The time that others may spend."""
        return self._time_left()

    def checkpoint(self) -> Checkpoint | None:
        """Return the state of the waiting guest, for others; None if it is too large, or too late."""
        with self._copying:  # the guest goes on only when this is done
            return None if self._is_over or self._stopped else self._make_checkpoint()

    def take(self, most: int) -> list[int]:
        """Return items for others to work on. Each is given back or finished."""
        with self._lock:
            taken = [self._waiting.pop() for _ in range(0 if self._stopped else min(most, len(self._waiting)))]
            self._elsewhere.update(taken)
            return taken

    def give_back(self, items: Collection[int], *, keep: bool = False) -> None:
        """Return items that were taken; with `keep`, others do not get them again."""
        with self._lock:
            back = self._elsewhere.intersection(items)
            self._elsewhere -= back
            (self._returned if keep else self._waiting).extend(sorted(back, reverse=not keep))
        self._tell()

    def finish(self, index: int, outcome: Mapping[str, Json]) -> None:
        """Take the outcome of an item that was taken: its `value`, and its `stdout`."""
        with self._copying:  # what the session holds for the outcomes is returned when the round is over
            if self._is_over or index not in self._elsewhere:
                return
            self._outcomes[index] = self._limited(dict(outcome), str(outcome.get("stdout", "")))
            with self._lock:
                self._elsewhere.discard(index)
        self._tell()

    # at the home

    def _work_with(self, threads: Executor, workers: int, interrupted: "Future[None]", pause: Pause) -> dict[str, Json]:
        with self._distribution.share(self):
            try:
                return self._work_beside_others(threads, workers, interrupted, pause)
            finally:
                with self._copying:
                    self._is_over = True

    def _work_beside_others(
        self, threads: Executor, workers: int, interrupted: "Future[None]", pause: Pause
    ) -> dict[str, Json]:
        pending: set[Future[None]] = set()
        failures: list[BaseException] = []
        while True:
            news: Future[None] = Future()
            with self._lock:
                self._news = news
            more = 0 if failures else self._missing_workers(workers, len(pending))
            pending |= {threads.submit(self._work) for _ in range(more)}
            if not pending and (not self._elsewhere or self._time_left() <= 0):
                return self._answer(failures)
            with self._lock:
                has_thread, begun = self._workers > 0, self._begun
            either: set[Future[None]] = {*pending, interrupted, news} | (set() if has_thread else {begun})
            # While the home only waits for others, the time of its guest passes.
            seconds = None if has_thread else max(0.0, self._time_left())
            with pause(outside=has_thread):
                done = wait_for_futures(either, timeout=seconds, return_when=FIRST_COMPLETED).done
            if interrupted in done:
                self._stop(pending)
                return {"interrupted": True}
            failures += [error for f in done & pending if (error := f.exception()) is not None]
            pending -= done

    def _missing_workers(self, most: int, working: int) -> int:
        """How many more copies could begin now. Those that have made calls may wait for the answers."""
        if self._time_left() <= 0:
            return 0
        with self._lock:
            computing = working - len(self._calling)
            left = len(self._waiting) + len(self._returned)
        return max(0, min(most - working, self.processors - computing, left))

    def _has_items(self) -> bool:
        return bool(self._waiting or self._returned)

    def _time_left(self) -> float:
        return self._seconds_left() - self.longest_seconds

    def _tell(self) -> None:
        with self._lock:
            if not self._news.done():
                self._news.set_result(None)

    def _make_watched_copy(self) -> WatchedCopy:
        copy = self._make_plain_copy()
        copy.watch_calls(_CallsOfCopy(self._distribution.readers, partial(self._note_call, copy), stops=False))
        return copy

    def _note_call(self, copy: GuestCopy) -> None:
        with self._lock:
            is_new = copy not in self._calling
            self._calling.add(copy)
        if is_new:
            self._tell()

    def next_index(self) -> int | None:
        """Return an item that nobody works on; first those that came back."""
        with self._lock:
            items = self._returned or self._waiting
            return items.popleft() if items and not self._stopped else None

    def begin_item(self, copy: GuestCopy) -> None:
        """Note that a copy begins with an item."""
        self._began[copy] = time.monotonic()

    def end_item(self, copy: GuestCopy) -> None:
        """Note that the work of a copy on an item has ended."""
        began = self._began.pop(copy)
        with self._lock:
            if copy in self._calling:
                self._calling.discard(copy)
            else:
                self._spent_seconds += time.monotonic() - began
                self._measured += 1


class RemoteCopies(ParallelCopies):
    """The work of one process on items of a map whose home is elsewhere."""

    def __init__(
        self, make_copy: Callable[[], WatchedCopy], *, readers: frozenset[str], seconds: float, memory: Reservable
    ) -> None:
        """`seconds` limits the time of each copy."""
        super().__init__(self._make_watched_copy, count=0, ahead=False, seconds=seconds, memory=memory)
        self._make_plain_copy = make_copy
        self._readers = readers
        self._begun_items: set[int] = set()
        self._finished: dict[int, ItemOutcome | None] = {}
        self._called: set[GuestCopy] = set()
        self._values, self._came_back = 0, 0

    def work_for(self, supply: ItemSupply, threads: Executor, workers: int) -> None:
        """Work until the supply ends, time or memory is short, or most items go back."""
        pending: set[Future[None]] = set()
        try:
            while (items := supply.exchange(self._take_finished())) is not None:
                with self._lock:
                    self._waiting = deque(index for index in sorted(items) if index not in self._begun_items)
                ended = {f for f in pending if f.done()}
                pending -= ended
                if any(f.exception() for f in ended) or self._time_left() <= 0 or self._came_back > self._values:
                    return
                more = min(workers - len(pending), len(self._waiting))
                pending |= {threads.submit(self._work) for _ in range(more)}
                if pending:
                    wait_for_futures(pending, timeout=EXCHANGE_SECONDS)
                else:
                    time.sleep(EXCHANGE_SECONDS)
        finally:
            self._stop(pending)

    def _take_finished(self) -> dict[int, ItemOutcome | None]:
        with self._lock:
            finished, self._finished = self._finished, {}
            self._begun_items -= finished.keys()
            held, self.held_bytes = self.held_bytes, 0
        self._memory.release(held)
        return finished

    def next_index(self) -> int | None:
        """Return an item that has not begun."""
        with self._lock:
            if self._stopped or not self._waiting:
                return None
            index = self._waiting.popleft()
            self._begun_items.add(index)
            return index

    def record_outcome(self, index: int, outcome: ItemOutcome, copy: GuestCopy) -> None:
        """Keep a value; without one, the item goes back."""
        texts = self._limited(outcome, copy.take_output())
        is_value = "value" in texts and copy not in self._called and copy.stopped_by is None
        self._keep(index, texts if is_value else None)

    def lose_item(self, index: int, cause: str) -> None:  # noqa: ARG002 - the home finds out itself
        """Have the item go back."""
        self._keep(index, None)

    def _keep(self, index: int, outcome: ItemOutcome | None) -> None:
        with self._lock:
            self._finished[index] = outcome
            self._values += outcome is not None
            self._came_back += outcome is None

    def _make_watched_copy(self) -> WatchedCopy:
        copy = self._make_plain_copy()
        copy.watch_calls(_CallsOfCopy(self._readers, partial(self._stop_at_call, copy), stops=True))
        return copy

    def _stop_at_call(self, copy: WatchedCopy) -> None:
        self._called.add(copy)
        copy.abandon()


class _CallsOfCopy:
    """Hears of the calls of a copy that do more than read. A `CallWatcher`."""

    def __init__(self, readers: frozenset[str], on_call: Callable[[], None], *, stops: bool) -> None:
        """If it `stops` the copy, calls are not made and sleeping is none; otherwise a sleep counts like a call."""
        self._readers, self._on_call, self._stops = readers, on_call, stops

    def answer(self, name: str, *_: object) -> KeptOutcome | None:
        """Tell of the call. The copy does not come to use this answer."""
        if name in self._readers or (self._stops and name == "time.sleep"):
            return None
        self._on_call()
        return NOTHING if self._stops else None

    def made(self, *_: object) -> None:
        """Do nothing: the call was told of before."""

    def has_guessed(self) -> bool:
        """Return False: no answer is a guess."""
        return False

    def waits(self) -> None:
        """Do nothing, as `made`."""

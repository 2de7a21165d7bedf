"""Copies of one guest that work through items in parallel, while the guest itself waits in a host call.

Two kinds of work. `parallel_map`: what the copies return is what counts. Running *ahead*: what counts is the
answers to the host calls they made; the guest then runs the same tasks itself and finds the answers ready, so
that its own variables change as if there had been no copies (see guest/host/parallel.py).
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future
from concurrent.futures import wait as wait_for_futures
from typing import TYPE_CHECKING

from wasm_runtime.channel import MESSAGE_BYTES, CallLog, Json

if TYPE_CHECKING:
    from wasm_runtime.session import Session

ITEMS_AT_MOST = 100_000
# A task that computes this long ahead is not waiting for the host: doing it twice gains nothing.
_AHEAD_SECONDS = 2.0


class Crew:
    """One round of work. `copy` makes a copy of the waiting guest; it is called from several threads."""

    def __init__(self, copy: Callable[[], "Session"], *, count: int, ahead: bool, seconds: float) -> None:
        """`seconds` bounds each copy's own time, without its waiting."""
        self._copy = copy
        self._count = count
        self._ahead = ahead
        self._seconds = min(seconds, _AHEAD_SECONDS) if ahead else seconds
        self._waiting = deque(range(min(count, ITEMS_AT_MOST)))
        self._outcomes: dict[int, dict[str, Json]] = {}
        self._outcome_bytes = 0
        self._lock = threading.Lock()
        self._at_work: set[Session] = set()
        self._stopped = False
        self.logs: dict[int, CallLog] = {}
        self.longest_seconds = 0.0

    def work(self, threads: Executor, workers: int, interrupted: "Future[None]") -> dict[str, Json]:
        """Work through all items on up to `workers` threads; -> the answer for the guest."""
        if not 0 < self._count <= ITEMS_AT_MOST:
            return {"refused": f"{self._count} items cannot be worked on in parallel: give from 1 to {ITEMS_AT_MOST}"}
        pending: set[Future[None]] = {threads.submit(self._member) for _ in range(max(1, min(workers, self._count)))}
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

    def _member(self) -> None:
        """Work until there are no items: with one copy, or with another where one was lost to an item.

        All its copies together have the time of one: a thousand items that never end take no longer than one.
        """
        left = self._seconds
        while self._waiting and not self._stopped and left > 0:
            with self._copy() as session:
                with self._lock:
                    self._at_work.add(session)
                errand = _Items(self, session)
                started = time.monotonic()
                stopped = session.work_off(errand, left)
                left = session.seconds_left if session.stopped_by is None else 0.0
                with self._lock:
                    self._at_work.discard(session)
                    used = min(time.monotonic() - started, self._seconds - left)
                    self.longest_seconds = max(self.longest_seconds, used)
                if stopped is not None and errand.current is not None:
                    self._outcomes[errand.current] = {"error": f"the work on this item was stopped: {stopped}"}

    def take(self, index: int, outcome: dict[str, Json], session: "Session") -> None:
        """Take what came of item `index`."""
        if self._ahead:
            self.logs[index] = session.call_log
        elif session.stopped_by is not None:
            self._outcomes[index] = {"error": f"the work on this item was stopped: {session.stopped_by}"}
        else:
            self._outcomes[index] = self._bounded(outcome | {"stdout": session.take_output()})

    def _bounded(self, outcome: dict[str, Json]) -> dict[str, Json]:
        with self._lock:
            self._outcome_bytes += sum(len(text) for text in outcome.values() if isinstance(text, str))
            if self._outcome_bytes <= MESSAGE_BYTES:
                return outcome
        return {"error": f"the values of all items are more than {MESSAGE_BYTES >> 20} MiB: return less from each"}

    def next_index(self) -> int | None:
        """Return an item nobody works on, or None."""
        try:
            return None if self._stopped else self._waiting.popleft()
        except IndexError:
            return None

    def order(self, index: int) -> dict[str, Json]:
        """Return what a copy is told about an item."""
        # Run ahead, random numbers must be those that the guest itself will draw.
        return {"index": index, "ahead": self._ahead, "entropy": None if self._ahead else os.urandom(32).hex()}

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            at_work = list(self._at_work)
        for session in at_work:
            session.interrupt()


class _Items:
    """The `Errand` of one copy."""

    def __init__(self, crew: Crew, session: "Session") -> None:
        self._crew = crew
        self._session = session
        self.current: int | None = None

    def next(self) -> dict[str, Json] | None:
        """The next item for this copy."""
        self.current = self._crew.next_index()
        return None if self.current is None else self._crew.order(self.current)

    def done(self, index: int, outcome: dict[str, Json]) -> None:
        """What came of the item this copy works on."""
        if index == self.current:  # a guest may say anything; it speaks for its own item only
            self._crew.take(index, outcome, self._session)
            self.current = None

"""Group commit: lines that the event loop appends are written together, on a thread of their own.

    add      queues a line
    begin    has what is queued committed within SOON_SECONDS, with what is added until then
    settled  returns once everything added before it is committed, which then begins at once: the lines of one step of
             the loop make one commit; those added while it is under way make the next one, however many they are

So the loop never waits for the disk, and 64 replies that come together take two commits at most. In a thread without an
event loop `begin` commits what is queued before it returns. Commits are never at the same time, and lines keep their
order. A commit that fails is told to those who wait for it; its lines stay queued, and go with the next one.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

import anyio

Commit = Callable[[list[bytes]], None]
"""Makes lines durable, in their order. One that it has not written when it raises stays in the list."""


SOON_SECONDS = 0.005
"""A result that nobody waits for goes with the request that follows it: each commit costs some 50 us of two threads."""


class GroupCommit:
    """The queue of one record, made and closed by its owner. Any thread may call it, but only one event loop."""

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._queued: deque[bytes] = deque()
        self._left: list[bytes] = []
        """taken from the queue, and not committed because the last commit failed"""
        self._committing = threading.Lock()
        self._handing = threading.Lock()
        """held while a round goes to the thread, and while the thread is ended"""
        self._coming: _Round | None = None
        self._running: _Round | None = None
        self._rounds: SimpleQueue[_Round | None] | None = None
        """for the thread, which is started for the first of them; None ends it"""

    def __repr__(self) -> str:
        return f"<GroupCommit {len(self._queued) + len(self._left)} lines queued>"

    def add(self, line: bytes) -> None:
        """Queues a line."""
        self._queued.append(line)

    def begin(self) -> None:
        """Has what is queued committed; in a thread without an event loop at once, raising what the commit raises."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.commit_now()
        else:
            self._schedule(loop)

    async def settled(self) -> None:
        """Returns once all lines added so far are committed. Raises what their commit raised."""
        coming = self._coming or self._running
        if coming is None and (self._queued or self._left):
            coming = self._schedule(asyncio.get_running_loop())
        if coming is not None:
            if not coming.is_waited_for:
                coming.is_waited_for = True
                coming.loop.call_soon(self._begin)
            await coming.done.wait()
            if coming.error is not None:
                raise coming.error

    def commit_now(self) -> None:
        """Commits what is queued, on this thread. Raises what the commit raises."""
        with self._committing:
            while self._queued:
                self._left.append(self._queued.popleft())
            if self._left:
                self._commit(self._left)
                self._left.clear()

    def close(self) -> None:
        """Commits what is still queued, if it can be, and ends the thread. Idempotent."""
        with self._handing:
            coming, self._coming = self._coming, None  # or its time would come later, and start another thread
        error: Exception | None = None
        try:
            self.commit_now()
        except Exception as failure:  # noqa: BLE001 - raised to those who wait for the round
            error = failure
        self._left.clear()
        with self._handing:
            rounds, self._rounds = self._rounds, None
        if rounds is not None:
            rounds.put(None)
        if coming is not None:
            coming.error = error
            with suppress(RuntimeError):  # the loop has been closed
                coming.loop.call_soon_threadsafe(coming.done.set)

    # --- on the event loop

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> "_Round":
        coming = self._coming
        if coming is None:
            coming = self._coming = _Round(loop)
            loop.call_later(SOON_SECONDS, self._begin)
        return coming

    def _begin(self) -> None:
        """Begins the coming commit, unless one is under way; that one's end does it then."""
        with self._handing:
            if self._running is None and self._coming is not None:
                self._running, self._coming = self._coming, None
                if self._rounds is None:
                    self._rounds = SimpleQueue()
                    threading.Thread(target=self._work, args=(self._rounds,), name="record", daemon=True).start()
                self._rounds.put(self._running)

    def _end(self, error: Exception | None) -> None:
        if self._running is not None:
            self._running.error = error
            self._running.done.set()
            self._running = None
        self._begin()

    # --- on the thread

    def _work(self, rounds: "SimpleQueue[_Round | None]") -> None:
        while (committed := rounds.get()) is not None:
            error: Exception | None = None
            try:
                self.commit_now()
            except Exception as failure:  # noqa: BLE001 - raised to those who wait for the round
                error = failure
            with suppress(RuntimeError):  # the loop has been closed
                committed.loop.call_soon_threadsafe(self._end, error)


class _Round:
    """One commit, and whoever waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.is_waited_for = False
        self.done = anyio.Event()
        self.error: Exception | None = None

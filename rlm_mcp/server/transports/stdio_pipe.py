"""stdin and stdout of a server process, from its first moment: a thread reads the client's lines.

Until the server serves, early answers are sent and all other lines wait in order. Then the server reads those that wait
and all later ones, and only the server writes. Of the standard library alone, so that a client's first requests are
answered before anything else is imported; the process imports the server as soon as a line needs it, or after
LOAD_AFTER_SECONDS, whichever is first.

Before the server serves there is nothing to clean up, and the process ends at once: at a stop signal, at the death of
the parent, when stdout is closed, and at end of file unless the client may be waiting for the server's answer.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Queue
from threading import Event, Lock, Thread

from rlm_mcp.server.early_answers import EarlyAnswers, Prepared, Reaction, is_repeated
from rlm_mcp.server.transports.message_limit import MOST_BYTES, drop_line

LOAD_AFTER_SECONDS = 1.0
"""A client that only lists the tools is served by then, at less than a tenth of the memory and time of a whole server.
Runs that the last server left are resumed at the latest now."""

WATCH_SECONDS = 0.2
"""Interval of checks of the parent and of stdout; well within the second that the process has to end."""

WAITING_LINES = 64
"""More than this many are left in the client's pipe."""


class StdioPipe:
    """The connection with the client."""

    def __init__(
        self,
        source: int,
        sink: int,
        prepared: Prepared | None,
        *,
        end: Callable[[], None] = lambda: os._exit(0),
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """`end` ends the process. A message of more than `most_bytes` is answered with an error and dropped."""
        self._source = os.fdopen(source, "rb", closefd=False)
        self._most_bytes = most_bytes
        self._sink = sink
        self._writing = Lock()
        self._early = None if prepared is None else EarlyAnswers(prepared)
        self._end = end
        self._parent = os.getppid()
        self._waiting: Queue[str | None] = Queue(WAITING_LINES)
        self._turn = Lock()  # who may write, and end the process
        self._needed = Event()
        self._serving = False
        self._repeats = False  # whether the server will answer a request that was answered early
        if prepared is None:
            self._needed.set()
        Thread(target=self._read, name="stdin", daemon=True).start()

    def __repr__(self) -> str:
        return f"<StdioPipe, {'served' if self._serving else self._early}, {self._waiting.qsize()} lines waiting>"

    @classmethod
    def claim(cls, prepared: Prepared | None) -> "StdioPipe":
        """Takes stdin and stdout over. Whatever else reads stdin finds it empty, and stray output goes to stderr."""
        source, sink = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        for number in (signal.SIGTERM, signal.SIGINT):  # before the first answer, after which a client may send one
            signal.signal(number, lambda *_: os._exit(0))
        return cls(source, sink, prepared)

    def wait_until_needed(self) -> None:
        """Returns when the server has to be imported."""
        until = time.monotonic() + LOAD_AFTER_SECONDS
        while not self._needed.wait(min(WATCH_SECONDS, max(0.0, until - time.monotonic()))):
            if self.is_abandoned():
                return self._end()
            if time.monotonic() >= until:
                return None
        return None

    def serve(self) -> None:
        """From now on the server answers, and ends the process."""
        with self._turn:
            self._serving = True

    def read(self) -> str | None:
        """The next line for the server; None at end of file."""
        return self._waiting.get()

    def write(self, line: str) -> None:
        """Sends a line of the server, unless it repeats the early answer. Raises BrokenPipeError."""
        if self._repeats and is_repeated(line):
            self._repeats = False
            return
        self._send(line)

    def is_abandoned(self) -> bool:
        """Whether the parent has died or the reading end of stdout was closed."""
        if os.getppid() != self._parent:
            return True
        if not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(self._sink, 0)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))

    def _send(self, line: str) -> None:
        data = memoryview(line.encode("utf-8"))
        with self._writing:
            while data:
                data = data[os.write(self._sink, data) :]

    def _read(self) -> None:
        """Reads stdin to its end; on a thread, because nothing else interrupts it."""
        with suppress(OSError):  # the client is gone, as at end of file
            for line in self._messages():
                with self._turn:
                    reaction = self._react(line)
                if reaction.passed_on is not None:
                    self._waiting.put(reaction.passed_on)
                if reaction.needs_server:
                    self._needed.set()
        with self._turn:
            if not self._serving and not self._needed.is_set():
                self._end()
        self._waiting.put(None)
        self._needed.set()

    def _messages(self) -> Iterator[str]:
        """The client's lines, without those that are too long."""
        while line := self._source.readline(self._most_bytes + 1):
            if len(line) > self._most_bytes:
                refused = drop_line(self._source, line, self._most_bytes)
                del line
                self._send(refused)
            else:
                yield line.decode("utf-8", "replace")

    def _react(self, line: str) -> Reaction:
        if self._serving or self._early is None:
            return Reaction(passed_on=line, needs_server=True)
        reaction = self._early.react(line)
        if reaction.answer is not None:
            self._send(reaction.answer)
            self._repeats |= reaction.passed_on is not None
        return reaction

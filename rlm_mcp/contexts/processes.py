"""The programs that work for this process: none outlives it, or the work for which it was started.

A server leaves without waiting for its threads (`os._exit`), so it has to kill what these have started and to see to it
that they start nothing more.
"""

import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rlm_mcp.contexts.deadline import Deadline
from rlm_mcp.errors import ContextError

LOOK_SECONDS = 0.05
"""Between two looks at whether an output is still wanted."""

Child = subprocess.Popen[bytes]


class NoMoreChildren(ContextError):
    """The process ends: what a program was doing for it is broken off, and no other is started."""


class Children:
    """The running ones. One for a process: CHILDREN."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Child] = set()
        self._ended = False

    def __repr__(self) -> str:
        return f"<Children {len(self._running)} running>"

    @contextmanager
    def started(self, command: Sequence[str], *, env: Mapping[str, str], stdin: int, stderr: int) -> Iterator[Child]:
        """Runs a program for the time of the block; what still runs then is killed. Raises OSError, NoMoreChildren."""
        with self._lock:
            self._go_on()
            child = subprocess.Popen(  # noqa: S603 - whoever calls says why
                command, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr
            )
            self._running.add(child)
        with child:
            try:
                yield child
            finally:
                child.kill()
                self._running.discard(child)
        self._go_on()

    def output(
        self, command: Sequence[str], *, env: Mapping[str, str], deadline: Deadline, look: Callable[[], None]
    ) -> bytes | None:
        """What a program prints; None when it fails or the deadline passes.

        `look` is called many times a second and may raise to break it off. Raises OSError, NoMoreChildren.
        """
        with self.started(command, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            while not deadline.passed:
                look()
                try:
                    printed, _ = child.communicate(timeout=min(LOOK_SECONDS, deadline.seconds_left))
                except subprocess.TimeoutExpired:
                    continue
                break
            else:
                return None
        return printed if child.returncode == 0 else None

    def stop(self) -> None:
        """Kills them all and starts none any more: this process is about to leave without waiting for its threads."""
        with self._lock:
            self._ended = True
            for child in list(self._running):
                child.kill()

    def _go_on(self) -> None:
        if self._ended:
            raise NoMoreChildren("the server is about to end: ask it again when it is back.")


CHILDREN = Children()

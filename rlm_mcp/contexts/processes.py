"""The programs that work for this process: none outlives it, or the work for which it was started.

A server leaves without waiting for its threads (`os._exit`), so it has to kill what these have started and to see to it
that they start nothing more.
"""

import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.errors import ContextError

POLL_SECONDS = 0.05
"""Between two looks at whether an output is still wanted."""

Process = subprocess.Popen[bytes]


class NoMoreProcesses(ContextError):
    """The process ends: what a program was doing for it is broken off, and no other is started."""


class Processes:
    """The running ones. One for a process: PROCESSES."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Process] = set()
        self._ended = False

    def __repr__(self) -> str:
        return f"<Processes {len(self._running)} running>"

    @contextmanager
    def running(self, command: Sequence[str], *, env: Mapping[str, str], stdin: int, stderr: int) -> Iterator[Process]:
        """Runs a program for the time of the block; what still runs then is killed. Raises OSError, NoMoreProcesses."""
        with self._lock:
            self._check_not_ended()
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
        self._check_not_ended()

    def read_output(
        self, command: Sequence[str], *, env: Mapping[str, str], timeout: Timeout, check_cancelled: Callable[[], None]
    ) -> bytes | None:
        """What a program prints; None when it fails or the deadline passes.

        `check_cancelled` is called many times a second and may raise to break it off. Raises OSError, NoMoreProcesses.
        """
        with self.running(command, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            while not timeout.expired:
                check_cancelled()
                try:
                    printed, _ = child.communicate(timeout=min(POLL_SECONDS, timeout.seconds_left))
                except subprocess.TimeoutExpired:
                    continue
                break
            else:
                return None
        return printed if child.returncode == 0 else None

    def kill_all(self) -> None:
        """Kills them all and starts none any more: this process is about to leave without waiting for its threads."""
        with self._lock:
            self._ended = True
            for child in list(self._running):
                child.kill()

    def _check_not_ended(self) -> None:
        if self._ended:
            raise NoMoreProcesses("the server is about to end: ask it again when it is back.")


PROCESSES = Processes()

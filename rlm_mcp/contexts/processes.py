"""Subprocesses: none outlives this process, or the operation for which it was started.

A server exits without waiting for its threads (`os._exit`), so it kills the subprocesses that they have started and
keeps them from starting more.
"""

import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.errors import ContextError

POLL_SECONDS = 0.05
"""Time between two checks of whether an output is still wanted."""

Process = subprocess.Popen[bytes]


class NoMoreProcesses(ContextError):
    """This process is about to exit: its subprocesses were killed, and no other is started."""


class Processes:
    """The running subprocesses. There is one instance in a process: PROCESSES."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Process] = set()
        self._ended = False

    def __repr__(self) -> str:
        return f"<Processes {len(self._running)} running>"

    @contextmanager
    def running(self, command: Sequence[str], *, env: Mapping[str, str], stdin: int, stderr: int) -> Iterator[Process]:
        """Runs a program for the duration of the block, then kills it. Raises OSError, NoMoreProcesses."""
        with self._lock:
            self._check_not_ended()
            child = subprocess.Popen(  # noqa: S603 - the callers check their arguments
                command, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr
            )
            self._running.add(child)
        with child:
            try:
                yield child
            finally:
                child.kill()
                self._running.discard(child)
                if child.stdin is not None:
                    with suppress(BrokenPipeError):  # what was not written yet has nobody left to read it
                        child.stdin.close()
        self._check_not_ended()

    def read_output(
        self, command: Sequence[str], *, env: Mapping[str, str], timeout: Timeout, check_cancelled: Callable[[], None]
    ) -> bytes | None:
        """What a program prints; None when it fails or takes too long.

        `check_cancelled` is called many times a second and may raise to end it. Raises OSError, NoMoreProcesses.
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
        """Kills all subprocesses and starts no more: this process is about to exit without waiting for its threads."""
        with self._lock:
            self._ended = True
            for child in list(self._running):
                child.kill()

    def _check_not_ended(self) -> None:
        if self._ended:
            raise NoMoreProcesses("the server is shutting down: try again when it has been restarted.")


PROCESSES = Processes()

"""Subprocesses: none outlives this process, or the operation for which it was started.

A server exits without waiting for its threads (`os._exit`), so it kills the subprocesses that they have started and
keeps them from starting more.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from typing import BinaryIO, cast

from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.errors import ContextError

POLL_SECONDS = 0.05
"""Time between two checks of whether an output is still wanted."""

Process = subprocess.Popen[bytes]


class OutputTooLong(ContextError):
    """A program printed more than its caller takes."""


class NoMoreProcesses(ContextError):
    """This process is about to exit: its subprocesses were killed, and no other is started."""


class Processes:
    """The running subprocesses. There is one instance in a process: PROCESSES."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Process, bool] = {}
        """and whether each has a session of its own, with the processes that it started"""
        self._ended = False

    def __repr__(self) -> str:
        return f"<Processes {len(self._running)} running>"

    @contextmanager
    def running(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: int,
        stderr: int | BinaryIO,
        stdout: int = subprocess.PIPE,
        session: bool = False,
    ) -> Iterator[Process]:
        """Runs a program for the duration of the block, then kills it. Raises OSError, NoMoreProcesses.

        In a `session` of its own, it has no terminal to ask at, and what it has started is killed, too.
        """
        with self._lock:
            self._check_not_ended()
            child = subprocess.Popen(  # noqa: S603 - the callers check their arguments
                command, env=env, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=session
            )
            self._running[child] = session
        with child:
            try:
                yield child
            finally:
                _kill(child, session=session)
                self._running.pop(child, None)
                if child.stdin is not None:
                    with suppress(BrokenPipeError):  # what was not written yet has nobody left to read it
                        child.stdin.close()
        self._check_not_ended()

    def read_output(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        timeout: Timeout,
        check_cancelled: Callable[[], None],
        most_bytes: int,
    ) -> bytes | None:
        """What a program prints; None when it fails or takes too long.

        `check_cancelled` is called many times a second and may raise to end it.
        Raises OSError, NoMoreProcesses, and OutputTooLong for more than `most_bytes`.
        """
        printed = bytearray()
        with self.running(command, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            reader = threading.Thread(target=_read_up_to, args=(child, most_bytes + 1, printed), daemon=True)
            reader.start()
            while reader.is_alive() and not timeout.expired:
                check_cancelled()
                reader.join(min(POLL_SECONDS, timeout.seconds_left))
            if len(printed) > most_bytes:
                raise OutputTooLong(f"{command[0]} printed more than {most_bytes:,} bytes")
            if reader.is_alive():
                return None
            with suppress(subprocess.TimeoutExpired):  # it has closed its output
                child.wait(timeout.seconds_left)
        reader.join()
        return bytes(printed) if child.returncode == 0 else None

    def kill_all(self) -> None:
        """Kills all subprocesses and starts no more: this process is about to exit without waiting for its threads."""
        with self._lock:
            self._ended = True
            for child, session in list(self._running.items()):
                _kill(child, session=session)

    def _check_not_ended(self) -> None:
        if self._ended:
            raise NoMoreProcesses("the server is shutting down: try again when it has been restarted.")


def _read_up_to(child: Process, size: int, into: bytearray) -> None:
    """Reads what a program prints, until it ends, has printed `size` bytes, or its output is closed."""
    printed = cast("BufferedReader | None", child.stdout)
    with suppress(ValueError):
        while printed is not None and len(into) < size and (data := printed.read1(1 << 16)):
            into += data


def _kill(child: Process, *, session: bool) -> None:
    if session and os.name == "posix" and child.returncode is None:  # afterwards, its number may be another's
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()


PROCESSES = Processes()

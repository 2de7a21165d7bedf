"""A real terminal for a command: a pseudo-terminal that is its controlling one, so that Ctrl-C is a key."""

import os
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import pytest

from tests.peers.forking import forked_command

pytest.importorskip("termios")  # Windows has none

SECONDS = 240.0  # only a failure takes so long
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r")


class Terminal:
    """A command on a terminal of 80 columns. What it writes to stdout comes apart when `splits` is set.

    Ctrl-C reaches the children of `command` too, and not those of the default.
    """

    def __init__(
        self, *arguments: str, environment: Mapping[str, str], splits: bool = False, command: Sequence[str] = ()
    ) -> None:
        self._own, other = os.openpty()
        # The shell has a session without a terminal, and the first one it opens becomes its own.
        opens = 'exec "$@" <"$TTY" 2>"$TTY"' + ("" if splits else ' >"$TTY"')
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            ["/bin/sh", "-c", opens, "sh", *(command or forked_command()), *arguments],
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "TTY": os.ttyname(other), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if splits else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._other = other
        self.written = ""
        self._seen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        os.close(self._own)
        os.close(self._other)

    @property
    def text(self) -> str:
        """What was written, without what moves the cursor or colours."""
        return CONTROL.sub("", self.written)

    def until(self, *words: str, pressing: str = "") -> str:
        """Reads until some of these words are there that were not there before; which ones.

        Keys that are given are pressed now and every few seconds, as a person does whose key was lost.
        """
        began = time.monotonic()
        ends, press_at = began + SECONDS, began
        while True:
            if pressing and time.monotonic() >= press_at:
                self.type(pressing)
                press_at = time.monotonic() + SECONDS / 10
            new = self.text[self._seen :]
            for found in words:
                if found in new:
                    self._seen += new.index(found) + len(found)
                    return found
            assert time.monotonic() < ends, f"none of {words} in {new!r}"
            assert self._read(0.5) or self.process.poll() is None, f"it ended without any of {words}: {self.text!r}"

    def type(self, keys: str) -> None:
        """Presses these keys."""
        os.write(self._own, keys.encode())

    def status(self) -> int:
        """Reads to the end; the exit status."""
        ends = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < ends, f"it does not end: {self.text!r}"
            self._read(0.1)
        while self._read(0.05):
            pass
        return self.process.returncode

    def stdout(self) -> str:
        """What went to stdout, of a command that has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.read().decode()

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._own], [], [], seconds)
        if not ready:
            return False
        with suppress(OSError):
            self.written += os.read(self._own, 65536).decode("utf-8", "replace")
        return True


OpenTerminal = Callable[..., Terminal]


@pytest.fixture
def terminal(tmp_path: Path, sandbox_cache: Path) -> Iterator[OpenTerminal]:
    """Opens terminals on a data directory of this test."""
    places = {
        "RLM_MCP_DATA_DIR": str(tmp_path / "data"),
        "RLM_MCP_CACHE_DIR": str(sandbox_cache),
        "HOME": str(tmp_path),
        "PYTHONUTF8": "1",
        "NO_COLOR": "",
    }
    with ExitStack() as stack:

        def opening(*arguments: str, splits: bool = False, command: Sequence[str] = (), **environment: str) -> Terminal:
            opened = Terminal(*arguments, environment=places | environment, splits=splits, command=command)
            return stack.enter_context(opened)

        yield opening

"""A lock file for every process that uses the store; the system releases the lock when the process dies.

What a process holds in the store (half-written blobs, contexts that its runs use) is filed under the token of its lock.
Any process can tell whether the owner of a token is alive by trying its lock, so a killed process leaves nothing that
must be cleared by hand.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rlm_mcp.files import try_lock

_HIDDEN = ".new"


class ProcessLock:
    """This process's lock in `directory`; `token` names it. Released by `close`, or by the end of the process."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        while True:
            self.token = f"{os.getpid()}-{secrets.token_hex(6)}"
            self._path = directory / f"{self.token}.lock"
            # It gets its name once it is locked: a file of that name without a lock stands for a dead process.
            hidden = directory / f"{self.token}{_HIDDEN}"
            self._descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            with suppress(FileNotFoundError):  # another process may remove it before it is locked
                if try_lock(self._descriptor):
                    hidden.rename(self._path)
                    return
            os.close(self._descriptor)
            hidden.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"<ProcessLock {self.token}>"

    def close(self) -> None:
        """Releases the lock; the token counts as dead from now on."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def is_alive(directory: Path, token: str) -> bool:
    """Whether the process with this token still runs and has not closed its lock."""
    return _is_locked(directory / f"{token}.lock")


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def dead_tokens(directory: Path) -> Iterator[str]:
    """The tokens of processes that died without closing their lock."""
    for path in directory.glob("*"):
        if not _is_locked(path):
            yield path.stem


def remove_dead(directory: Path, token: str) -> None:
    """Removes the lock file of a dead process."""
    (directory / f"{token}.lock").unlink(missing_ok=True)
    (directory / f"{token}{_HIDDEN}").unlink(missing_ok=True)

"""Who is alive: each process locks a file of its own, and the system releases the lock when it dies.

What a process holds in the store (half-written blobs, contexts that its runs use) is filed under its token; anybody can
tell whether the process is still there by trying the lock, so a kill leaves nothing that must be cleared by hand.
"""

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


_HIDDEN = ".new"


class Holder:
    """This process's lock in `directory`; `token` names it. Closed by `close`, or by the end of the process."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        while True:
            self.token = f"{os.getpid()}-{secrets.token_hex(6)}"
            self._path = directory / f"{self.token}.lock"
            # Locked under another name first: nobody may see the file unlocked and take its process for dead.
            hidden = directory / f"{self.token}{_HIDDEN}"
            self._descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            _lock(self._descriptor)
            try:
                hidden.rename(self._path)
            except FileNotFoundError:  # cleared away in the moment before it was locked
                os.close(self._descriptor)
            else:
                break

    def __repr__(self) -> str:
        return f"<Holder {self.token}>"

    def close(self) -> None:
        """Lets go; the token counts as dead from now on."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def is_alive(directory: Path, token: str) -> bool:
    """Whether the process that made `token` still runs and has not closed its holder."""
    return _is_locked(directory / f"{token}.lock")


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        _lock(descriptor)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def dead_tokens(directory: Path) -> Iterator[str]:
    """The tokens of processes that died without closing their holder."""
    for path in directory.glob("*"):
        if not _is_locked(path):
            yield path.stem


def bury(directory: Path, token: str) -> None:
    """Forgets a dead process."""
    (directory / f"{token}.lock").unlink(missing_ok=True)
    (directory / f"{token}{_HIDDEN}").unlink(missing_ok=True)

"""The directory for the sockets and temporary files of workers."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlm_mcp.files import try_lock

PREFIX, LOCK = "rlm-mcp-workers-", "lock"

NEW_SECONDS = 60.0
"""A directory that is younger may not have been locked yet."""


@contextmanager
def socket_directory(parent: Path | None = None) -> Iterator[Path]:
    """A directory that only this user can enter, deleted at the end, with those that killed servers have left.

    It is not in the data directory, because the path of a socket has 107 bytes at most.
    """
    parent = parent or Path(tempfile.gettempdir())
    for left in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            _remove_if_left(left)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent) as name, (Path(name) / LOCK).open("wb") as lock:
        try_lock(lock.fileno())
        yield Path(name)


def _remove_if_left(directory: Path) -> None:
    about = directory.lstat()
    if about.st_uid != os.getuid() or time.time() - about.st_mtime < NEW_SECONDS:
        return
    with (directory / LOCK).open("rb") as lock:
        if try_lock(lock.fileno()):
            shutil.rmtree(directory, ignore_errors=True)

"""Atomic replacement of a file, and advisory locks on open files.

Locks are those of `flock`: they belong to the open file, not to the process, and the system releases them when the file
is closed or its process dies.
"""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path, *, part: Path | None = None, mode: int = 0o666, sync: bool = False) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` when the block ends, so that a reader sees all of it or the old one.

    Until then it is called `part`, by default a hidden name beside `path`; if the block raises, it is deleted. With
    `sync` it is on the disk before it gets its name.
    """
    part = part or path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    file = open(part, "xb", opener=partial(os.open, mode=mode))  # noqa: SIM115 - closed below
    try:
        with file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:  # a signal too: nothing half-written stays behind
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


if sys.platform == "win32":
    _LOCKED_BYTE = 0x7FFF_0000
    """On Windows nobody else can read a locked byte, so the one that is locked lies behind the end of any file here."""

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:  # noqa: ARG001 - Windows locks are exclusive
        """Locks an open file; False when another open file holds a lock that excludes this one."""
        import msvcrt

        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, position, os.SEEK_SET)
        return True
else:

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:
        """Locks an open file; False when another open file holds a lock that excludes this one."""
        import fcntl  # here, so that the module can be imported where it does not exist

        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

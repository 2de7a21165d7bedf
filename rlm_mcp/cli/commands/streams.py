"""Makes standard streams safe to use that are closed, full, or cannot encode a character."""

import io
import os
import select
import sys
from collections.abc import Sequence


def open_closed_streams() -> None:
    """Opens the null device in place of each standard stream that is closed.

    Otherwise the next file that is opened, such as the catalogue, would get the number of the stream and receive its
    output; and `print(…, file=None)` writes to stdout.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)  # None if it was closed
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def escape_unencodable() -> None:
    """Makes stdout escape characters that its encoding lacks, as stderr does by default."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def is_reader_gone(descriptors: Sequence[int] = (1, 2)) -> bool:
    """Whether nobody reads stdout or stderr any more, so that a broken pipe is theirs, not that of a subprocess."""
    if sys.platform == "win32":
        return True  # which cannot be asked
    poller = select.poll()
    for number in descriptors:
        poller.register(number, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poller.poll(0))


def discard_output() -> None:
    """Sends what is still buffered to the null device; otherwise Python reports an error at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)

"""stdin, stdout and stderr as a command may find them: closed, unable to show a character, or full."""

import io
import os
import sys


def open_closed_streams() -> None:
    """Puts the null device where a standard stream is closed.

    Otherwise the next file that is opened, the catalogue say, gets its number and what is meant for the stream, and
    `print(…, file=None)` takes stdout.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)  # None where it was closed
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def escape_unencodable() -> None:
    """Has characters that the encoding of stdout lacks appear as escapes, as those of stderr do."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """What is still buffered goes nowhere, else Python complains at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)

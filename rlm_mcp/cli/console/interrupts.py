"""Ctrl-C as a request to stop the running block or run; a second Ctrl-C takes effect whatever the program is doing."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from types import FrameType
from typing import NoReturn

SHOW_CURSOR = "\x1b[?25h"


@contextmanager
def on_interrupt(callback: Callable[[], object]) -> Iterator[None]:
    """SIGINT calls `callback` on the main thread, between any two byte codes, instead of raising KeyboardInterrupt.

    The callback must not wait for another thread, which may be waiting for a lock that the main thread holds.
    """

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        callback()

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def interrupts(first: Callable[[], None], second: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT calls `first` in the event loop of the main thread; each further one calls `second` at once."""
    loop, seen = asyncio.get_running_loop(), count()

    def request() -> None:
        if next(seen):
            second()
        else:
            loop.call_soon_threadsafe(first)

    with on_interrupt(request):
        yield


def end_at_once(last_words: str, status: int, *, is_drawn: bool) -> NoReturn:
    """Ends the process without cleanup. Its files are consistent at every moment."""
    with suppress(OSError):
        os.write(2, f"{SHOW_CURSOR if is_drawn else ''}\n{last_words}\n".encode())
    os._exit(status)

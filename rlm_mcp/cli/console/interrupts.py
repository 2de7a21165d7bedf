"""Ctrl-C as a wish: to stop the block or the run that goes on. A second one is obeyed whatever the program is doing."""

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
def on_interrupt(wish: Callable[[], object]) -> Iterator[None]:
    """SIGINT calls `wish` on the main thread, between any two steps of it, and raises nothing.

    It must not wait for another thread: that one may be waiting for a lock which this thread holds just then.
    """

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        wish()

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def interrupts(first: Callable[[], None], second: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT calls `first` in the event loop of the main thread, each further one `second`, at once."""
    loop, seen = asyncio.get_running_loop(), count()

    def wish() -> None:
        if next(seen):
            second()
        else:
            loop.call_soon_threadsafe(first)

    with on_interrupt(wish):
        yield


def end_at_once(last_words: str, status: int, *, is_drawn: bool) -> NoReturn:
    """Ends the process without any cleaning up; what it keeps on disk is whole at every moment."""
    with suppress(OSError):
        os.write(2, f"{SHOW_CURSOR if is_drawn else ''}\n{last_words}\n".encode())
    os._exit(status)

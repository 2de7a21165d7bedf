"""A moment by which an answer must be there, and what to do when it comes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Timeout:
    """So many seconds from now; `expired` says whether they are over."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def __repr__(self) -> str:
        return f"<Timeout in {self.seconds_left:.2f} s>"

    @property
    def seconds_left(self) -> float:
        """How much time there is, at least 0."""
        return max(self._end - time.monotonic(), 0.0)

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return self.seconds_left == 0.0

    @contextmanager
    def on_expiry(self, action: Callable[[], object]) -> Iterator[None]:
        """Does something at the deadline, from another thread, unless the block has ended by then."""
        timer = threading.Timer(self.seconds_left, action)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

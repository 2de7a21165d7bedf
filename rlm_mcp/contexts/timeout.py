"""A time limit that several steps of one operation share."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Timeout:
    """A number of seconds that begins to run when the object is made."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def __repr__(self) -> str:
        return f"<Timeout in {self.seconds_left:.2f} s>"

    @property
    def seconds_left(self) -> float:
        """How much time is left, at least 0."""
        return max(self._end - time.monotonic(), 0.0)

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self.seconds_left == 0.0

    @contextmanager
    def on_expiry(self, action: Callable[[], object]) -> Iterator[None]:
        """Calls `action` on another thread when the time is over, unless the block has ended by then."""
        timer = threading.Timer(self.seconds_left, action)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

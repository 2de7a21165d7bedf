"""A first-in, first-out gate, background tasks and threads, stop signals, and blocking calls on threads."""

import asyncio
import math
import signal
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, Self, TypeVar

import anyio
import anyio.to_thread


class FifoGate:
    """A queue of tasks whose first member tries again whenever `wake_first` is called. One event loop; no locks."""

    def __init__(self) -> None:
        # A plain dict gets slow once thousands were removed from its front: finding the first skips their empty slots.
        self._waiting: OrderedDict[GatePlace, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def queued(self) -> "GatePlace":
        """A place at the end of the queue, to be entered with `async with`; the body begins when it is the first."""
        return GatePlace(self)

    def join(self, place: "GatePlace") -> None:
        """Appends `place`."""
        self._waiting[place] = None

    def leave(self, place: "GatePlace") -> None:
        """Removes `place` and wakes the first."""
        del self._waiting[place]
        self.wake_first()

    def is_first(self, place: "GatePlace") -> bool:
        """Whether `place` is at the front of the queue."""
        return next(iter(self._waiting)) is place

    def wake_first(self) -> None:
        """Lets the first try again."""
        for place in self._waiting:
            place.wake()
            return


class GatePlace:
    """One place in the queue of a FifoGate."""

    def __init__(self, gate: FifoGate) -> None:
        self._gate = gate
        self._event: anyio.Event | None = None

    def wake(self) -> None:
        """Ends the current `wait`."""
        if self._event is not None:
            self._event.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Waits until woken, at most `seconds`."""
        self._event = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._event.wait()

    async def __aenter__(self) -> Self:
        self._gate.join(self)
        try:
            while not self._gate.is_first(self):
                await self.wait()
        except BaseException:  # cancellation too: the next in the queue would wait for ever
            self._gate.leave(self)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gate.leave(self)


@asynccontextmanager
async def background_task(work: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> AsyncIterator[None]:
    """Runs `work` for the duration of a block, then cancels it. What the block raises is not wrapped in a group."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, *args)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised below, outside of the task group, which would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


@contextmanager
def background_thread(name: str, work: Callable[[threading.Event], object]) -> Iterator[None]:
    """Runs blocking work on a thread for the duration of a block; it returns once the event that it gets is set."""
    ending = threading.Event()
    thread = threading.Thread(target=work, args=(ending,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


@contextmanager
def on_stop_signal(action: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Calls `action` in the event loop for every SIGINT and SIGTERM during a block, instead of ending the process.

    `anyio.open_signal_receiver` cannot be used: it raises NotImplementedError on Windows.
    """
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            try:
                loop.add_signal_handler(number, action)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(action))
        yield
    finally:
        for number, handler in before.items():
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, handler or signal.SIG_DFL)


def is_being_cancelled() -> bool:
    """Whether the current task is cancelled. Code of others may raise the exception of a cancellation by itself."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    try:
        task = asyncio.current_task()
    except RuntimeError:  # trio, whose exception nobody else can raise
        return False
    return task is not None and task.cancelling() > 0


_T = TypeVar("_T")


LONG_CHARS = 20_000
"""Reading a text of this length may take a millisecond, in which the event loop answers nobody else."""

_READERS = anyio.CapacityLimiter(4)
"""Threads for that: they share one interpreter lock, and other blocking calls have threads of their own."""


async def run_off_loop(chars: int, function: Callable[..., _T], *args: Any) -> _T:
    """Calls a function that takes time for `chars` characters: on a worker thread if that is much.

    Its end is waited for even when the caller is cancelled, so it may change what belongs to the caller.
    """
    if chars < LONG_CHARS:
        return function(*args)
    return await anyio.to_thread.run_sync(function, *args, limiter=_READERS)


async def run_in_thread(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    """Calls a blocking function on a worker thread. Cancellation ends the wait for it, not the call itself."""
    return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), abandon_on_cancel=True)

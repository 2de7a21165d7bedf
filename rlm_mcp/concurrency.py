"""A first-in, first-out gate, a background task for the duration of a block, and blocking calls on threads."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self, TypeVar

import anyio
import anyio.to_thread


class FifoGate:
    """A queue whose owner calls `wake_first` when there may be room again. One event loop; no locks."""

    def __init__(self) -> None:
        # A plain dict gets slow when thousands are taken out in front: looking for the first skips the places they had.
        self._waiting: OrderedDict[Turn, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> "Turn":
        """A place at the end, to be entered with `async with`; the body begins when it is first."""
        return Turn(self)

    def join(self, turn: "Turn") -> None:
        """Puts `turn` at the end."""
        self._waiting[turn] = None

    def leave(self, turn: "Turn") -> None:
        """Takes `turn` out and lets the first try."""
        del self._waiting[turn]
        self.wake_first()

    def is_first(self, turn: "Turn") -> bool:
        """Whether nobody came before `turn`."""
        return next(iter(self._waiting)) is turn

    def wake_first(self) -> None:
        """Lets the first try again."""
        for turn in self._waiting:
            turn.wake()
            return


class Turn:
    """One place in a queue."""

    def __init__(self, turns: FifoGate) -> None:
        self._turns = turns
        self._event: anyio.Event | None = None

    def wake(self) -> None:
        """Ends the wait in `again`."""
        if self._event is not None:
            self._event.set()

    async def again(self, seconds: float | None = None) -> None:
        """Waits until woken, or for `seconds`."""
        self._event = anyio.Event()
        if seconds is None:
            await self._event.wait()
        else:
            with anyio.move_on_after(seconds):
                await self._event.wait()

    async def __aenter__(self) -> Self:
        self._turns.join(self)
        try:
            while not self._turns.is_first(self):
                await self.again()
        except BaseException:
            self._turns.leave(self)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._turns.leave(self)


@asynccontextmanager
async def background_task(work: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> AsyncIterator[None]:
    """Does `work` for as long as the block takes, then cancels it. What the block raises comes out as it is."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, *args)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised below, where the group does not wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


_T = TypeVar("_T")


async def run_in_thread(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    """A blocking call on a worker thread. It is not interrupted; whoever waits for it may be."""
    return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), abandon_on_cancel=True)

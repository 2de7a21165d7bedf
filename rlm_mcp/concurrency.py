"""Tasks that wait for room in something, in order of arrival: only the first may try to get in."""

from collections import OrderedDict
from typing import Self

import anyio


class Turns:
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

    def __init__(self, turns: Turns) -> None:
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

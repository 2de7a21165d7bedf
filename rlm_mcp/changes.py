"""What of the things that resources show has changed, and who is told of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that resources show has changed: the list of them, or the one at `uri`."""

    uri: str | None = None


class Changes:
    """Changes on their way to listeners; whoever makes one does not wait for them."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Change], Awaitable[None]]] = []
        self._send, self._receive = anyio.create_memory_object_stream[Change](float("inf"))

    def __repr__(self) -> str:
        return f"<Changes to {len(self._listeners)} listeners>"

    def add(self, change: Change) -> None:
        """Takes one change, to be told later. After `close` it is nobody's business."""
        try:
            self._send.send_nowait(change)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return

    def listen(self, listener: Callable[[Change], Awaitable[None]]) -> None:
        """Calls `listener` with every change from now on, one at a time."""
        self._listeners.append(listener)

    async def tell(self) -> None:
        """Hands changes to the listeners, until `close`."""
        async with self._receive:
            async for change in self._receive:
                for listener in self._listeners:
                    await listener(change)

    def close(self) -> None:
        """Ends `tell` once it has told everything."""
        self._send.close()

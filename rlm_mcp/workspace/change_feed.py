"""What of the things that resources show has changed, and who is told of it."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import anyio

CALM_SECONDS = 0.2
"""The shortest time between two tellings: a client that registers ten files looks at the list once or twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceChange:
    """Something that resources show has changed: the list of them, or the one at `uri`."""

    uri: str | None = None


class ChangeFeed:
    """Changes on their way to listeners; whoever makes one does not wait for them."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[ResourceChange], Awaitable[None]]] = []
        self._closed = anyio.Event()
        self._send, self._receive = anyio.create_memory_object_stream[ResourceChange](float("inf"))

    def __repr__(self) -> str:
        return f"<ChangeFeed to {len(self._listeners)} listeners>"

    def add(self, change: ResourceChange) -> None:
        """Takes one change, to be told later. After `close` it is nobody's business."""
        try:
            self._send.send_nowait(change)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return

    def listen(self, listener: Callable[[ResourceChange], Awaitable[None]]) -> None:
        """Calls `listener` with every change from now on, one at a time."""
        self._listeners.append(listener)

    async def tell(self) -> None:
        """Hands changes to the listeners, until `close`: the first at once, then what came in a while, each once."""
        async with self._receive:
            async for change in self._receive:
                for each in dict.fromkeys([change, *self._waiting()]):
                    for listener in self._listeners:
                        await listener(each)
                with anyio.move_on_after(CALM_SECONDS):
                    await self._closed.wait()

    def _waiting(self) -> Iterator[ResourceChange]:
        with suppress(anyio.WouldBlock, anyio.EndOfStream):
            while True:
                yield self._receive.receive_nowait()

    def close(self) -> None:
        """Ends `tell` once it has told everything."""
        self._closed.set()
        self._send.close()

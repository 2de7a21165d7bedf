"""The feed of changes to what MCP resources show: contexts and runs announce them, listeners tell clients."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import anyio

CALM_SECONDS = 0.2
"""The shortest time between two deliveries: a client that registers ten files re-reads the list once or twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceChange:
    """A change of the list of resources, or of the resource at `uri`."""

    uri: str | None = None


def run_uri(run_id: str) -> str:
    """The URI of a run as an MCP resource."""
    return f"rlm://runs/{run_id}"


class Bulletin(Protocol):
    """Where changes of one owner are announced, and told to the listeners of every process that serves it.

    `tests/rlm_mcp/workspace/test_change_feed.py` is what every implementation has to pass.
    """

    def add(self, change: ResourceChange) -> None:
        """Announces one change, without waiting for listeners. After `close` it is dropped."""

    def listen(self, listener: Callable[[ResourceChange], Awaitable[None]]) -> None:
        """Calls `listener` with every change from now on, one at a time."""

    async def deliver(self) -> None:
        """Passes changes to the listeners until `close`: the first at once, then all of an interval, each once."""

    def close(self) -> None:
        """Ends `deliver` once everything is delivered."""


class ChangeFeed:
    """The Bulletin of one process: a queue."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[ResourceChange], Awaitable[None]]] = []
        self._closed = anyio.Event()
        self._send, self._receive = anyio.create_memory_object_stream[ResourceChange](float("inf"))

    def __repr__(self) -> str:
        return f"<ChangeFeed to {len(self._listeners)} listeners>"

    def add(self, change: ResourceChange) -> None:
        """Queues one change. After `close` it is dropped."""
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._send.send_nowait(change)

    def listen(self, listener: Callable[[ResourceChange], Awaitable[None]]) -> None:
        """Calls `listener` with every change from now on, one at a time."""
        self._listeners.append(listener)

    async def deliver(self) -> None:
        """Passes changes to the listeners until `close`: the first at once, then all of an interval, each once."""
        async with self._receive:
            async for change in self._receive:
                for each in dict.fromkeys([change, *self._queued()]):
                    for listener in self._listeners:
                        await listener(each)
                with anyio.move_on_after(CALM_SECONDS):
                    await self._closed.wait()

    def _queued(self) -> Iterator[ResourceChange]:
        with suppress(anyio.WouldBlock, anyio.EndOfStream):
            while True:
                yield self._receive.receive_nowait()

    def close(self) -> None:
        """Ends `deliver` once everything is delivered."""
        self._closed.set()
        self._send.close()

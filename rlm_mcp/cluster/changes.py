"""The feed of changes of an owner, told to every process of the cluster by notices (notices.py).

A change is delivered here as by a ChangeFeed, and sent to others at most five times a second, equal ones once. They
only learn what to read again. After a break, when some may be lost, clients are told that the list has changed.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio

from rlm_mcp.cluster.database import Cursor, Database, DatabaseUnusable
from rlm_mcp.cluster.notices import Notices, notify
from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.workspace.change_feed import ChangeFeed, ResourceChange


class SharedChanges:
    """The Bulletin of one owner in one process."""

    def __init__(self, database: Database, notices: Notices, owner: str) -> None:
        self._database = database
        self._notices = notices
        self._owner = owner
        self._sender = secrets.token_hex(4)
        """leads its notices, which come back to it"""
        self._here, self._elsewhere = ChangeFeed(), ChangeFeed()
        self._elsewhere.listen(self._send)

    def __repr__(self) -> str:
        return f"<SharedChanges of {self._owner!r}, {self._here!r}>"

    def add(self, change: ResourceChange) -> None:
        """Queues one change, for listeners here and elsewhere. After `close` it is dropped."""
        self._here.add(change)
        self._elsewhere.add(change)

    def listen(self, listener: Callable[[ResourceChange], Awaitable[None]]) -> None:
        """Calls `listener` with every change from now on, one at a time."""
        self._here.listen(listener)

    async def deliver(self) -> None:
        """Passes changes to the listeners until `close`: the first at once, then all of an interval, each once."""
        loop = asyncio.get_running_loop()

        def hear(told: str | None) -> None:
            sender, _, uri = (told or "").partition(" ")
            if sender != self._sender:
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(self._here.add, ResourceChange(uri=uri or None))

        with self._notices.listening("change", self._owner, hear):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._elsewhere.deliver)
                await self._here.deliver()

    def close(self) -> None:
        """Ends `deliver` once everything is delivered."""
        self._here.close()
        self._elsewhere.close()

    async def _send(self, change: ResourceChange) -> None:
        def send(cursor: Cursor) -> None:
            notify(cursor, "change", self._owner, f"{self._sender} {change.uri or ''}")

        with suppress(DatabaseUnusable):  # others look when they are connected again
            await run_in_thread(self._database.run, send, patience=0)

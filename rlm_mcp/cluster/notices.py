"""Notices between the processes of a cluster, by LISTEN and NOTIFY of its database.

A notice says that something has changed, never what: those who get one look it up. So one that is lost, because a
connection broke, only delays; after each break every listener is told to look.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, Self

import psycopg

from rlm_mcp.cluster.database import RETRY_SECONDS, Cursor, Database, DatabaseUnusable, execute
from rlm_mcp.concurrency import background_thread

Topic = Literal["cancel", "change", "map", "repl"]

CHANNEL = "rlm_mcp"

_LOOK_SECONDS = 1.0
"""How often the thread looks whether it is to end."""

log = logging.getLogger(__name__)


def notify(cursor: Cursor, topic: Topic, owner: str, text: str) -> None:
    """Tells all listeners of an owner, when the transaction is committed. The text is at most some kilobytes."""
    execute(cursor, "SELECT pg_notify(%s, %s)", (CHANNEL, f"{topic}\n{owner}\n{text}"))


class Notices:
    """The listeners of one process, called on a thread of their own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._listeners: defaultdict[tuple[str, str], list[Callable[[str | None], None]]] = defaultdict(list)
        self._lock = threading.Lock()
        self._thread = background_thread("notices", self._keep_listening)

    def __repr__(self) -> str:
        return f"<Notices of {self._database!r}>"

    def __enter__(self) -> Self:
        self._thread.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.__exit__(kind, error, at)

    @contextmanager
    def listening(self, topic: Topic, owner: str, listener: Callable[[str | None], None]) -> Iterator[None]:
        """Calls `listener` during a block, on a thread, with the text of each notice; None: it may have missed one."""
        with self._lock:
            self._listeners[topic, owner].append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners[topic, owner].remove(listener)
                if not self._listeners[topic, owner]:
                    del self._listeners[topic, owner]

    def _keep_listening(self, ending: threading.Event) -> None:
        while not ending.is_set():
            try:
                self._listen(ending)
            except (DatabaseUnusable, psycopg.Error) as error:
                log.debug("notices of other processes come late: %s", self._database.address.scrub(str(error)))
                ending.wait(RETRY_SECONDS)

    def _listen(self, ending: threading.Event) -> None:
        with self._database.connect() as connection:
            connection.execute(f"LISTEN {CHANNEL}".encode())
            self._tell_all()
            while not ending.is_set():
                for notice in connection.notifies(timeout=_LOOK_SECONDS):
                    topic, owner, text = notice.payload.split("\n", 2)
                    self._tell((topic, owner), text)
                    if ending.is_set():
                        return
                connection.execute(b"SELECT 1")  # or a connection that broke would stay unnoticed

    def _tell(self, key: tuple[str, str], text: str | None) -> None:
        with self._lock:
            listeners = list(self._listeners.get(key, ()))
        for listener in listeners:
            listener(text)

    def _tell_all(self) -> None:
        with self._lock:
            keys = list(self._listeners)
        for key in keys:
            self._tell(key, None)

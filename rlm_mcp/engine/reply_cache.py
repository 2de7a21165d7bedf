"""Cache of sub-models' replies on disk, so that the same request to the same model is paid only once.

It is one SQLite file for all processes of a user, or of one tenant of a server over HTTP. It holds replies under a
hash of endpoint, model, parameters and messages; prompts are not stored. Errors of the file are not errors of the run:
the reply counts as unknown and the call is made.
"""

import hashlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rlm_mcp.models.base import Message

# About 200 MB at a kilobyte a reply. A full cache drops its oldest tenth.
MOST_REPLIES = 200_000
# Another process may be writing. Not keeping a reply costs less than blocking the event loop.
BUSY_SECONDS = 0.1

_log = logging.getLogger(__name__)


def reply_key(
    provider: str,
    model: str,
    messages: Sequence[Message],
    *,
    temperature: float | None,
    schema: Mapping[str, object] | None,
) -> str:
    """The key of a reply: a hash of everything that decides what a model answers."""
    asked = [provider, model, [[m.role, m.content] for m in messages], temperature, schema]
    canonical = json.dumps(asked, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


class ReplyCache:
    """Replies in `directory`/replies.sqlite. Thread-safe; opened at first use; the owner closes it."""

    def __init__(self, directory: Path, *, most: int = MOST_REPLIES) -> None:
        self._path = directory / "replies.sqlite"
        self._most = most
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._broken = False

    def __repr__(self) -> str:
        return f"<ReplyCache {self._path.name}>"

    def get(self, key: str) -> str | None:
        """The reply stored under `key`, or None."""
        with self._lock, suppress(sqlite3.Error, OSError):
            if (connection := self._opened()) is not None:
                row = connection.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
                return None if row is None else str(row[0])
        return None

    def put(self, key: str, reply: str) -> None:
        """Stores a reply; a failure is only logged."""
        with self._lock:
            try:
                if (connection := self._opened()) is not None:
                    row = (key, reply, int(time.time()))
                    connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", row)
            except (sqlite3.Error, OSError, UnicodeError) as error:
                _log.debug("a reply was not cached: %s", error)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _opened(self) -> sqlite3.Connection | None:
        if self._connection is None and not self._broken:
            try:
                self._connection = self._open()
            except (sqlite3.Error, OSError) as error:
                self._broken = True
                _log.warning("sub-call replies are not cached: %s cannot be opened (%s)", self._path, error)
        return self._connection

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.touch(mode=0o600)
        # Autocommit. With a write-ahead log and NORMAL, only checkpoints sync, so a commit takes microseconds.
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL, kept_at INTEGER NOT NULL)"
            " WITHOUT ROWID"
        )
        (kept,) = connection.execute("SELECT count(*) FROM replies").fetchone()
        if kept > self._most:
            oldest = "SELECT key FROM replies ORDER BY kept_at LIMIT ?"
            connection.execute(f"DELETE FROM replies WHERE key IN ({oldest})", (kept - self._most * 9 // 10,))  # noqa: S608 # two constants
        return connection

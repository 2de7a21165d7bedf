"""The catalogue of contexts in Postgres, with the owner in every key.

Whoever changes what an owner has holds an advisory lock of that owner for the length of a transaction, so that one
process of the cluster at a time does it; others wait, and readers go on. A process that stands still in a transaction
loses it, and with it the lock. What is read inside `writing()` is read in its transaction.
"""

import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, fields
from typing import Any

from psycopg import errors

from rlm_mcp.cluster.database import (
    PATIENCE_SECONDS,
    RETRY_SECONDS,
    Cursor,
    Database,
    DatabaseUnusable,
    Parameters,
    execute,
)
from rlm_mcp.cluster.runs import RowRuns
from rlm_mcp.contexts.store.catalogue import BUSY_SECONDS, FileRow, context_of, file_row_of, storable
from rlm_mcp.contexts.text.line_index import Counts
from rlm_mcp.contexts.types import Context, Skipped
from rlm_mcp.errors import RunRecordDamaged, RunRecordTooNew, StoreDamaged, StoreFull

STANDING_SECONDS = 30
"""The database ends a transaction that has waited this long for its process, which stands still or is gone."""

_LOCK = 0x726C6E
"""The first half of the keys of owners' locks; the tables have another (schema.py)."""

_CONTEXT = ", ".join(field.name for field in fields(Context))
_FILE = "context_id, path, blob, bytes, chars, lines, longest_line, encoding, invalid_bytes, pages, exact"


class _ThreadCursor(threading.local):
    """The cursor of the transaction that a thread is in."""

    cursor: "Cursor | None" = None


class RowCatalogue:
    """The contexts of one owner. Any thread may use it; those that write do so one after the other."""

    def __init__(self, database: Database, owner: str) -> None:
        self.database = database
        self.owner = owner
        self._lock = threading.RLock()
        self._here = _ThreadCursor()

    def __repr__(self) -> str:
        return f"<RowCatalogue of {self.owner!r} in {self.database!r}>"

    def close(self) -> None:
        """Leaves the database open, which others use."""

    def verify(self) -> None:
        """The database verifies its own tables."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the owner's lock: the changes made inside are committed, or on any exception rolled back.

        Raises StoreDamaged where another process keeps the lock, StoreFull, DatabaseUnusable.
        """
        with self._lock, _storage_errors(self.owner), ExitStack() as stack:
            self._here.cursor = self._begin(stack)
            try:
                yield
            finally:
                self._here.cursor = None

    def _begin(self, stack: ExitStack) -> Cursor:
        """Begins a transaction that has the lock, and tries that again while the database is away."""
        gives_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with ExitStack() as attempt:
                    cursor = attempt.enter_context(self.database.transaction())
                    execute(cursor, f"SET LOCAL lock_timeout = '{BUSY_SECONDS:.0f}s'")
                    execute(cursor, f"SET LOCAL idle_in_transaction_session_timeout = '{STANDING_SECONDS}s'")
                    execute(cursor, "SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, self.owner))
                    stack.push(attempt.pop_all())
                    return cursor
            except DatabaseUnusable as error:
                if isinstance(error.__cause__, errors.LockNotAvailable) or time.monotonic() >= gives_up:
                    raise
            time.sleep(RETRY_SECONDS)

    @property
    def cursor(self) -> Cursor:
        """That of the transaction in which this thread is writing."""
        if self._here.cursor is None:
            raise RuntimeError("the catalogue is changed outside of `writing()`")
        return self._here.cursor

    def rows(self, query: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """The rows that a statement gives, in the transaction of this thread if it is writing."""
        if self._here.cursor is None:
            return self.database.rows(query, parameters)
        return execute(self._here.cursor, query, parameters).fetchall()

    # --- reading

    def by_id(self, context_id: str) -> Context | None:
        """Finds a context, current or superseded, by its id."""
        return next(iter(self._contexts("context_id = %s", context_id)), None)

    def by_name(self, name: str) -> Context | None:
        """Finds the current version of a name."""
        return next(iter(self._contexts("name = %s AND current", name)), None)

    def page(self, query: str, *, after: tuple[str, str] | None, limit: int) -> list[Context]:
        """Current contexts, newest first, that come after a pair of creation time and id."""
        at, context_id = after or ("9", "")
        text = query.lower()
        return self._contexts(
            "current AND (created_at < %s OR (created_at = %s AND context_id > %s))"
            " AND (strpos(lower(name), %s) > 0 OR strpos(lower(source), %s) > 0)"
            " ORDER BY created_at DESC, context_id LIMIT %s",
            at, at, context_id, text, text, limit,
        )  # fmt: skip

    def count(self, query: str) -> int:
        """Counts the current contexts that match the query."""
        return self._number(
            "SELECT count(*) FROM rlm_contexts WHERE owner = %s AND current"
            " AND (strpos(lower(name), %s) > 0 OR strpos(lower(source), %s) > 0)",
            query.lower(),
            query.lower(),
        )

    def last_version(self, name: str) -> int:
        """The highest version of a name in the catalogue, 0 if there is none."""
        return self._number("SELECT coalesce(max(version), 0) FROM rlm_contexts WHERE owner = %s AND name = %s", name)

    def options(self, context_id: str) -> dict[str, object]:
        """The options with which a context was registered, for registering it again."""
        rows = self._own("SELECT options FROM rlm_contexts WHERE owner = %s AND context_id = %s", context_id)
        return dict(json.loads(rows[0][0])) if rows else {}

    def files(self, context_id: str) -> list[FileRow]:
        """The files of a context by path."""
        return self._files("context_id = %s ORDER BY number", context_id)

    def file(self, context_id: str, path: str) -> FileRow | None:
        """Finds one file of a context."""
        rows = self._files("context_id = %s AND left(path, 512) = left(%s, 512) AND path = %s", context_id, path, path)
        return rows[0] if rows else None

    def only_file(self, context_id: str) -> FileRow | None:
        """The file of a context that has exactly one."""
        rows = self._files("context_id = %s LIMIT 2", context_id)
        return rows[0] if len(rows) == 1 else None

    def skipped(self, context_id: str) -> list[Skipped]:
        """The files that were left out of a context."""
        query = "SELECT path, reason FROM rlm_skipped WHERE owner = %s AND context_id = %s ORDER BY path"
        return [Skipped(path=path, reason=reason) for path, reason in self._own(query, context_id)]

    def blobs(self) -> set[str]:
        """All texts that contexts use."""
        return {blob for (blob,) in self._own("SELECT DISTINCT blob FROM rlm_files WHERE owner = %s")}

    def unused_of(self, blobs: Iterable[str]) -> list[str]:
        """Those of these texts that no context uses."""
        wanted = list(blobs)
        rows = self._own("SELECT DISTINCT blob FROM rlm_files WHERE owner = %s AND blob = ANY(%s)", wanted)
        used = {blob for (blob,) in rows}
        return [blob for blob in wanted if blob not in used]

    def stored_bytes(self) -> int:
        """The size of all texts that are copies, not references; each is counted once."""
        return self._number(
            "SELECT coalesce(sum(bytes), 0) FROM (SELECT max(bytes) AS bytes FROM rlm_files"
            " WHERE owner = %s AND NOT starts_with(blob, 'ref:') GROUP BY blob) AS texts"
        )

    def versions(self, name: str) -> list[str]:
        """The ids of the superseded versions of a name."""
        query = "SELECT context_id FROM rlm_contexts WHERE owner = %s AND name = %s AND NOT current"
        return [context_id for (context_id,) in self._own(query, name)]

    def superseded(self) -> list[str]:
        """The ids of all versions that are not current."""
        query = "SELECT context_id FROM rlm_contexts WHERE owner = %s AND NOT current"
        return [context_id for (context_id,) in self._own(query)]

    # --- changing; only inside `writing()`

    def add(
        self, context: Context, files: Sequence[FileRow], skipped: Collection[Skipped], options: dict[str, object]
    ) -> None:
        """Adds a context with its files and makes it the current version of its name."""
        self._leave_name(context.name)
        values = {field.name: getattr(context, field.name) for field in fields(context)}
        values |= {"notes": json.dumps(context.notes), "options": json.dumps(options)}
        self._insert("rlm_contexts", ["owner", *values], [(self.owner, *values.values())])
        rows = [
            (self.owner, context.context_id, number, row.path, row.blob, row.bytes, row.chars, row.lines,
             row.longest_line, row.encoding, row.invalid_bytes, json.dumps(list(map(astuple, row.pages))), row.exact)
            for number, row in enumerate(sorted(files, key=lambda row: row.path))
        ]  # fmt: skip
        self._insert("rlm_files", ["owner", "context_id", "number", *_FILE.split(", ")[1:]], rows)
        left_out = [(self.owner, context.context_id, item.path, item.reason) for item in skipped]
        self._insert("rlm_skipped", ["owner", "context_id", "path", "reason"], left_out)

    def make_current(self, context: Context) -> None:
        """Makes an older version the current one of its name again."""
        self._leave_name(context.name)
        self._change("UPDATE rlm_contexts SET current = true WHERE owner = %s AND context_id = %s", context.context_id)

    def set_counts(self, counts: Mapping[str, Counts]) -> None:
        """Replaces estimates of texts by exact counts in every context that has them."""
        self.cursor.executemany(
            b"UPDATE rlm_files SET chars = %s, lines = %s, longest_line = %s, exact = true"
            b" WHERE owner = %s AND blob = %s",
            [(one.chars, one.lines, one.longest_line, self.owner, blob) for blob, one in counts.items()],
        )
        self._change(
            "UPDATE rlm_contexts SET (chars, lines, exact) = (SELECT sum(chars), sum(lines), bool_and(exact)"
            " FROM rlm_files WHERE owner = rlm_contexts.owner AND context_id = rlm_contexts.context_id)"
            " WHERE owner = %s"
            " AND context_id IN (SELECT context_id FROM rlm_files WHERE owner = %s AND blob = ANY(%s))",
            self.owner,
            list(counts),
        )

    def delete(self, context_id: str) -> None:
        """Deletes a context and its files."""
        self._change("DELETE FROM rlm_contexts WHERE owner = %s AND context_id = %s", context_id)

    # ---

    def _leave_name(self, name: str) -> None:
        self._change("UPDATE rlm_contexts SET current = false WHERE owner = %s AND name = %s AND current", name)

    def _contexts(self, condition: str, *values: object) -> list[Context]:
        rows = self._own(f"SELECT {_CONTEXT} FROM rlm_contexts WHERE owner = %s AND {condition}", *values)  # noqa: S608 - constants
        names = _CONTEXT.split(", ")
        return [context_of(dict(zip(names, row, strict=True))) for row in rows]

    def _files(self, condition: str, *values: object) -> list[FileRow]:
        rows = self._own(f"SELECT {_FILE} FROM rlm_files WHERE owner = %s AND {condition}", *values)  # noqa: S608 - constants
        return [file_row_of(*row) for row in rows]

    def _number(self, query: str, *values: object) -> int:
        return int(self._own(query, *values)[0][0])

    def _own(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query whose first parameter is the owner."""
        return self.rows(query, _clean((self.owner, *values)))

    def _change(self, statement: str, *values: object) -> None:
        """Executes a statement whose first parameter is the owner."""
        execute(self.cursor, statement, _clean((self.owner, *values)))

    def _insert(self, table: str, names: Sequence[str], rows: Sequence[tuple[object, ...]]) -> None:
        statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))})"  # noqa: S608 - constants
        self.cursor.executemany(statement.encode(), map(_clean, rows))


class RunUses:
    """Uses of contexts by runs: each begins with the record of its run and ends with it, so nothing is noted."""

    def __init__(self, runs: RowRuns) -> None:
        self._runs = runs

    def __repr__(self) -> str:
        return f"<RunUses of {self._runs!r}>"

    def begin(self, find: Callable[[], Sequence[str]], run_id: str) -> Sequence[str]:  # noqa: ARG002 - it is on record
        """The contexts that `find` gives, which nobody removes any more since the run is on record."""
        return find()

    def end(self, context_ids: Iterable[str], run_id: str) -> None:
        """Its end is on record, or others go on with it."""

    def runs_with(self, context_id: str) -> list[str]:
        """The runs over a context that a process plays, or that wait for one."""
        rows = self._runs.database.rows(
            "SELECT run_id FROM rlm_runs WHERE owner = %s AND NOT ended ORDER BY run_id", (self._runs.owner,)
        )
        return [run_id for (run_id,) in rows if self._uses(run_id, context_id)]

    def _uses(self, run_id: str, context_id: str) -> bool:
        if not self._runs.leases.is_held(run_id):
            return False
        try:
            return context_id in self._runs.get(run_id).context_ids()
        except (RunRecordTooNew, RunRecordDamaged):
            return False  # this process cannot know

    def remove_dead(self) -> None:
        """There is nothing to remove."""


def _clean(values: tuple[object, ...]) -> tuple[object, ...]:
    """Values as Postgres takes them: without NUL characters, which it refuses, and as `storable` says."""
    return tuple(value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in storable(values))


@contextmanager
def _storage_errors(owner: str) -> Iterator[None]:
    """Says in words what a store can be told about a database that answers."""
    try:
        yield
    except DatabaseUnusable as error:
        if isinstance(error.__cause__, errors.IdleInTransactionSessionTimeout):
            raise StoreDamaged(
                f"this process stood still for over {STANDING_SECONDS} s while it was changing contexts: nothing was"
                " changed, try again"
            ) from error
        if isinstance(error.__cause__, errors.LockNotAvailable):
            raise StoreDamaged(
                f"another process has been changing the contexts of {owner or 'this cluster'!r} for"
                f" {BUSY_SECONDS:.0f} s: try again"
            ) from error
        if isinstance(error.__cause__, errors.DiskFull):
            raise StoreFull(
                f"the disk of the database is full: free some space there; nothing was stored ({error})"
            ) from error
        raise

"""The catalogue of a store: one SQLite database, shared by every process that uses the store.

Write-ahead logging lets readers continue while one process writes. Every change happens inside `writing()`, which
holds SQLite's write lock; blobs are published and deleted under the same lock, so the store needs no other.
"""

import hashlib
import json
import re
import shutil
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rlm_mcp.contexts.text.encoding import encode_text
from rlm_mcp.contexts.text.line_index import Counts
from rlm_mcp.contexts.types import Context, Kind, PageMark, Skipped
from rlm_mcp.errors import NameTaken, StoreDamaged, StoreFull

BUSY_SECONDS = 60.0
"""How long to wait for another process's write; publishing 100,000 blobs takes a few seconds."""

SHARED_MEMORY_BYTES = 32 << 10
"""The size that SQLite needs for that of a write-ahead log."""

MAX_NAME = 100
_ID = re.compile(r"ctx_[0-9a-f]{16}")

_STEPS = (
    """
CREATE TABLE contexts (
    context_id TEXT PRIMARY KEY, name TEXT NOT NULL, version INTEGER NOT NULL, current INTEGER NOT NULL,
    kind TEXT NOT NULL, source TEXT NOT NULL, options TEXT NOT NULL, created_at TEXT NOT NULL, bytes INTEGER NOT NULL,
    chars INTEGER NOT NULL, lines INTEGER NOT NULL, files INTEGER NOT NULL, skipped INTEGER NOT NULL,
    exact INTEGER NOT NULL, notes TEXT NOT NULL
);
CREATE UNIQUE INDEX current_names ON contexts (name) WHERE current;
CREATE INDEX newest_first ON contexts (current, created_at DESC, context_id);
CREATE TABLE files (
    context_id TEXT NOT NULL REFERENCES contexts ON DELETE CASCADE, path TEXT NOT NULL, blob TEXT NOT NULL,
    bytes INTEGER NOT NULL, chars INTEGER NOT NULL, lines INTEGER NOT NULL, longest_line INTEGER NOT NULL,
    encoding TEXT NOT NULL, invalid_bytes INTEGER NOT NULL, pages TEXT NOT NULL,
    PRIMARY KEY (context_id, path)
) WITHOUT ROWID;
CREATE INDEX users_of_blob ON files (blob);
CREATE TABLE skipped (
    context_id TEXT NOT NULL REFERENCES contexts ON DELETE CASCADE, path TEXT NOT NULL, reason TEXT NOT NULL
);
CREATE INDEX skipped_of_context ON skipped (context_id);
CREATE TABLE uses (
    context_id TEXT NOT NULL REFERENCES contexts ON DELETE CASCADE, run_id TEXT NOT NULL, holder TEXT NOT NULL
);
CREATE INDEX uses_of_context ON uses (context_id);
""",
    "ALTER TABLE files ADD COLUMN exact INTEGER NOT NULL DEFAULT 1;",
)
"""Migrations: the n-th brings a catalogue from version n to n + 1. They must never change: users' catalogues have been
migrated by them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """A file of a context in the catalogue; `blob` is a hash, or `ref:` and the JSON of a reference."""

    path: str
    blob: str
    bytes: int
    chars: int
    lines: int
    longest_line: int
    encoding: str = "utf-8"
    invalid_bytes: int = 0
    pages: tuple[PageMark, ...] = ()
    exact: bool = True


class SqliteCatalogue:
    """One connection to the database, guarded by a lock, because its statements take microseconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        with _sqlite_errors(path):
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:  # a signal too: nobody else could close the connection
                self._db.close()
                raise

    def _prepare(self) -> None:
        # The texts first: another process may just be making the catalogue, and it stores no text before that.
        if self._version() == 0 and _has_texts(self._path.parent) and self._version() == 0:
            raise StoreDamaged(
                f"{self._path} is empty, although {self._path.parent} holds texts: restore it from a backup, or move"
                f" {self._path.parent} away to start anew; nothing was deleted"
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        # FULL: a context that was reported as registered survives a power failure.
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        if self._version() != len(_STEPS):
            self._upgrade()
        self._db.execute("SELECT 1 FROM contexts, files, skipped, uses LIMIT 0")  # raises if a table is missing

    def _version(self) -> int:
        return self._number("PRAGMA user_version")

    def _upgrade(self) -> None:
        """Migrates the tables to this version; if several processes try at once, one of them does it."""
        with self.writing():
            version = self._version()
            if version > len(_STEPS):
                raise StoreDamaged(
                    f"{self._path} is a catalogue of version {version}, this rlm-mcp knows {len(_STEPS)}: "
                    "install a newer one, or set RLM_MCP_DATA_DIR to another directory"
                )
            for step in _STEPS[version:]:
                for statement in step.split(";\n"):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {len(_STEPS)}")

    def verify(self) -> None:
        """Reads the whole catalogue. Raises StoreDamaged if any of it is damaged; called before texts are deleted."""
        with self._reading():
            if (found := self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
                raise StoreDamaged(_unusable(self._path, " ".join(str(found).split())))

    def __repr__(self) -> str:
        return f"<SqliteCatalogue {self._path}>"

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the write lock of the store: the changes made inside are committed, or on any exception rolled back."""
        with self._lock, _sqlite_errors(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    # --- reading

    def by_id(self, context_id: str) -> Context | None:
        """Finds a context, current or superseded, by its id."""
        rows = self._contexts("SELECT * FROM contexts WHERE context_id = ?", (context_id,))
        return rows[0] if rows else None

    def by_name(self, name: str) -> Context | None:
        """Finds the current version of a name."""
        rows = self._contexts("SELECT * FROM contexts WHERE name = ? AND current", (name,))
        return rows[0] if rows else None

    def page(self, query: str, *, after: tuple[str, str] | None, limit: int) -> list[Context]:
        """Current contexts, newest first, that come after a pair of creation time and id."""
        at, context_id = after or ("9", "")
        text = query.lower()
        return self._contexts(
            "SELECT * FROM contexts WHERE current AND (created_at < ? OR (created_at = ? AND context_id > ?)) "
            "AND (instr(lower(name), ?) OR instr(lower(source), ?)) "
            "ORDER BY created_at DESC, context_id LIMIT ?",
            (at, at, context_id, text, text, limit),
        )

    def count(self, query: str) -> int:
        """Counts the current contexts that match the query."""
        return self._number(
            "SELECT count(*) FROM contexts WHERE current AND (instr(lower(name), ?) OR instr(lower(source), ?))",
            (query.lower(), query.lower()),
        )

    def last_version(self, name: str) -> int:
        """The highest version of a name in the catalogue, 0 if there is none."""
        return self._number("SELECT coalesce(max(version), 0) FROM contexts WHERE name = ?", (name,))

    def options(self, context_id: str) -> dict[str, object]:
        """The options with which a context was registered, for registering it again."""
        with self._reading():
            row = self._db.execute("SELECT options FROM contexts WHERE context_id = ?", (context_id,)).fetchone()
        return dict(json.loads(row[0])) if row else {}

    def files(self, context_id: str) -> list[FileRow]:
        """The files of a context by path."""
        return self._files("SELECT * FROM files WHERE context_id = ? ORDER BY path", (context_id,))

    def file(self, context_id: str, path: str) -> FileRow | None:
        """Finds one file of a context."""
        rows = self._files("SELECT * FROM files WHERE context_id = ? AND path = ?", (context_id, path))
        return rows[0] if rows else None

    def only_file(self, context_id: str) -> FileRow | None:
        """The file of a context that has exactly one."""
        rows = self._files("SELECT * FROM files WHERE context_id = ? LIMIT 2", (context_id,))
        return rows[0] if len(rows) == 1 else None

    def skipped(self, context_id: str) -> list[Skipped]:
        """The files that were left out of a context."""
        with self._reading():
            rows = self._db.execute(
                "SELECT path, reason FROM skipped WHERE context_id = ? ORDER BY path", (context_id,)
            )
            return [Skipped(path=path, reason=reason) for path, reason in rows]

    def users(self, context_id: str) -> list[tuple[str, str]]:
        """Run id and process token of every use of a context."""
        with self._reading():
            return list(self._db.execute("SELECT run_id, holder FROM uses WHERE context_id = ?", (context_id,)))

    def holders(self) -> list[str]:
        """The tokens of all processes that are recorded as using a context."""
        with self._reading():
            return [holder for (holder,) in self._db.execute("SELECT DISTINCT holder FROM uses")]

    def blobs(self) -> set[str]:
        """All blobs that contexts use."""
        with self._reading():
            return {blob for (blob,) in self._db.execute("SELECT DISTINCT blob FROM files")}

    def unused_of(self, blobs: Iterable[str]) -> list[str]:
        """Those of these blobs that no context uses."""
        with self._reading():
            return [
                blob
                for blob in blobs
                if not self._db.execute("SELECT 1 FROM files WHERE blob = ? LIMIT 1", (blob,)).fetchone()
            ]

    def stored_bytes(self) -> int:
        """The size of all blobs that are copies, not references; each is counted once."""
        return self._number(
            "SELECT coalesce(sum(bytes), 0) FROM "
            "(SELECT max(bytes) AS bytes FROM files WHERE blob NOT LIKE 'ref:%' GROUP BY blob)"
        )

    def versions(self, name: str) -> list[str]:
        """The ids of the superseded versions of a name."""
        with self._reading():
            rows = self._db.execute("SELECT context_id FROM contexts WHERE name = ? AND NOT current", (name,))
            return [context_id for (context_id,) in rows]

    def superseded(self) -> list[str]:
        """The ids of all versions that are not current."""
        with self._reading():
            return [
                context_id for (context_id,) in self._db.execute("SELECT context_id FROM contexts WHERE NOT current")
            ]

    # --- changing; only inside `writing()`

    def add(
        self, context: Context, files: Sequence[FileRow], skipped: Collection[Skipped], options: dict[str, object]
    ) -> None:
        """Adds a context with its files and makes it the current version of its name."""
        self._db.execute("UPDATE contexts SET current = 0 WHERE name = ? AND current", (context.name,))
        values = {field.name: getattr(context, field.name) for field in fields(context)}
        values |= {"notes": json.dumps(context.notes), "options": json.dumps(options)}
        self._db.execute(
            "INSERT INTO contexts VALUES (:context_id, :name, :version, :current, :kind, :source, :options, "
            ":created_at, :bytes, :chars, :lines, :files, :skipped, :exact, :notes)",
            values,
        )
        self._db.executemany(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    context.context_id,
                    row.path,
                    row.blob,
                    row.bytes,
                    row.chars,
                    row.lines,
                    row.longest_line,
                    row.encoding,
                    row.invalid_bytes,
                    json.dumps([(mark.line, mark.label) for mark in row.pages]),
                    row.exact,
                )
                for row in files
            ),
        )
        self._db.executemany(
            "INSERT INTO skipped VALUES (?, ?, ?)", ((context.context_id, item.path, item.reason) for item in skipped)
        )

    def make_current(self, context: Context) -> None:
        """Makes an older version the current one of its name again."""
        self._db.execute("UPDATE contexts SET current = 0 WHERE name = ? AND current", (context.name,))
        self._db.execute("UPDATE contexts SET current = 1 WHERE context_id = ?", (context.context_id,))

    def set_counts(self, counts: Mapping[str, Counts]) -> None:
        """Replaces estimates of texts by exact counts in every context that has them."""
        self._db.executemany(
            "UPDATE files SET chars = ?, lines = ?, longest_line = ?, exact = 1 WHERE blob = ?",
            ((one.chars, one.lines, one.longest_line, blob) for blob, one in counts.items()),
        )
        self._db.execute(
            "UPDATE contexts SET (chars, lines, exact) = (SELECT sum(chars), sum(lines), min(exact) FROM files "
            "WHERE files.context_id = contexts.context_id) "
            "WHERE context_id IN (SELECT context_id FROM files WHERE blob IN (SELECT value FROM json_each(?)))",
            (json.dumps(list(counts)),),
        )

    def delete(self, context_id: str) -> None:
        """Deletes a context and its files."""
        self._db.execute("DELETE FROM contexts WHERE context_id = ?", (context_id,))

    def add_use(self, context_id: str, run_id: str, holder: str) -> None:
        """Records that a run of the process with this token uses a context."""
        self._db.execute("INSERT INTO uses VALUES (?, ?, ?)", (context_id, run_id, holder))

    def end_use(self, context_ids: Iterable[str], run_id: str, holder: str) -> None:
        """Removes one use of each id that `add_use` recorded."""
        self._db.executemany(
            "DELETE FROM uses WHERE rowid = "
            "(SELECT rowid FROM uses WHERE context_id = ? AND run_id = ? AND holder = ? LIMIT 1)",
            ((context_id, run_id, holder) for context_id in context_ids),
        )

    def end_uses_of(self, holder: str) -> None:
        """Removes all uses by a dead process."""
        self._db.execute("DELETE FROM uses WHERE holder = ?", (holder,))

    # ---

    def _contexts(self, statement: str, values: tuple[object, ...]) -> list[Context]:
        with self._reading():
            cursor = self._db.execute(statement, storable(values))
            names = [column[0] for column in cursor.description]
            return [context_of(dict(zip(names, row, strict=True))) for row in cursor]

    def _files(self, statement: str, values: tuple[object, ...]) -> list[FileRow]:
        with self._reading():
            return [file_row_of(*row) for row in self._db.execute(statement, storable(values))]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Holds the lock of the connection. Raises StoreDamaged for rows that are not what this class writes."""
        try:
            with self._lock, _sqlite_errors(self._path):
                yield
        except (TypeError, ValueError, KeyError) as error:
            raise StoreDamaged(_unusable(self._path, error)) from error

    def _number(self, statement: str, values: tuple[object, ...] = ()) -> int:
        with self._reading():
            return int(self._db.execute(statement, storable(values)).fetchone()[0])


def _has_texts(directory: Path) -> bool:
    return next((directory / "blobs").glob("??/*.txt"), None) is not None


def file_row_of(
    _context_id: str,
    path: str,
    blob: str,
    size: int,
    chars: int,
    lines: int,
    longest: int,
    encoding: str,
    invalid: int,
    pages: str,
    exact: int,
) -> FileRow:
    """The file that a row of the catalogue describes. Raises TypeError and ValueError for what none has."""
    size + chars + lines + longest + invalid + exact  # raises TypeError where one is no number
    return FileRow(
        path=path,
        blob=blob,
        bytes=size,
        chars=chars,
        lines=lines,
        longest_line=longest,
        encoding=encoding,
        invalid_bytes=invalid,
        pages=tuple(PageMark(line=at, label=label) for at, label in json.loads(pages)) if pages != "[]" else (),
        exact=bool(exact),
    )


def check_name(name: str) -> str:
    """Returns `name` if it can name a context, and so the directory `/context/<name>`. Raises NameTaken."""
    if not name or name != name.strip() or len(name) > MAX_NAME or not name.isprintable():
        reason = "it must have 1 to 100 printable characters and neither begin nor end with a space"
    elif "/" in name or "\\" in name or name.startswith(".") or ":" in name:
        reason = "it must not begin with a dot nor hold a slash, a backslash or a colon"
    elif _ID.fullmatch(name):
        reason = "it looks like the id of a context"
    else:
        return name
    raise NameTaken(f"{name[:MAX_NAME]!r} cannot be the name of a context: {reason}; {safe_name(name)!r} would do")


def safe_name(name: str) -> str:
    """The nearest text that can name a context."""
    name = "".join(char if char.isprintable() and char not in "/\\:" else "-" for char in name).strip(" .-")
    return name[:MAX_NAME].strip() or "context"


def context_id(name: str, kind: Kind, files: Sequence[FileRow]) -> str:
    """Derives the id from name and content: the same content under the same name is the same context everywhere."""
    content = [(row.path if kind == "files" else "", row.blob) for row in files]
    digest = hashlib.sha256(json.dumps([name, kind, content]).encode("utf-8", "surrogatepass"))
    return f"ctx_{digest.hexdigest()[:16]}"


def storable(values: tuple[object, ...]) -> tuple[object, ...]:
    """Values for a query, with lone surrogates replaced as they are in stored texts; SQLite refuses them."""
    return tuple(encode_text(value)[0].decode() if isinstance(value, str) else value for value in values)


def context_of(row: dict[str, Any]) -> Context:
    """The context that a row of the catalogue describes. Raises TypeError and ValueError for what none has."""
    row.pop("options", None)
    if any(type(row[name]) is not int for name in ("version", "bytes", "chars", "lines", "files", "skipped")):
        raise ValueError(f"the sizes of {row['context_id']!r} are not numbers")
    row["current"], row["exact"] = bool(row["current"]), bool(row["exact"])
    row["notes"] = tuple(json.loads(row["notes"]))
    return Context(**row)


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """Turns errors of SQLite into StoreFull or StoreDamaged, which say what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error) or ("I/O" in str(error) and _is_full(path.parent)):
            raise StoreFull(
                f"the disk that holds {path} is full: "
                "free some space or set RLM_MCP_DATA_DIR to a directory on another disk"
            ) from error
        if "locked" in str(error):
            raise StoreDamaged(
                f"{path} has been locked by another process for {BUSY_SECONDS:.0f} s: end that process, or try again"
            ) from error
        if str(error).startswith("no such"):
            raise StoreDamaged(_unusable(path, error)) from error
        raise StoreDamaged(f"{path} cannot be used ({error}): check its permissions and the disk") from error
    except sqlite3.DatabaseError as error:
        raise StoreDamaged(_unusable(path, error)) from error


def _is_full(directory: Path) -> bool:
    """Whether the disk is full, which SQLite reports as an I/O error for its file of shared memory."""
    try:
        return shutil.disk_usage(directory).free < SHARED_MEMORY_BYTES
    except OSError:
        return False


def _unusable(path: Path, error: object) -> str:
    return f"{path} is not a usable catalogue ({error}): restore it, or move {path.parent} away to start anew"

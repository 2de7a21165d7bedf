"""The tables of a cluster: made in an empty database, checked by every process that starts, and migrated on request.

Each entry of MIGRATIONS leads from one version of the schema to the next. A released entry is never changed; what
comes later is another entry. The tables of Procrastinate, which hands attempts to workers, belong to the first one.
"""

import secrets
from collections.abc import Callable, Sequence
from importlib import resources

from rlm_mcp.cluster.database import OPENING_SECONDS, Cursor, Database, execute
from rlm_mcp.errors import RlmError

_LOCK = 0x726C6D  # "rlm": one process at a time makes or migrates tables

_RUNS = """
CREATE TABLE rlm_runs (
    owner text NOT NULL,
    run_id text NOT NULL,
    created_at text NOT NULL,                  -- as in the record: ISO 8601 in UTC, which sorts as text
    written_at timestamptz NOT NULL,
    fingerprint text NOT NULL,
    portable boolean NOT NULL,                 -- a server began it, and any of its machines may go on with it
    ended boolean NOT NULL DEFAULT false,      -- the latest of its beginnings and ends is an end
    position bigint NOT NULL,                  -- the number of its events
    epoch bigint NOT NULL,                     -- the fencing token: it grows with each lease
    holder text,                               -- whoever took the lease: a node, and a number used once
    held_until timestamptz,                    -- by the clock of this database
    attempt bigint,                            -- the position of the attempt that is queued, if one is
    job bigint,                                -- of Procrastinate, for that attempt
    cancel_requested boolean NOT NULL DEFAULT false,
    awaited_at timestamptz,
    waiting_calls text[] NOT NULL DEFAULT '{}',
    answer text,                               -- key of an object
    checkpoint text,                           -- key of an object
    checkpoint_turn integer,
    PRIMARY KEY (owner, run_id)
);
CREATE INDEX rlm_runs_by_age ON rlm_runs (owner, created_at DESC, run_id DESC);
CREATE INDEX rlm_runs_by_request ON rlm_runs (owner, fingerprint, written_at DESC);
CREATE INDEX rlm_runs_open ON rlm_runs (held_until) WHERE NOT ended;
CREATE TABLE rlm_events (
    owner text NOT NULL,
    run_id text NOT NULL,
    seq bigint NOT NULL,
    epoch bigint NOT NULL,
    is_mark boolean NOT NULL,
    line text NOT NULL,
    PRIMARY KEY (owner, run_id, seq),
    FOREIGN KEY (owner, run_id) REFERENCES rlm_runs ON DELETE CASCADE
);
CREATE INDEX rlm_events_marks ON rlm_events (owner, run_id, seq) WHERE is_mark;
"""

_CONTEXTS = """
CREATE TABLE rlm_contexts (
    owner text NOT NULL,
    context_id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    current boolean NOT NULL,
    kind text NOT NULL,
    source text COLLATE "C" NOT NULL,
    options text NOT NULL,                     -- JSON, as are notes and pages
    created_at text COLLATE "C" NOT NULL,
    bytes bigint NOT NULL,
    chars bigint NOT NULL,
    lines bigint NOT NULL,
    files bigint NOT NULL,
    skipped bigint NOT NULL,
    exact boolean NOT NULL,
    notes text NOT NULL,
    PRIMARY KEY (owner, context_id)
);
CREATE UNIQUE INDEX rlm_contexts_current ON rlm_contexts (owner, name) WHERE current;
CREATE INDEX rlm_contexts_by_age ON rlm_contexts (owner, created_at DESC, context_id) WHERE current;
CREATE TABLE rlm_files (
    owner text NOT NULL,
    context_id text COLLATE "C" NOT NULL,
    number bigint NOT NULL,                    -- in the order of their paths
    path text COLLATE "C" NOT NULL,
    blob text NOT NULL,
    bytes bigint NOT NULL,
    chars bigint NOT NULL,
    lines bigint NOT NULL,
    longest_line bigint NOT NULL,
    encoding text NOT NULL,
    invalid_bytes bigint NOT NULL,
    pages text NOT NULL,
    exact boolean NOT NULL,
    PRIMARY KEY (owner, context_id, number),
    FOREIGN KEY (owner, context_id) REFERENCES rlm_contexts ON DELETE CASCADE
);
CREATE INDEX rlm_files_by_path ON rlm_files (owner, context_id, left(path, 512));  -- an index holds no long paths
CREATE INDEX rlm_files_of_text ON rlm_files (owner, blob);
CREATE TABLE rlm_skipped (
    owner text NOT NULL,
    context_id text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    FOREIGN KEY (owner, context_id) REFERENCES rlm_contexts ON DELETE CASCADE
);
CREATE INDEX rlm_skipped_of_context ON rlm_skipped (owner, context_id);
CREATE TABLE rlm_texts (
    key text PRIMARY KEY,                      -- of the object, which is written once
    owner text NOT NULL,
    blob text NOT NULL,
    bytes bigint NOT NULL,
    state text NOT NULL,                       -- see blobs.py
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX rlm_texts_kept ON rlm_texts (owner, blob) WHERE state = 'kept';
CREATE INDEX rlm_texts_by_blob ON rlm_texts (blob, owner);
CREATE TABLE rlm_admitted (
    token text PRIMARY KEY,
    owner text NOT NULL,
    until timestamptz NOT NULL
);
CREATE INDEX rlm_admitted_by_owner ON rlm_admitted (owner);
CREATE INDEX rlm_texts_left ON rlm_texts (changed_at) WHERE state IN ('begun', 'placed', 'dropped', 'swept');
"""

_REPLS = """
CREATE SEQUENCE rlm_repl_epochs;
CREATE TABLE rlm_repls (
    owner text NOT NULL,
    context_id text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL DEFAULT 0,           -- the fencing token: each lease has a new one
    begun bigint NOT NULL DEFAULT 0,           -- the number of cells; each state says how many it holds
    busy boolean NOT NULL DEFAULT false,       -- the holder has the REPL in use, or has not saved it yet
    holder text,                               -- a process
    held_until timestamptz,                    -- by the clock of this database
    wanted_by text,                            -- the process that takes it next
    wanted_until timestamptz,
    PRIMARY KEY (owner, context_id)
);
CREATE TABLE rlm_repl_states (
    key text PRIMARY KEY,                      -- of the object, which is written once
    owner text NOT NULL,
    context_id text COLLATE "C" NOT NULL,
    image text NOT NULL,
    cells bigint NOT NULL,
    bytes bigint NOT NULL,
    state text NOT NULL,                       -- see repls.py
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX rlm_repl_states_kept ON rlm_repl_states (owner, context_id, image) WHERE state = 'kept';
CREATE INDEX rlm_repl_states_by_age ON rlm_repl_states (changed_at);
CREATE INDEX rlm_repl_states_dropped ON rlm_repl_states (owner) WHERE state = 'dropped';
"""

_MAPS = """
CREATE TABLE rlm_maps (
    token text PRIMARY KEY,
    owner text NOT NULL,
    node text NOT NULL,                        -- the process whose code waits
    image text NOT NULL,
    packages text NOT NULL,                    -- JSON
    context_ids text[] NOT NULL,
    seconds double precision NOT NULL,         -- the time that the code had left
    checkpoint text NOT NULL,                  -- key of the object, once it is uploaded
    is_uploaded boolean NOT NULL DEFAULT false,
    held_until timestamptz NOT NULL            -- by the clock of this database
);
CREATE INDEX rlm_maps_by_lease ON rlm_maps (held_until);
CREATE UNLOGGED TABLE rlm_map_workers (
    token text NOT NULL REFERENCES rlm_maps ON DELETE CASCADE,
    worker text NOT NULL,
    processors integer NOT NULL,
    held_until timestamptz NOT NULL,
    PRIMARY KEY (token, worker)
);
CREATE UNLOGGED TABLE rlm_map_items (
    token text NOT NULL,
    item integer NOT NULL,
    worker text NOT NULL,
    outcome bytea,                             -- see maps.py
    PRIMARY KEY (token, item),
    FOREIGN KEY (token, worker) REFERENCES rlm_map_workers ON DELETE CASCADE
);
CREATE INDEX rlm_map_items_by_worker ON rlm_map_items (token, worker);
"""


def _first(cursor: Cursor) -> None:
    text = (resources.files("procrastinate.sql") / "schema.sql").read_text("utf-8")
    execute(cursor, text)
    execute(cursor, _RUNS)


def _contexts(cursor: Cursor) -> None:
    execute(cursor, _CONTEXTS)
    execute(cursor, "ALTER TABLE rlm_schema ADD COLUMN state_key bytea")
    execute(cursor, "UPDATE rlm_schema SET state_key = %s", (secrets.token_bytes(32),))


def _repls(cursor: Cursor) -> None:
    execute(cursor, _REPLS)


def _maps(cursor: Cursor) -> None:
    execute(cursor, _MAPS)


Migration = Callable[[Cursor], object]
"""What leads from one version to the next, in a transaction."""

MIGRATIONS: Sequence[Migration] = (_first, _contexts, _repls, _maps)


class SchemaMismatch(RlmError):
    """The tables in the database are those of another version of rlm-mcp, or it cannot hold every text."""


def prepare_schema(database: Database, migrations: Sequence[Migration] = MIGRATIONS) -> str:
    """Makes the tables in an empty database; returns the id of the cluster, which was given to it then.

    Raises SchemaMismatch if it has those of another version, or another encoding than UTF8, and DatabaseUnusable.
    """

    def prepare(cursor: Cursor) -> str:
        _require_utf8(database, cursor)
        _lock(cursor)  # first: names that were looked up before stay unknown in a transaction
        found = _version(cursor)
        if found is None:
            execute(cursor, "CREATE TABLE rlm_schema (version integer NOT NULL, cluster text NOT NULL)")
            execute(
                cursor, "INSERT INTO rlm_schema (version, cluster) VALUES (0, %s)", (f"cluster-{secrets.token_hex(8)}",)
            )
            found = _migrate(cursor, 0, migrations)
        _require_current(database, found, len(migrations))
        return _cluster_id(cursor)

    return database.run(prepare, patience=OPENING_SECONDS)


def find_cluster(database: Database, migrations: Sequence[Migration] = MIGRATIONS) -> str | None:
    """The id of the cluster whose tables are in the database; None if it has none, which stays so.

    Raises SchemaMismatch if they are those of another version, or it has another encoding than UTF8, and
    DatabaseUnusable.
    """

    def look(cursor: Cursor) -> str | None:
        _require_utf8(database, cursor)
        found = _version(cursor)
        if found is None:
            return None
        _require_current(database, found, len(migrations))
        return _cluster_id(cursor)

    return database.run(look, patience=0)


def migrate_schema(database: Database, migrations: Sequence[Migration] = MIGRATIONS) -> tuple[int, int]:
    """Brings the tables to this version; returns the version before and after. Raises SchemaMismatch if it is newer."""

    def migrate(cursor: Cursor) -> tuple[int, int]:
        _lock(cursor)
        found = _version(cursor)
        if found is None:
            raise SchemaMismatch(f"the database at {database.address.shown} has no tables of rlm-mcp: start a server")
        if found < len(migrations):
            _migrate(cursor, found, migrations)
        _require_current(database, max(found, len(migrations)), len(migrations))
        return found, len(migrations)

    return database.run(migrate, patience=OPENING_SECONDS)


def state_key(database: Database) -> bytes:
    """The key that seals the state of requests that wait for input; it was made with the tables of version 2."""
    ((key,),) = database.rows("SELECT state_key FROM rlm_schema")
    return bytes(key)


def _require_utf8(database: Database, cursor: Cursor) -> None:
    encoding = cursor.connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise SchemaMismatch(
            f"the database at {database.address.shown} has the encoding {encoding}, and rlm-mcp needs UTF8:"
            " make one with `createdb --template=template0 --encoding=UTF8`"
        )


def _lock(cursor: Cursor) -> None:
    execute(cursor, "SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


def _version(cursor: Cursor) -> int | None:
    if execute(cursor, "SELECT to_regclass('rlm_schema')").fetchone() == (None,):
        return None
    ((version,),) = execute(cursor, "SELECT version FROM rlm_schema").fetchall()
    return int(version)


def _cluster_id(cursor: Cursor) -> str:
    ((cluster,),) = execute(cursor, "SELECT cluster FROM rlm_schema").fetchall()
    return str(cluster)


def _migrate(cursor: Cursor, found: int, migrations: Sequence[Migration]) -> int:
    for migration in migrations[found:]:
        migration(cursor)
    execute(cursor, "UPDATE rlm_schema SET version = %s", (len(migrations),))
    return len(migrations)


def _require_current(database: Database, found: int, own: int) -> None:
    place = f"the tables in the database at {database.address.shown} have version {found}, and this rlm-mcp needs {own}"
    if found > own:
        raise SchemaMismatch(f"{place}: update rlm-mcp on this machine")
    if found < own:
        raise SchemaMismatch(f"{place}: run `rlm-mcp store migrate` once, when no older server uses them")

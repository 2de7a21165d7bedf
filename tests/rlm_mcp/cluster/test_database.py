"""The database of a cluster: what is tried again, what is refused in one sentence, and the tables."""

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")

from rlm_mcp.cluster.addresses import parse_database
from rlm_mcp.cluster.catalogue import RowCatalogue
from rlm_mcp.cluster.database import Cursor, Database, DatabaseUnusable, execute
from rlm_mcp.cluster.schema import MIGRATIONS, SchemaMismatch, migrate_schema, prepare_schema
from rlm_mcp.errors import operator_text
from rlm_mcp.redact import Secret
from tests.peers.cluster import PASSWORD, PostgresServer, postgres_server

pytestmark = pytest.mark.cluster


def opened(url: str) -> Database:
    return Database(parse_database(Secret(url)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda url: url.replace(PASSWORD, "wrong-Word"), 'password authentication failed for user "rlm"'),
        (lambda url: url.replace("/postgres", "/none"), 'database "none" does not exist'),
        (lambda url: url.replace("127.0.0.1:", "127.0.0.1:1/postgres?x=").partition("?")[0], "Connection refused"),
    ],
)
def test_a_database_that_cannot_be_opened_is_one_sentence_without_the_password(
    postgres: PostgresServer, change: Callable[[str], str], reason: str
) -> None:
    database = opened(change(postgres.url))
    with pytest.raises(DatabaseUnusable, match=r"^the database of the server cannot be used now: try again") as refused:
        database.open()
    told = refused.value.reason
    assert re.search(r"cannot be used \(.*\): check that Postgres runs there, and the", told)
    assert reason in told
    assert (PASSWORD in told, "wrong-Word" in told, "\n" in told) == (False, False, False)


def test_tenants_are_not_told_where_the_database_is_and_its_operator_is_told_once(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    with postgres_server(postgres.programs) as server, opened(server.url) as database:
        place = database.address.shown
        for _ in range(2):
            server.stop()
            for _ in range(2):
                with pytest.raises(DatabaseUnusable) as refused:
                    database.rows("SELECT 1", patience=0)
                assert "127.0.0.1" not in str(refused.value)
                assert place in operator_text(refused.value)
            server.start()
            database.rows("SELECT 1")
    told = [record.getMessage() for record in caplog.records if record.name == "rlm_mcp.cluster.database"]
    assert [place in text for text in told] == [True, True]


def test_work_outlives_a_restart_of_the_server(postgres: PostgresServer) -> None:
    with postgres_server(postgres.programs) as server, opened(server.url) as database:
        assert database.rows("SELECT 1") == [(1,)]
        server.stop()
        with pytest.raises(DatabaseUnusable, match="cannot be used"):
            database.rows("SELECT 1", patience=0)
        restarting = threading.Timer(0.5, server.start)
        restarting.start()
        assert database.rows("SELECT 2") == [(2,)]
        restarting.join()


def test_a_process_that_stands_still_in_a_transaction_keeps_no_lock_and_does_its_work_again(
    empty_database: Database,
) -> None:
    prepare_schema(empty_database)
    count = "UPDATE rlm_settled SET number = number + 1 RETURNING number"
    empty_database.rows("CREATE TABLE rlm_settled AS SELECT 0 AS number")
    counted: list[int] = []

    def stand_once(cursor: Cursor) -> None:
        execute(cursor, count)
        if not counted:
            counted.append(empty_database.rows(count)[0][0])  # by another connection, which waits for the lock
        execute(cursor, "SELECT 1")

    empty_database.run(stand_once)
    assert counted == [1]
    assert empty_database.rows("SELECT number FROM rlm_settled") == [(2,)]


def test_connections_end_soon_whose_process_has_vanished_and_keep_the_options_of_the_address(
    postgres: PostgresServer,
) -> None:
    query = "SELECT current_setting('tcp_keepalives_idle'), current_setting('tcp_user_timeout'), current_schemas(false)"
    with opened(f"{postgres.url}?options=-c%20search_path%3Dpg_catalog") as database, database.connect() as listening:
        assert database.rows(query) == [("3", "6000", ["pg_catalog"])]
        assert listening.execute(query.encode()).fetchall() == [("3", "6000", ["pg_catalog"])]


def test_the_time_is_that_of_the_database(database: Database) -> None:
    before = datetime.now(UTC)  # both are clocks of this machine here
    assert abs(database.now() - before) < timedelta(minutes=1)
    assert database.now() <= database.now()


def test_tables_are_made_once_in_an_empty_database_also_by_many_at_once(empty_database: Database) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(prepare_schema(empty_database))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert found[0].startswith("cluster-")
    assert empty_database.rows("SELECT count(*) FROM rlm_runs") == [(0,)]


def test_tables_of_another_version_are_refused_and_older_ones_are_migrated(empty_database: Database) -> None:
    def next_version(cursor: Cursor) -> None:
        execute(cursor, "CREATE TABLE rlm_next (one integer)")

    newer, place = (*MIGRATIONS, next_version), empty_database.address.shown
    own, cluster = len(MIGRATIONS), prepare_schema(empty_database)
    with pytest.raises(
        SchemaMismatch, match=f"{place} have version {own}, and this rlm-mcp needs {own + 1}: run `rlm-"
    ):
        prepare_schema(empty_database, newer)
    assert migrate_schema(empty_database, newer) == (own, own + 1)
    assert migrate_schema(empty_database, newer) == (own + 1, own + 1)
    assert prepare_schema(empty_database, newer) == cluster
    for act in (prepare_schema, migrate_schema):
        with pytest.raises(SchemaMismatch, match=f"version {own + 1}, and this rlm-mcp needs {own}: update rlm-mcp"):
            act(empty_database)


def test_tables_of_the_first_version_get_those_of_contexts_and_keep_their_runs(empty_database: Database) -> None:
    cluster = prepare_schema(empty_database, MIGRATIONS[:1])
    empty_database.rows(
        "INSERT INTO rlm_runs (owner, run_id, created_at, written_at, fingerprint, portable, position, epoch)"
        " VALUES ('', 'run-1', '2026', now(), '', true, 1, 1)"
    )
    with pytest.raises(SchemaMismatch, match="version 1, and this rlm-mcp needs 2: run `rlm-mcp store migrate` once"):
        prepare_schema(empty_database, MIGRATIONS[:2])
    assert migrate_schema(empty_database, MIGRATIONS[:2]) == (1, 2)
    assert prepare_schema(empty_database, MIGRATIONS[:2]) == cluster
    assert empty_database.rows("SELECT run_id FROM rlm_runs") == [("run-1",)]
    catalogue = RowCatalogue(empty_database, "")
    assert (catalogue.count(""), catalogue.stored_bytes()) == (0, 0)
    assert migrate_schema(empty_database) == (2, len(MIGRATIONS))
    assert empty_database.rows("SELECT run_id FROM rlm_runs") == [("run-1",)]
    assert empty_database.rows("SELECT count(*) FROM rlm_repls") == [(0,)]

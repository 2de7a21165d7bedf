"""What doctor tells about the storage of a cluster."""

import json
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")

from rlm_mcp.cluster.addresses import parse_database
from rlm_mcp.cluster.database import Database
from rlm_mcp.cluster.objects import BucketUnusable, Objects
from rlm_mcp.cluster.schema import MIGRATIONS, SchemaMismatch, find_cluster, prepare_schema
from rlm_mcp.redact import Secret
from tests.peers.cluster import BUCKET, PASSWORD, PostgresServer, object_store_variables
from tests.peers.forking import forked_command
from tests.peers.places import environment

pytestmark = pytest.mark.cluster


def told(directory: Path, database: Database, endpoint: str, prefix: str) -> dict[str, tuple[str, str]]:
    """Status and text of what doctor says about the storage."""
    environ = environment(directory, directory / "cache", "http://127.0.0.1:9/v1")
    environ |= object_store_variables(endpoint)
    environ |= {"RLM_MCP_STORE": database.address.url.reveal(), "RLM_MCP_BLOBS": f"s3://{BUCKET}/{prefix}"}
    command = [*forked_command(), "doctor", "--json"]
    done = subprocess.run(command, env=environ, capture_output=True, check=False, timeout=120)  # noqa: S603 - our own command
    assert PASSWORD not in done.stdout.decode()
    checks = {check["name"]: (check["status"], check["detail"]) for check in json.loads(done.stdout)}
    return {name: checks[name] for name in ("database", "bucket")}


def test_doctor_tells_version_conditional_writes_and_whose_bucket_it_is(
    tmp_path: Path, empty_database: Database, objects: Objects, endpoint: str
) -> None:
    prefix, place = objects.address.prefix, empty_database.address.shown
    before = told(tmp_path, empty_database, endpoint, prefix)
    ((version,),) = empty_database.rows("SHOW server_version")
    assert before == {
        "database": ("ok", f"{place}: Postgres {version}, no tables, which the first server makes"),
        "bucket": ("ok", f"{objects.address.shown}: has conditional writes, belongs to no cluster yet"),
    }
    assert (find_cluster(empty_database), list(objects.keys(""))) == (None, [])

    objects.claim(prepare_schema(empty_database))
    assert told(tmp_path, empty_database, endpoint, prefix) == {
        "database": ("ok", f"{place}: Postgres {version}, tables of version {len(MIGRATIONS)}"),
        "bucket": ("ok", f"{objects.address.shown}: has conditional writes, belongs to this cluster"),
    }


def test_doctor_tells_what_keeps_a_server_from_starting(
    tmp_path: Path, empty_database: Database, objects: Objects, endpoint: str
) -> None:
    prepare_schema(empty_database, MIGRATIONS[:1])
    objects.claim("cluster-of-others")
    found = told(tmp_path, empty_database, endpoint, objects.address.prefix)
    assert found["database"][0] == "failure"
    assert "have version 1, and this rlm-mcp needs" in found["database"][1]
    assert found["bucket"] == ("ok", f"{objects.address.shown}: has conditional writes, belongs to cluster-of-others")
    found = told(tmp_path, empty_database, "http://127.0.0.1:1", objects.address.prefix)
    assert found["bucket"][0] == "failure"
    assert "cannot be used (nothing answers)" in found["bucket"][1]


def test_a_bucket_of_another_cluster_is_not_usable(objects: Objects) -> None:
    assert objects.require_usable("cluster-1") == ""
    objects.claim("cluster-1")
    assert objects.require_usable("cluster-1") == "cluster-1"
    with pytest.raises(BucketUnusable, match=r"belongs to another database \(cluster-1; that of RLM_MCP_STORE is clu"):
        objects.require_usable("cluster-2")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_every_text_is_refused_with_its_encoding(
    postgres: PostgresServer, encoding: str
) -> None:
    name = f"test_{encoding.lower()}"
    with Database(parse_database(Secret(postgres.url))) as server, server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0".encode())
    sentence = f"has the encoding {encoding}, and rlm-mcp needs UTF8: make one with `createdb "
    with Database(parse_database(Secret(postgres.url.replace("/postgres", f"/{name}")))) as opened:
        for use in (prepare_schema, find_cluster):
            with pytest.raises(SchemaMismatch, match=sentence):
                use(opened)
        assert opened.rows("SELECT to_regclass('rlm_schema')") == [(None,)]

"""What the settings of a cluster do, and that nothing of it is imported without them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlm_mcp.cluster.opening import migrate_database, open_cluster_if_set, open_own_workspace
from rlm_mcp.errors import SettingsError, StorageUnreachable, operator_text
from rlm_mcp.redact import Secret
from rlm_mcp.settings import Settings, effective_settings, load_settings
from tests.peers.cluster import PASSWORD, PostgresServer

pytestmark = pytest.mark.anyio

PACKAGES = ("obstore", "procrastinate", "psycopg", "psycopg_pool", "rlm_mcp.cluster.database")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")


def test_without_its_settings_nothing_of_a_cluster_is_imported() -> None:
    code = (
        "import sys, rlm_mcp.server.transports.http, rlm_mcp.server.transports.stdio, rlm_mcp.cli.main as main\n"
        "main.command_parser()\n"
        f"print([name for name in {PACKAGES!r} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)  # noqa: S603 - a fixed command
    assert shown.stdout.strip() == "[]"


async def test_without_its_settings_there_is_no_cluster(settings: Settings) -> None:
    async with open_cluster_if_set(settings) as cluster:
        assert cluster is None
    async with open_own_workspace(settings, choose=None, open_repl=None) as workspace:
        assert "<Runs " in repr(workspace.runs.records)
    with pytest.raises(SettingsError, match="RLM_MCP_STORE is not set: there are no tables to migrate"):
        migrate_database(settings)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"store": Secret("postgresql://db/rlm")}, "RLM_MCP_STORE is set and RLM_MCP_BLOBS is not: a cluster needs a"),
        ({"blobs": "s3://texts"}, "RLM_MCP_BLOBS is set and RLM_MCP_STORE is not: a cluster needs a database and a"),
    ],
)
async def test_a_cluster_needs_a_database_and_a_bucket(
    settings: Settings, change: dict[str, Any], sentence: str
) -> None:
    pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")
    with pytest.raises(SettingsError, match=sentence):
        async with open_cluster_if_set(replace(settings, **change)):
            pass


def test_the_address_of_a_database_is_a_secret() -> None:
    environ = {"HOME": "/", "RLM_MCP_STORE": f"postgresql://rlm:{PASSWORD}@db/rlm", "RLM_MCP_BLOBS": "s3://texts/a"}
    settings = load_settings(environ=environ)
    shown = {one.name: one.value for one in effective_settings(settings)}
    assert (shown["store"], shown["blobs"]) == ("***", "s3://texts/a")
    assert PASSWORD not in repr(settings)
    for variable, value in {"RLM_MCP_STORE": f"mysql://rlm:{PASSWORD}@db", "RLM_MCP_BLOBS": "https://texts"}.items():
        with pytest.raises(SettingsError, match=f"{variable} is not the address of a") as refused:
            load_settings(environ=environ | {variable: value})
        assert PASSWORD not in str(refused.value)


@pytest.mark.cluster
async def test_a_wrong_password_and_a_bucket_that_is_away_are_told_at_the_start(
    settings: Settings, postgres: PostgresServer
) -> None:
    wrong = replace(settings, store=Secret(postgres.url.replace(PASSWORD, "wrong-Word-4")), blobs="s3://texts")
    with pytest.raises(StorageUnreachable) as refused:
        async with open_cluster_if_set(wrong):
            pass
    told = operator_text(refused.value)
    assert "password authentication failed" in told
    assert "wrong-Word-4" not in told

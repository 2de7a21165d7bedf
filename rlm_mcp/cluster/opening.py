"""Opens the storage of a cluster where the settings name one, and imports what that needs only then."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rlm_mcp.errors import SettingsError
from rlm_mcp.settings import Settings

if TYPE_CHECKING:
    from rlm_mcp.cluster.backends import Cluster
    from rlm_mcp.cluster.description import Described
    from rlm_mcp.workspace.workspace import Workspace

_PACKAGES = ("obstore", "procrastinate", "psycopg", "psycopg_pool")


@asynccontextmanager
async def open_cluster_if_set(settings: Settings) -> "AsyncIterator[Cluster | None]":
    """The cluster that the settings name; None without one. Raises SettingsError, and what `open_cluster` raises."""
    if not settings.store and not settings.blobs:
        yield None
        return
    _require_complete(settings)
    from rlm_mcp.cluster.backends import open_cluster

    async with open_cluster(settings) as cluster:
        yield cluster


def migrate_database(settings: Settings) -> tuple[int, int]:
    """Brings the tables of a cluster to this version; returns the version before and after. Raises SettingsError."""
    if not settings.store:
        raise SettingsError("RLM_MCP_STORE is not set: there are no tables to migrate")
    _require_packages()
    from rlm_mcp.cluster.addresses import parse_database
    from rlm_mcp.cluster.database import Database
    from rlm_mcp.cluster.schema import migrate_schema

    with Database(parse_database(settings.store)) as database:
        return migrate_schema(database)


def describe_storage(settings: Settings) -> "Iterator[Described]":
    """What there is to tell about each part of the storage that the settings name. Raises SettingsError."""
    _require_complete(settings)
    from rlm_mcp.cluster.description import describe

    yield from describe(settings)


def _require_complete(settings: Settings) -> None:
    if not settings.store or not settings.blobs:
        missing, given = ("RLM_MCP_BLOBS", "RLM_MCP_STORE") if settings.store else ("RLM_MCP_STORE", "RLM_MCP_BLOBS")
        raise SettingsError(f"{given} is set and {missing} is not: a cluster needs a database and a bucket")
    _require_packages()


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"RLM_MCP_STORE and RLM_MCP_BLOBS need packages that are not installed ({', '.join(missing)}):"
            " `pip install 'rlm-mcp[cluster]'`"
        )


@asynccontextmanager
async def open_own_workspace(settings: Settings, **options: Any) -> "AsyncIterator[Workspace]":
    """This user's workspace, in the cluster if the settings name one; the options are those of `open_workspace`."""
    from rlm_mcp.workspace.workspace import open_workspace

    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(open_cluster_if_set(settings))
        if cluster is not None:
            options["backends"] = await stack.enter_async_context(cluster.open_backends(settings))
        yield await stack.enter_async_context(open_workspace(settings, **options))

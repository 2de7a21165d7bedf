"""What `rlm-mcp doctor` tells about the storage of a cluster: one line each on its database and its bucket.

Neither is changed, apart from an object that is written to see whether the bucket has conditional writes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rlm_mcp.bucket_address import parse_bucket
from rlm_mcp.cluster.addresses import parse_database
from rlm_mcp.cluster.database import Database
from rlm_mcp.cluster.objects import Objects
from rlm_mcp.cluster.schema import MIGRATIONS, find_cluster
from rlm_mcp.errors import RlmError, operator_text
from rlm_mcp.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A line about a part of the storage."""

    part: str
    detail: str
    is_usable: bool


def describe(settings: Settings) -> Iterator[Described]:
    """Looks at the database and then at the bucket, which takes some seconds where nothing answers."""
    cluster: str | None = None
    try:
        address = parse_database(settings.store)
        with Database(address) as database:
            cluster = find_cluster(database)
            ((version,),) = database.rows("SHOW server_version", patience=0)
        tables = f"tables of version {len(MIGRATIONS)}" if cluster else "no tables, which the first server makes"
        yield Described(part="database", detail=f"{address.shown}: Postgres {version}, {tables}", is_usable=True)
    except RlmError as error:
        yield Described(part="database", detail=operator_text(error), is_usable=False)
    try:
        objects = Objects(parse_bucket(settings.blobs or "", "RLM_MCP_BLOBS")).briefly()
        owner = objects.require_usable(cluster)
        whose = "belongs to this cluster" if cluster and owner == cluster else "belongs to no cluster yet"
        if owner and cluster is None:
            whose = f"belongs to {owner}"
        detail = f"{objects.address.shown}: has conditional writes, {whose}"
        yield Described(part="bucket", detail=detail, is_usable=True)
    except RlmError as error:
        yield Described(part="bucket", detail=operator_text(error), is_usable=False)

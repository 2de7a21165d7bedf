"""What the processes of a cluster keep together: opened once for a process, and for each owner its part of it."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import anyio

from rlm_mcp.bucket_address import parse_bucket
from rlm_mcp.cluster.addresses import parse_database
from rlm_mcp.cluster.blobs import ObjectBlobs, forget_dropped, sweep_texts
from rlm_mcp.cluster.catalogue import RowCatalogue, RunUses
from rlm_mcp.cluster.changes import SharedChanges
from rlm_mcp.cluster.database import Database
from rlm_mcp.cluster.leases import Heartbeats
from rlm_mcp.cluster.limits import RowLimits
from rlm_mcp.cluster.maps import HeldMaps, RowMaps, sweep_maps
from rlm_mcp.cluster.notices import Notices
from rlm_mcp.cluster.objects import Objects
from rlm_mcp.cluster.queue import RowRunQueue
from rlm_mcp.cluster.repls import HeldRepls, RowReplStates, sweep_states
from rlm_mcp.cluster.runs import RowRuns
from rlm_mcp.cluster.schema import prepare_schema, state_key
from rlm_mcp.cluster.sweeper import sweeping
from rlm_mcp.contexts.store.protocols import StoreParts
from rlm_mcp.contexts.store.text_cache import TextCache
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.backends import Backends, open_backends
from rlm_mcp.workspace.tenant_limits import LocalLimits

HEARTBEAT_CONNECTIONS = 1
"""Of its own, so that a heartbeat never waits for a record that is being written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The open storage of one process, and its place among the others."""

    database: Database
    objects: Objects
    heartbeats: Heartbeats
    notices: Notices
    held_repls: HeldRepls
    held_maps: HeldMaps
    cache: TextCache
    state_key: bytes = field(repr=False)
    """seals the state of requests that wait for input, so that clients may answer at any server"""

    @asynccontextmanager
    async def open_backends(
        self, settings: Settings, limits: LocalLimits | None = None, *, owner: str = ""
    ) -> AsyncIterator[Backends]:
        """What one owner keeps. `settings` have the directories for what stays on this machine."""
        runs = RowRuns(self.database, self.objects, self.heartbeats, owner=owner, directory=settings.data_dir / "runs")
        catalogue = RowCatalogue(self.database, owner)
        parts = StoreParts(
            catalogue=catalogue, blobs=ObjectBlobs(catalogue, self.objects, self.cache), uses=RunUses(runs)
        )
        repl_states = RowReplStates(
            self.database, runs.briefly, self.notices, self.held_repls, owner=owner, node=self.heartbeats.node
        )
        share_map = RowMaps(self.database, runs.briefly, self.held_maps, owner=owner, node=self.heartbeats.node)
        async with open_backends(settings, limits, parts, lambda: self.cache) as local:
            yield replace(
                local,
                records=runs,
                queue=RowRunQueue(runs, self.notices),
                repl_states=repl_states,
                changes=SharedChanges(self.database, self.notices, owner),
                limits=RowLimits(limits or LocalLimits(), self.database),
                share_map=share_map,
            )


@asynccontextmanager
async def open_cluster(settings: Settings) -> AsyncIterator[Cluster]:
    """Connects to the storage that the settings name, and makes the tables in an empty database.

    Raises SettingsError, DatabaseUnusable, SchemaMismatch, BucketUnusable.
    """
    async with AsyncExitStack() as stack:
        # Opening and closing are not abandoned on cancellation: connections and threads would stay.
        opened = ExitStack()
        stack.push_async_callback(_close, opened)
        yield await anyio.to_thread.run_sync(_open, settings, opened)


async def _close(opened: ExitStack) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(opened.close)


def _open(settings: Settings, opened: ExitStack) -> Cluster:
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # it warns of every trial; errors of this program tell
    address, bucket = parse_database(settings.store), parse_bucket(settings.blobs or "", "RLM_MCP_BLOBS")
    database = opened.enter_context(Database(address))
    objects = Objects(bucket)
    briefly = objects.briefly()
    briefly.claim(prepare_schema(database))
    cache = opened.enter_context(TextCache(settings.cache_dir / "texts", most_bytes=settings.text_cache_bytes))
    opened.enter_context(
        sweeping(
            partial(forget_dropped, database, cache),
            partial(sweep_texts, database, briefly),
            partial(sweep_states, database, briefly),
            partial(sweep_maps, database, briefly),
        )
    )
    held_repls, held_maps = HeldRepls(), HeldMaps()
    beating = opened.enter_context(Database(address, most_connections=HEARTBEAT_CONNECTIONS))
    return Cluster(
        database=database,
        objects=objects,
        heartbeats=opened.enter_context(Heartbeats(beating, renewals=[held_repls.renew, held_maps.renew])),
        notices=opened.enter_context(Notices(database)),
        held_repls=held_repls,
        held_maps=held_maps,
        state_key=state_key(database),
        cache=cache,
    )

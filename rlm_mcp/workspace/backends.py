"""The storage of a workspace: each part that outlives the process is behind a protocol, so that it can be elsewhere.

    contexts    Store, over StoreParts           (contexts/store/protocols.py)
    runs        RunStore, RunRecord, over Leases (records/protocols.py, records/lease.py)
    queue       RunQueue                         (records/run_queue.py)
    replies     Replies                          (engine/types.py)
    REPLs       ReplStates                       (workspace/repl_states.py)
    changes     Bulletin                         (workspace/change_feed.py)
    sampling    SamplingQueue, one for each run  (models/sampling_queue.py)
    limits      TenantLimits                     (workspace/tenant_limits.py)
    maps        ShareMap                         (repl/maps.py), only where there are several machines

The tests named in these files are what every implementation has to pass. `open_backends` opens those of this machine:
SQLite and files below `data_dir` and `cache_dir`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass

import anyio

from rlm_mcp.bucket_address import parse_bucket
from rlm_mcp.contexts.sources.bucket_access import BucketAccess
from rlm_mcp.contexts.sources.remote import RemoteAccess, network_of
from rlm_mcp.contexts.store.object_texts import ObjectSources
from rlm_mcp.contexts.store.protocols import StoreParts
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.store.text_cache import LateTextCache, OpenTextCache
from rlm_mcp.engine.reply_cache import ReplyCache
from rlm_mcp.engine.types import Replies
from rlm_mcp.models.sampling_queue import LocalSamplingQueue, SamplingQueue
from rlm_mcp.records.protocols import RunStore
from rlm_mcp.records.run_queue import LocalRunQueue, RunQueue
from rlm_mcp.records.store import Runs
from rlm_mcp.repl.maps import ShareMap
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.change_feed import Bulletin, ChangeFeed
from rlm_mcp.workspace.repl_states import FileReplStates, ReplStates
from rlm_mcp.workspace.tenant_limits import LocalLimits, TenantLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """The storage of one owner's workspace, closed by the code that opened it."""

    store: Store
    records: RunStore
    queue: RunQueue
    replies: Replies | None
    """None where the settings say that none are kept"""
    repl_states: ReplStates
    changes: Bulletin
    open_sampling_queue: Callable[[], SamplingQueue]
    limits: TenantLimits
    share_map: ShareMap | None = None
    """lets other machines work on items of `parallel_map`"""


@asynccontextmanager
async def open_backends(
    settings: Settings,
    limits: TenantLimits | None = None,
    parts: StoreParts | None = None,
    cache: OpenTextCache | None = None,
) -> AsyncIterator[Backends]:
    """Those of this machine, by default without limits. What dead processes have left in the store is removed first.

    `parts` replace those of the store. `cache` is that of texts of objects, by default one of this workspace.
    """
    async with AsyncExitStack() as stack:
        # Opening is not abandoned on cancellation: the store would never be closed.
        if cache is None:
            cache = LateTextCache(settings.cache_dir / "texts", most_bytes=settings.text_cache_bytes)
            stack.callback(cache.close)
        store = stack.enter_context(await anyio.to_thread.run_sync(_open_store, settings, parts, cache))
        await anyio.to_thread.run_sync(store.remove_leftovers)
        replies = ReplyCache(settings.cache_dir) if settings.sub_call_cache else None
        if replies is not None:
            stack.enter_context(closing(replies))
        records = Runs(settings.data_dir)
        yield Backends(
            store=store,
            records=records,
            queue=LocalRunQueue(records),
            replies=replies,
            repl_states=FileReplStates(settings.data_dir / "repls"),
            changes=ChangeFeed(),
            open_sampling_queue=LocalSamplingQueue,
            limits=limits or LocalLimits(),
        )


def _open_store(settings: Settings, parts: StoreParts | None, cache: OpenTextCache) -> Store:
    """Takes milliseconds, or as long as another process holds the write lock."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    access = RemoteAccess(
        hosts=settings.fetch_hosts,
        networks=tuple(map(network_of, settings.fetch_networks)),
        keys=settings.fetch_with_keys,
    )
    objects = ObjectSources(
        access=BucketAccess(
            allowed=tuple(parse_bucket(address, "RLM_MCP_S3_SOURCES") for address in settings.s3_sources),
            own=None if settings.blobs is None else parse_bucket(settings.blobs, "RLM_MCP_BLOBS"),
        ),
        cache=cache,
    )
    return Store(
        settings.data_dir,
        roots=settings.roots,
        quota_bytes=settings.quota_bytes,
        access=access,
        objects=objects,
        parts=parts,
    )

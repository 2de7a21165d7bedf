"""The MCP application over HTTP, in both protocol eras, with the workspaces of its tenants.

It is the whole server where one process serves everybody; with workers, each worker has one, and the front has none.
"""

import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.contexts.store.text_cache import LateTextCache
from rlm_mcp.errors import RlmError
from rlm_mcp.models.connections import Connections
from rlm_mcp.models.pool import open_models
from rlm_mcp.packages.library import PackageLibrary, folder_of
from rlm_mcp.records.run_queue import LocalRunQueue
from rlm_mcp.records.store import Runs
from rlm_mcp.repl.sandbox import open_sandbox
from rlm_mcp.server.server import RlmServer
from rlm_mcp.server.transports.health import report_health, report_ready
from rlm_mcp.server.transports.request_parts import RequestPartsMiddleware
from rlm_mcp.server.transports.sessions import SESSION_SECONDS, SessionLimitMiddleware
from rlm_mcp.server.transports.tenant_names import EVERYBODY, directory_of, tenant_directories
from rlm_mcp.server.transports.tenants import Tenants
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.backends import open_backends
from rlm_mcp.workspace.inspect_repls import ReplPool
from rlm_mcp.workspace.process_tuning import freeze_gc
from rlm_mcp.workspace.tenant_limits import LocalLimits
from rlm_mcp.workspace.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    from rlm_mcp.cluster.backends import Cluster

log = logging.getLogger(__name__)

QUOTA_BYTES = 20 << 30
"""The bytes that one tenant may store unless RLM_MCP_QUOTA_BYTES is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantHost:
    """The tenants of a process, and whether its sandbox is loaded, so that code can be run."""

    tenants: Tenants
    is_ready: Callable[[], bool]


@asynccontextmanager
async def open_tenants(
    settings: Settings,
    limits: LocalLimits,
    *,
    memory_bytes: int | None = None,
    connections: Connections | None = None,
    given_up: Collection[str] = (),
    cluster: "Cluster | None" = None,
) -> AsyncIterator[TenantHost]:
    """Opens what all tenants share. `memory_bytes` is for all their sessions, by default half of the machine's.

    A process that has no network of its own passes `connections`. Runs are cancelled and not resumed whose ids are
    `given_up`, or those of all calls that waited for them. With a `cluster`, tenants keep what they have there.
    """
    settings = replace(
        settings,
        roots=settings.roots or (),
        fetch_hosts=settings.fetch_hosts or (),
        fetch_with_keys=False,
        tools={},
        quota_bytes=settings.quota_bytes or QUOTA_BYTES,
    )
    library = PackageLibrary(settings.data_dir)  # all tenants have the server's packages
    image = folder_of(await run_in_thread(lambda: library.choose(settings.packages)))
    async with (
        open_sandbox(settings.cache_dir, image=image, memory_bytes=memory_bytes, on_loaded=freeze_gc) as sandbox,
        open_models(settings, connections=connections) as models,
    ):
        sandbox.begin_loading()
        # Objects of buckets are the same for all tenants, so that each is fetched once.
        cache = LateTextCache(settings.cache_dir / "texts", most_bytes=settings.text_cache_bytes)
        pool = ReplPool(has_room=sandbox.has_room, owner_has_room=sandbox.has_room)

        @asynccontextmanager
        async def open_for(tenant: str) -> AsyncIterator[Workspace]:
            # The cache holds replies to sub-calls, which are a tenant's own; the compiled sandbox is opened above.
            own = replace(
                settings,
                data_dir=directory_of(tenant, settings.data_dir),
                cache_dir=directory_of(tenant, settings.cache_dir),
            )
            owner = None if tenant == EVERYBODY else tenant
            async with AsyncExitStack() as stack:
                if cluster is None:
                    opening = open_backends(own, limits, cache=cache)
                else:
                    opening = cluster.open_backends(own, limits, owner=owner or "")
                backends = await stack.enter_async_context(opening)
                opened = open_workspace(
                    own,
                    choose=models.choose,
                    sandbox=sandbox,
                    library=library,
                    limits=limits,
                    serves=True,
                    keeps_repls=True,
                    pool=pool,
                    owner=owner,
                    backends=backends,
                )
                yield await stack.enter_async_context(opened)

        with closing(cache):
            async with anyio.create_task_group() as tasks:
                tenants = Tenants(open_for, tasks, limits=limits, given_up=given_up)
                tasks.start_soon(tenants.keep_closing_unused)
                yield TenantHost(tenants=tenants, is_ready=lambda: sandbox.is_loaded)
                tasks.cancel_scope.cancel()


def mcp_application(
    host: TenantHost,
    *,
    verifier: TokenVerifier | None,
    auth: AuthSettings | None,
    security: TransportSecuritySettings,
    state_key: bytes | None = None,
) -> Starlette:
    """The ASGI application. `state_key` seals the state of requests that wait for input, by default one of its own."""
    server = RlmServer(
        host.tenants.current,
        host.tenants.notifications,
        before=[host.tenants.middleware],
        token_verifier=verifier,
        auth=auth,
        state_key=state_key,
    )
    server.custom_route("/health", methods=["GET"])(report_health)
    server.custom_route("/ready", methods=["GET"])(partial(report_ready, host.is_ready))
    app = server.streamable_http_app(
        transport_security=security, session_idle_timeout=SESSION_SECONDS, max_sessions=None
    )
    # The innermost ones: `add_middleware` would put them before the auth middleware, which knows whose the token is.
    app.user_middleware += [
        Middleware(RequestPartsMiddleware, tokens=auth is not None),
        Middleware(SessionLimitMiddleware),
    ]
    return app


def tenants_with_left_runs(data_dir: Path, names: Collection[str] | None) -> list[str]:
    """Those of the tenants whose runs an earlier server left; None are all that have a directory."""
    if names is None:
        names = tenant_directories(data_dir)
    return [name for name in names if _has_left_runs(directory_of(name, data_dir))]


def _has_left_runs(directory: Path) -> bool:
    """Whether an earlier server left runs here. A damaged record resumes nothing, and stops no server."""
    try:
        return bool(LocalRunQueue(Runs(directory)).left())
    except (RlmError, OSError, ValueError, TypeError, LookupError) as error:
        log.warning("the runs in %s are not resumed: %s: %s", directory, type(error).__name__, error)
        return False

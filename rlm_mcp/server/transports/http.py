"""The server over streamable HTTP in one process, in both protocol eras: who has access, and how it ends.

Paths are those of the server's machine, so over HTTP nothing can be registered by path unless directories were named
(`--roots`, RLM_MCP_ROOTS). On SIGTERM or SIGINT, runs are stopped and stay on record, calls that wait for them are
answered, and the next server on the same data directory resumes them.
"""

from collections.abc import Callable

import anyio
from starlette.middleware import Middleware

from rlm_mcp.cluster.opening import open_cluster_if_set
from rlm_mcp.concurrency import on_stop_signal, run_in_thread
from rlm_mcp.server.transports.access import AccessOptions, host_checks, open_access
from rlm_mcp.server.transports.addresses import parse_address, url_of
from rlm_mcp.server.transports.cluster_runs import begin_playing
from rlm_mcp.server.transports.listener import Listener, listener_config, run_to_the_end
from rlm_mcp.server.transports.logs import configure_logging
from rlm_mcp.server.transports.rate_limit import RateLimitMiddleware, http_limits
from rlm_mcp.server.transports.tenant_application import mcp_application, open_tenants, tenants_with_left_runs
from rlm_mcp.server.transports.tenant_names import EVERYBODY
from rlm_mcp.settings import Settings


def serve_http(
    settings: Settings,
    address: str,
    options: AccessOptions,
    *,
    at_end: Callable[[], None],
    runs_at_once: int | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then calls `at_end` and ends the process with status 0.

    In a cluster it also plays up to `runs_at_once` runs, whichever of its machines began them.
    """
    configure_logging(structured=True)
    host, port = parse_address(address)

    async def main() -> None:
        access = await open_access(options, host, url_of(host, port))
        limits = http_limits(is_alone=access is None)
        async with (
            open_cluster_if_set(settings) as cluster,
            open_tenants(settings, limits, cluster=cluster) as opened,
            anyio.create_task_group() as tasks,
        ):
            app = mcp_application(
                opened,
                verifier=None if access is None else access.verifier,
                auth=None if access is None else access.settings(),
                security=host_checks(host, options.allowed_hosts),
                state_key=None if cluster is None else cluster.state_key,
            )
            limiting = Middleware(RateLimitMiddleware, limits=limits, tokens=access is not None)
            app.user_middleware.insert(-2, limiting)  # after the auth middleware, which knows whose the token is
            if access is not None and access.keys is not None:
                tasks.start_soon(access.keys.keep_fresh)
            names = [EVERYBODY] if access is None else access.names
            announce_end: Callable[[], object] = opened.tenants.announce_end
            if cluster is None:
                left = await run_in_thread(tenants_with_left_runs, settings.data_dir, names)
                tasks.start_soon(opened.tenants.resume_left, left)
            elif runs_at_once != 0:
                announce_end = begin_playing(cluster, opened.tenants, tasks, at_once=runs_at_once)

            async def answer_all() -> None:
                if access is not None:
                    access.stop_waiting()
                await opened.tenants.end_all()

            # uvicorn stops on these signals and then raises them again, which would end the process before its cleanup.
            with on_stop_signal():
                await Listener(
                    listener_config(app, host=host, port=port),
                    announce_end=announce_end,
                    answer_all=answer_all,
                ).serve()
            tasks.cancel_scope.cancel()

    run_to_the_end(main, at_end)

"""The server over HTTP with workers: this process listens, checks tokens and limits, and passes requests on.

What tenants, their files, their models and their code made is read in the workers only.
"""

import logging
import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend, RequireAuthMiddleware
from mcp.server.auth.routes import build_resource_metadata_url, create_protected_resource_routes
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE, RequestBodyLimitMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from rlm_mcp.concurrency import on_stop_signal, run_in_thread
from rlm_mcp.server.transports.access import Access, AccessOptions, host_checks, open_access
from rlm_mcp.server.transports.addresses import parse_address, url_of
from rlm_mcp.server.transports.health import report_health, report_ready
from rlm_mcp.server.transports.listener import Listener, listener_config, run_to_the_end
from rlm_mcp.server.transports.logs import configure_logging
from rlm_mcp.server.transports.rate_limit import RateLimitMiddleware, http_limits
from rlm_mcp.server.transports.tenant_names import EVERYBODY, tenant_directories
from rlm_mcp.server.workers.egress import EgressBroker, allowed_destinations
from rlm_mcp.server.workers.list_answers import ListAnswers
from rlm_mcp.server.workers.proxy import WorkerProxy
from rlm_mcp.server.workers.socket_directory import socket_directory
from rlm_mcp.server.workers.supervisor import Supervisor
from rlm_mcp.server.workers.worker import WorkerProcesses, prepared_lists
from rlm_mcp.server.workers.worker_start import WorkerStart, plain
from rlm_mcp.settings import Settings, config_path
from rlm_mcp.version import __version__
from rlm_mcp.workspace.process_tuning import freeze_gc

log = logging.getLogger(__name__)


def serve_http_with_workers(
    settings: Settings, address: str, options: AccessOptions, workers: int, *, at_end: Callable[[], None]
) -> None:
    """Serves until SIGTERM or SIGINT, then calls `at_end` and ends the process with status 0."""
    configure_logging(structured=True)
    host, port = parse_address(address)
    broker = EgressBroker(allowed_destinations(settings, os.environ))
    hidden = (config_path(), *([] if options.token_file is None else [Path(options.token_file).resolve()]))

    async def main() -> None:
        access = await open_access(options, host, url_of(host, port))
        start = WorkerStart(
            version=__version__,
            number=0,
            settings=plain(settings),
            key=secrets.token_hex(32),
            state_key=secrets.token_bytes(32),
            count=workers,
            hidden=hidden,
        )
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        tenants = await run_in_thread(_tenants_to_look_at, settings.data_dir, access)
        with socket_directory() as directory:
            async with anyio.create_task_group() as tasks:
                start_worker = WorkerProcesses(start, directory, broker, tasks)
                supervisor = Supervisor(start_worker, workers, tenants=tenants)
                lists = ListAnswers(await run_in_thread(prepared_lists, settings.cache_dir))
                proxy = WorkerProxy(supervisor, start.key, host_checks(host, options.allowed_hosts), lists)
                tasks.start_soon(supervisor.run)
                if access is not None and access.keys is not None:
                    tasks.start_soon(access.keys.keep_fresh)
                app = front_application(proxy, access, supervisor.is_ready)
                freeze_gc()

                async def answer_all() -> None:
                    if access is not None:
                        access.stop_waiting()
                    await supervisor.wait_for_end()

                # uvicorn stops on these signals and raises them again, which would end the process before its cleanup.
                with on_stop_signal():
                    await Listener(
                        listener_config(app, host=host, port=port),
                        announce_end=supervisor.announce_end,
                        answer_all=answer_all,
                    ).serve()
                tasks.cancel_scope.cancel()

    run_to_the_end(main, at_end)


def front_application(proxy: ASGIApp, access: Access | None, is_ready: Callable[[], bool]) -> Starlette:
    """The ASGI application: `proxy` at /mcp behind tokens and limits, with the routes that the SDK's server has."""
    routes: list[BaseRoute] = [
        Route("/health", report_health, methods=["GET"]),
        Route("/ready", partial(report_ready, is_ready), methods=["GET"]),
    ]
    proxy = RequestBodyLimitMiddleware(proxy, DEFAULT_MAX_REQUEST_BODY_SIZE)
    is_alone = access is None
    limits = Middleware(RateLimitMiddleware, limits=http_limits(is_alone=is_alone), tokens=not is_alone)
    if access is None:
        return Starlette(routes=[Route("/mcp", endpoint=proxy), *routes], middleware=[limits])
    auth = access.settings()
    metadata_url = None
    if auth.resource_server_url is not None:
        metadata_url = build_resource_metadata_url(auth.resource_server_url)
        routes += create_protected_resource_routes(auth.resource_server_url, [auth.issuer_url], auth.required_scopes)
    url = auth.resource_server_url if auth.validate_token_resource else None
    backend = BearerAuthBackend(access.verifier, resource_server_url=url)
    return Starlette(
        routes=[Route("/mcp", endpoint=RequireAuthMiddleware(proxy, [], metadata_url)), *routes],
        middleware=[Middleware(AuthenticationMiddleware, backend=backend), Middleware(AuthContextMiddleware), limits],
    )


def _tenants_to_look_at(data_dir: Path, access: Access | None) -> list[str]:
    """The tenants with a directory who still have access; workers see which of them have runs that were left."""
    if access is None:
        return [EVERYBODY]
    return [name for name in tenant_directories(data_dir) if access.names is None or name in access.names]

"""The server over streamable HTTP, in both protocol eras: its address, who has access, how it ends.

Paths are those of the server's machine, so over HTTP nothing can be registered by path unless directories were named
(`--roots`, RLM_MCP_ROOTS). On SIGTERM or SIGINT, runs are stopped and stay on record, calls that wait for them are
answered, and the next server on the same data directory resumes them.
"""

import ipaddress
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from socket import socket
from types import FrameType
from typing import Any

import anyio
import uvicorn
from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rlm_mcp.concurrency import on_stop_signal, run_in_thread
from rlm_mcp.contexts.processes import PROCESSES
from rlm_mcp.errors import RlmError, SettingsError
from rlm_mcp.models.pool import open_models
from rlm_mcp.packages.library import PackageLibrary, folder_of
from rlm_mcp.records.recovery import left_runs
from rlm_mcp.records.store import Runs
from rlm_mcp.repl.sandbox import open_sandbox
from rlm_mcp.server.server import RlmServer
from rlm_mcp.server.transports.auth import JwtVerifier, discover_issuer, read_token_file
from rlm_mcp.server.transports.http_protocol import MOST_CONNECTIONS, TimedProtocol, most_connections
from rlm_mcp.server.transports.logs import configure_logging
from rlm_mcp.server.transports.rate_limit import RateLimitMiddleware
from rlm_mcp.server.transports.sessions import SessionLimitMiddleware
from rlm_mcp.server.transports.tenant_names import EVERYBODY, directory_of
from rlm_mcp.server.transports.tenants import Tenants
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.inspect_repls import ReplPool
from rlm_mcp.workspace.process_tuning import freeze_gc
from rlm_mcp.workspace.workspace import Workspace, open_workspace

log = logging.getLogger(__name__)

QUOTA_BYTES, MOST_RUNS = 20 << 30, 8
"""The bytes that one tenant may store unless RLM_MCP_QUOTA_BYTES is set, and the runs of one tenant at once."""

SHARES, FEWEST_OPEN = 4, 8
"""One tenant may have a quarter of all connections at work, but at least 8."""

KEEP_ALIVE_SECONDS = 75
"""For an idle connection. Many clients close after 5 s like uvicorn does by default: when both do, a call is lost."""

CLOSE_SECONDS = 2
"""For answering calls that wait, when the server ends."""

SESSION_SECONDS = 300.0
"""A handshake-era session without an open request or stream ends after this time, and its client begins a new one.
The session of a client that died costs 100 kB until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpServer:
    """The ASGI application, and the tenants that it serves."""

    app: Starlette
    tenants: Tenants


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Which tokens are accepted, and where an OAuth client is told to get one."""

    verifier: TokenVerifier
    issuer: str
    resource: str | None = None
    names: Collection[str] | None = None
    """all tenants that have a token; None: only the issuer knows them"""
    keep_fresh: Callable[[], Coroutine[Any, Any, None]] | None = None
    """runs while the server does, to keep what the verifier needs"""

    def settings(self) -> AuthSettings:
        """The settings of the SDK. Static tokens have no authorization server, so no metadata that points to one."""
        return AuthSettings(
            issuer_url=AnyHttpUrl(self.issuer),
            resource_server_url=None if self.resource is None else AnyHttpUrl(self.resource),
            validate_token_resource=None if self.resource is None else True,
        )


@asynccontextmanager
async def open_http_server(
    settings: Settings, host: str, access: Access | None, allowed_hosts: tuple[str, ...] = ()
) -> AsyncIterator[HttpServer]:
    """Opens the server, without a socket. Raises SettingsError for an address that is reachable without a token."""
    if access is None and not is_loopback(host):
        raise SettingsError(
            f"{host} can be reached from other machines: give --token-file (see `rlm-mcp token`) or --oauth-issuer, or "
            "serve on 127.0.0.1"
        )
    settings = replace(settings, roots=settings.roots or (), quota_bytes=settings.quota_bytes or QUOTA_BYTES)
    library = PackageLibrary(settings.data_dir)  # all tenants have the server's packages
    image = folder_of(await run_in_thread(lambda: library.choose(settings.packages)))
    async with (
        open_sandbox(settings.cache_dir, image=image, on_loaded=freeze_gc) as sandbox,
        open_models(settings) as models,
    ):
        sandbox.begin_loading()
        pool = ReplPool(has_room=sandbox.has_room, owner_has_room=sandbox.has_room)

        def open_for(tenant: str) -> AbstractAsyncContextManager[Workspace]:
            # The cache holds replies to sub-calls, which are a tenant's own; the compiled sandbox is opened above.
            own = replace(
                settings,
                data_dir=directory_of(tenant, settings.data_dir),
                cache_dir=directory_of(tenant, settings.cache_dir),
            )
            return open_workspace(
                own,
                choose=models.choose,
                sandbox=sandbox,
                library=library,
                most_runs=MOST_RUNS,
                serves=True,
                pool=pool,
                owner=None if tenant == EVERYBODY else tenant,
            )

        async with anyio.create_task_group() as tasks:
            tenants = Tenants(open_for, tasks)
            tasks.start_soon(tenants.keep_closing_unused)
            if access is not None and access.keep_fresh is not None:
                tasks.start_soon(access.keep_fresh)
            tasks.start_soon(
                tenants.resume_left, await run_in_thread(_tenants_with_left_runs, settings.data_dir, access)
            )
            app = _application(tenants, host, access, allowed_hosts, is_ready=lambda: sandbox.is_loaded)
            yield HttpServer(app=app, tenants=tenants)
            tasks.cancel_scope.cancel()


def _application(
    tenants: Tenants, host: str, access: Access | None, allowed_hosts: tuple[str, ...], is_ready: Callable[[], bool]
) -> Starlette:
    server = RlmServer(
        tenants.current,
        tenants.notifications,
        before=[tenants.middleware],
        token_verifier=None if access is None else access.verifier,
        auth=None if access is None else access.settings(),
    )
    server.custom_route("/health", methods=["GET"])(_report_health)
    server.custom_route("/ready", methods=["GET"])(partial(_report_ready, is_ready))
    app = server.streamable_http_app(
        host=host,
        transport_security=_security(host, allowed_hosts),
        session_idle_timeout=SESSION_SECONDS,
        max_sessions=MOST_CONNECTIONS,
    )
    # The innermost: `add_middleware` would put it before the auth middleware, which knows whose the token is.
    most_open = None if access is None else max(FEWEST_OPEN, most_connections() // SHARES)
    app.user_middleware.append(Middleware(RateLimitMiddleware, tokens=access is not None, most_open=most_open))
    app.user_middleware.append(Middleware(SessionLimitMiddleware))
    return app


def _tenants_with_left_runs(data_dir: Path, access: Access | None) -> list[str]:
    """Tenants that still have access and whose runs an earlier server left."""
    if access is None:
        return [EVERYBODY] if _has_left_runs(data_dir) else []
    found = [entry.name for entry in (data_dir / "owners").glob("*") if _has_left_runs(entry)]
    return [name for name in found if access.names is None or name in access.names]


def _has_left_runs(directory: Path) -> bool:
    """Whether an earlier server left runs here. A damaged record resumes nothing, and stops no server."""
    try:
        return bool(left_runs(Runs(directory)))
    except (RlmError, OSError, ValueError, TypeError, LookupError) as error:
        log.warning("the runs in %s are not resumed: %s: %s", directory, type(error).__name__, error)
        return False


def serve_http(
    settings: Settings,
    address: str,
    *,
    token_file: str | None = None,
    oauth_issuer: str | None = None,
    oauth_resource: str | None = None,
    allowed_hosts: tuple[str, ...] = (),
    at_end: Callable[[], None],
) -> None:
    """Serves until SIGTERM or SIGINT, then calls `at_end` and ends the process with status 0."""
    configure_logging(structured=True)
    host, port = parse_address(address)

    async def main() -> None:
        url = _url(host, port)
        access = None
        if token_file is not None:
            access = _access_by_token_file(Path(token_file), url)
        if oauth_issuer is not None:
            access = await _access_by_oauth(oauth_issuer, oauth_resource or f"{url}/mcp")
        async with open_http_server(settings, host, access, allowed_hosts) as server:
            # uvicorn stops on these signals and then raises them again, which would end the process before its cleanup.
            with on_stop_signal():
                await _Listener(_uvicorn_config(server.app, host, port), server.tenants).serve()

    try:
        anyio.run(main)
    except* RlmError as group:
        raise group.exceptions[0] from None
    at_end()
    PROCESSES.kill_all()
    logging.shutdown()
    os._exit(0)  # the sandbox may still be compiling on a thread, which nothing can stop


def _access_by_token_file(path: Path, url: str) -> Access:
    tokens = read_token_file(path)
    return Access(verifier=tokens, issuer=url, names=tokens.names)


async def _access_by_oauth(issuer: str, resource: str) -> Access:
    keys = await discover_issuer(issuer)
    verifier = JwtVerifier(issuer, resource, keys.key_for)
    return Access(verifier=verifier, issuer=issuer, resource=resource, keep_fresh=keys.keep_fresh)


def _uvicorn_config(app: Starlette, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        http=TimedProtocol,
        limit_concurrency=(most := most_connections()),
        # asyncio accepts this many before it looks at any, so there have to be descriptors for all of them.
        backlog=max(32, most // 2),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )


class _Listener(uvicorn.Server):
    """A uvicorn server that stops the runs and answers all calls when it is told to end.

    Their answers then have CLOSE_SECONDS to be sent.
    """

    def __init__(self, config: uvicorn.Config, tenants: Tenants) -> None:
        super().__init__(config)
        self._tenants = tenants

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listens, and then logs the address, with the port that the system chose for port 0."""
        await super().startup(sockets)
        port: int = self.servers[0].sockets[0].getsockname()[1]
        logging.getLogger("rlm_mcp").warning("serving MCP on %s/mcp", _url(self.config.host, port))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Announces the end before any connection is closed, which would look as if the client had gone."""
        self._tenants.announce_end()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stops the runs, then closes the connections."""
        await self._tenants.stop_runs()
        await self._tenants.answer_all()
        await super().shutdown(sockets)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def parse_address(address: str) -> tuple[str, int]:
    """`HOST:PORT`, `[::1]:PORT` or `PORT`. Raises SettingsError."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or not 0 <= int(port) <= 65535:
        raise SettingsError(f"--http {address!r} is no address: write --http 127.0.0.1:8765")
    return host.strip("[]") or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    """Whether the host is reachable only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _security(host: str, allowed_hosts: tuple[str, ...]) -> TransportSecuritySettings:
    """Host and Origin checks against DNS rebinding. The operator adds the names that remote clients use."""
    names = ("127.0.0.1", "localhost", "[::1]", *([] if host in {"0.0.0.0", "::"} else [host]), *allowed_hosts)  # noqa: S104 - compared, not bound
    hosts = [f"{name}:*" for name in names] + list(allowed_hosts)
    origins = [f"{scheme}://{name}" for scheme in ("http", "https") for name in hosts]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)


async def _report_health(_: Request) -> Response:
    """Answers as long as the process does."""
    return JSONResponse({"status": "ok"})


async def _report_ready(is_loaded: Callable[[], bool], _: Request) -> Response:
    """Answers 200 once the sandbox is loaded, so that code can be run."""
    loaded = is_loaded()
    return JSONResponse({"sandbox": "loaded" if loaded else "loading"}, status_code=200 if loaded else 503)

"""The server over streamable HTTP, in both protocol eras: where it listens, who may come in, how it ends.

Paths are those of the server's machine, so over HTTP nothing may be registered by path unless directories were named
(`--roots`, RLM_MCP_ROOTS). On SIGTERM or SIGINT runs are stopped and left on record, calls that wait for them are
answered, and the next server on the same data directory goes on with them.
"""

import ipaddress
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from socket import socket
from types import FrameType

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

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.contexts.processes import PROCESSES
from rlm_mcp.errors import RlmError, SettingsError
from rlm_mcp.models.pool import open_models
from rlm_mcp.records.recovery import left_runs
from rlm_mcp.records.store import Runs
from rlm_mcp.repl.sandbox import open_sandbox
from rlm_mcp.server.server import RlmServer
from rlm_mcp.server.transports.auth import discover_issuer, read_token_file
from rlm_mcp.server.transports.http_protocol import MOST_CONNECTIONS, TimedProtocol, most_connections
from rlm_mcp.server.transports.logs import configure_logging
from rlm_mcp.server.transports.rate_limit import RateLimitMiddleware
from rlm_mcp.server.transports.tenants import EVERYBODY, Tenants
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.inspect_repls import ReplPool
from rlm_mcp.workspace.process_tuning import freeze_gc
from rlm_mcp.workspace.workspace import Workspace, open_workspace

QUOTA_BYTES, MOST_RUNS = 20 << 30, 8
"""What one owner may store unless RLM_MCP_QUOTA_BYTES says otherwise, and the runs of one owner at once."""

KEEP_SECONDS = 75
"""For an idle connection. Uvicorn's 5 s are those of many clients: both let go at once then, and a call is lost."""

CLOSE_SECONDS = 2
"""For answering calls that wait."""

SESSION_SECONDS = 300.0
"""A handshake-era session with no request and no stream open for this long ends, and its client begins a new one. One
that died without saying so costs 100 kB until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpServer:
    """The ASGI application, and whose workspaces it serves."""

    app: Starlette
    tenants: Tenants


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may come in: whose tokens count, and what an OAuth client is told about where to get one."""

    verifier: TokenVerifier
    issuer: str
    resource: str | None = None
    names: Collection[str] | None = None
    """of all who may come in; None: only the issuer knows"""

    def settings(self) -> AuthSettings:
        """The same for the SDK. Static tokens have no authorization server to point to, so no metadata either."""
        return AuthSettings(
            issuer_url=AnyHttpUrl(self.issuer),
            resource_server_url=None if self.resource is None else AnyHttpUrl(self.resource),
            validate_token_resource=None if self.resource is None else True,
        )


@asynccontextmanager
async def open_http_server(
    settings: Settings, host: str, access: Access | None, allowed_hosts: tuple[str, ...] = ()
) -> AsyncIterator[HttpServer]:
    """The server, without a socket. Raises SettingsError for an address that anybody could reach without a token."""
    if access is None and not is_loopback(host):
        raise SettingsError(
            f"{host} can be reached from other machines: give --token-file (see `rlm-mcp token`) or --oauth-issuer, or "
            "serve on 127.0.0.1"
        )
    settings = replace(settings, roots=settings.roots or (), quota_bytes=settings.quota_bytes or QUOTA_BYTES)
    async with (
        open_sandbox(settings.cache_dir, on_loaded=freeze_gc) as sandbox,
        open_models(settings) as models,
    ):
        sandbox.begin_loading()
        pool = ReplPool(has_room=sandbox.has_room)

        def open_for(tenant: str) -> AbstractAsyncContextManager[Workspace]:
            own = settings if tenant == EVERYBODY else replace(settings, data_dir=settings.data_dir / "owners" / tenant)
            return open_workspace(
                own, choose=models.choose, sandbox=sandbox, most_runs=MOST_RUNS, serves=True, pool=pool
            )

        async with anyio.create_task_group() as tasks:
            tenants = Tenants(open_for, tasks)
            server = RlmServer(
                tenants.current,
                tenants.notifications,
                before=[tenants.middleware],
                token_verifier=None if access is None else access.verifier,
                auth=None if access is None else access.settings(),
            )
            server.custom_route("/health", methods=["GET"])(_healthy)
            server.custom_route("/ready", methods=["GET"])(partial(_ready, lambda: sandbox.is_loaded))
            tasks.start_soon(tenants.keep_closing_unused)
            tasks.start_soon(tenants.pick_up, await run_in_thread(_tenants_with_left_runs, settings.data_dir, access))
            app = server.streamable_http_app(
                host=host,
                transport_security=_security(host, allowed_hosts),
                session_idle_timeout=SESSION_SECONDS,
                max_sessions=MOST_CONNECTIONS,
            )
            # As the innermost: `add_middleware` would put it before the one that knows whose the token is.
            app.user_middleware.append(Middleware(RateLimitMiddleware, tenants, tokens=access is not None))
            yield HttpServer(app=app, tenants=tenants)
            tasks.cancel_scope.cancel()


def _tenants_with_left_runs(data_dir: Path, access: Access | None) -> list[str]:
    """Those who may still come in and whose runs a server before this one left."""
    if access is None:
        return [EVERYBODY] if left_runs(Runs(data_dir)) else []
    found = [entry.name for entry in (data_dir / "owners").glob("*") if left_runs(Runs(entry))]
    return [name for name in found if access.names is None or name in access.names]


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
    shown = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def main() -> None:
        access = None
        if token_file is not None:
            tokens = read_token_file(Path(token_file))
            access = Access(verifier=tokens, issuer=shown, names=tokens.names)
        if oauth_issuer is not None:
            resource = oauth_resource or f"{shown}/mcp"
            access = Access(verifier=await discover_issuer(oauth_issuer, resource), issuer=oauth_issuer, resource=resource)
        async with open_http_server(settings, host, access, allowed_hosts) as server:
            config = uvicorn.Config(
                server.app,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                http=TimedProtocol,
                limit_concurrency=(most := most_connections()),
                backlog=max(32, most // 2),  # asyncio takes so many in before it looks at any: descriptors for them all
                timeout_keep_alive=KEEP_SECONDS,
                timeout_graceful_shutdown=CLOSE_SECONDS,
            )
            logging.getLogger("rlm_mcp").warning("serving MCP on %s/mcp", shown)
            # uvicorn stops on these signals and then raises them again, which would end the process before its cleanup.
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT):
                await _Listening(config, server.tenants).serve()

    try:
        anyio.run(main)
    except* RlmError as group:
        raise group.exceptions[0] from None
    at_end()
    PROCESSES.kill_all()
    logging.shutdown()
    os._exit(0)  # the sandbox may still be compiling on a thread, which nothing can stop


class _Listening(uvicorn.Server):
    """Uvicorn, which on a signal lets open requests end for CLOSE_SECONDS: calls that wait for runs then can."""

    def __init__(self, config: uvicorn.Config, tenants: Tenants) -> None:
        super().__init__(config)
        self._tenants = tenants

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal, before any connection is closed, which would look as if the client had gone."""
        self._tenants.leave()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stops the runs, then what uvicorn does."""
        await self._tenants.stop_all()
        await super().shutdown(sockets)


def parse_address(address: str) -> tuple[str, int]:
    """`HOST:PORT`, `[::1]:PORT` or `PORT`. Raises SettingsError."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or not 0 <= int(port) <= 65535:
        raise SettingsError(f"--http {address!r} is no address: write --http 127.0.0.1:8765")
    return host.strip("[]") or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _security(host: str, allowed_hosts: tuple[str, ...]) -> TransportSecuritySettings:
    """Host and Origin checks against DNS rebinding; names that clients use from elsewhere are added by the operator."""
    names = ("127.0.0.1", "localhost", "[::1]", *([] if host in {"0.0.0.0", "::"} else [host]), *allowed_hosts)  # noqa: S104 - compared, not bound
    hosts = [f"{name}:*" for name in names] + list(allowed_hosts)
    origins = [f"{scheme}://{name}" for scheme in ("http", "https") for name in hosts]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)


async def _healthy(_: Request) -> Response:
    """Whether the process answers."""
    return JSONResponse({"status": "ok"})


async def _ready(is_loaded: Callable[[], bool], _: Request) -> Response:
    """Whether code can be run: the sandbox has been loaded."""
    loaded = is_loaded()
    return JSONResponse({"sandbox": "loaded" if loaded else "loading"}, status_code=200 if loaded else 503)

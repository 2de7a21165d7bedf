"""The server over streamable HTTP, in both protocol eras: who may come in, whose things they see, how much they may do.

Every token name has a workspace of its own, under the data directory: contexts and runs of others do not exist for it.
All workspaces share one sandbox and one pool of models. Paths are those of the server's machine, so over HTTP nothing
may be registered by path unless directories were named (`--roots`, RLM_MCP_ROOTS).
"""

import hashlib
import ipaddress
import logging
import os
import signal
import time
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from anyio.abc import TaskGroup, TaskStatus
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rlm_mcp.errors import RlmError, SettingsError
from rlm_mcp.logs import configure_logging
from rlm_mcp.notices import Notices
from rlm_mcp.oauth import discover
from rlm_mcp.providers import open_models
from rlm_mcp.repl import open_sandbox
from rlm_mcp.server import RlmServer
from rlm_mcp.settings import Settings
from rlm_mcp.tokens import read_token_file
from rlm_mcp.workspace import Workspace, open_workspace

EVERYBODY = "everybody"
"""The owner where there are no tokens."""

REQUESTS_PER_SECOND, BURST = 20.0, 200.0
"""Of one owner. A client that lists, reads and polls stays far below; a runaway loop does not."""

QUOTA_BYTES, MOST_RUNS = 20 << 30, 8
"""What one owner may store unless RLM_MCP_QUOTA_BYTES says otherwise, and the runs of one owner at once."""

CLOSE_SECONDS = 2

OpenFor = Callable[[str], AbstractAsyncContextManager[Workspace]]


class Owners:
    """The workspaces of everyone who has come in, each open until the server ends."""

    def __init__(self, open_for: OpenFor, tasks: TaskGroup, clock: Callable[[], float] = time.monotonic) -> None:
        self._open_for = open_for
        self._tasks = tasks
        self._clock = clock
        self._open: dict[str, Workspace] = {}
        self._opening: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._allowance: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.notices = Notices(current_owner)

    def __repr__(self) -> str:
        return f"<Owners {len(self._open)} open>"

    def current(self) -> Workspace:
        """The workspace of whoever sent the current request; the middleware has opened it."""
        return self._open[current_owner()]

    async def middleware(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Opens the caller's workspace before anything is asked of it, and slows down who asks too much."""
        owner = current_owner()
        if ctx.request_id is not None:
            self._charge(owner)
        async with self._opening[owner]:
            if owner not in self._open:
                self._open[owner] = await self._tasks.start(self._hold, owner)
        return await call_next(ctx)

    def _charge(self, owner: str) -> None:
        """One request of a token bucket. Raises MCPError when it is empty."""
        now = self._clock()
        left, then = self._allowance.get(owner, (BURST, now))
        left = min(BURST, left + (now - then) * REQUESTS_PER_SECOND) - 1
        self._allowance[owner] = max(left, -1.0), now
        if left < 0:
            raise MCPError(INTERNAL_ERROR, f"more than {REQUESTS_PER_SECOND:.0f} requests a second: wait a second")

    async def _hold(self, owner: str, *, task_status: TaskStatus[Workspace]) -> None:
        async with self._open_for(owner) as workspace:
            workspace.on_change(partial(self.notices.announce, owner=owner))
            task_status.started(workspace)
            await anyio.sleep_forever()


def current_owner() -> str:
    """A name, fit for a directory, of whoever sent the current request."""
    token = get_access_token()
    if token is None:
        return EVERYBODY
    if token.claims is None:
        return token.client_id
    who = f"{token.claims['iss']}\0{token.subject}"
    return f"oauth-{hashlib.sha256(who.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may come in: whose tokens count, and what an OAuth client is told about where to get one."""

    verifier: TokenVerifier
    issuer: str
    resource: str | None = None

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
) -> AsyncIterator[Starlette]:
    """The ASGI application. Raises SettingsError for an address that anybody could reach without a token."""
    if access is None and not is_loopback(host):
        raise SettingsError(
            f"{host} can be reached from other machines: give --token-file (see `rlm-mcp token`) or --oauth-issuer, or "
            "serve on 127.0.0.1"
        )
    settings = replace(settings, roots=settings.roots or (), quota_bytes=settings.quota_bytes or QUOTA_BYTES)
    async with open_sandbox(settings.cache_dir) as sandbox, open_models(settings) as models:
        sandbox.begin_loading()

        def open_for(owner: str) -> AbstractAsyncContextManager[Workspace]:
            own = settings if owner == EVERYBODY else replace(settings, data_dir=settings.data_dir / "owners" / owner)
            return open_workspace(own, choose=models.choose, sandbox=sandbox, most_runs=MOST_RUNS)

        async with anyio.create_task_group() as tasks:
            owners = Owners(open_for, tasks)
            server = RlmServer(
                owners.current,
                owners.notices,
                before=[owners.middleware],
                token_verifier=None if access is None else access.verifier,
                auth=None if access is None else access.settings(),
            )
            server.custom_route("/health", methods=["GET"])(_healthy)
            server.custom_route("/ready", methods=["GET"])(partial(_ready, lambda: sandbox.is_loaded))
            yield server.streamable_http_app(host=host, transport_security=_security(host, allowed_hosts))
            tasks.cancel_scope.cancel()


def serve_http(
    settings: Settings,
    address: str,
    *,
    token_file: str | None = None,
    oauth_issuer: str | None = None,
    oauth_resource: str | None = None,
    allowed_hosts: tuple[str, ...] = (),
) -> None:
    """Serves until SIGTERM or SIGINT. Runs that are cut off leave records that can be resumed."""
    configure_logging(structured=True)
    host, port = parse_address(address)
    shown = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def main() -> None:
        access = None if token_file is None else Access(verifier=read_token_file(Path(token_file)), issuer=shown)
        if oauth_issuer is not None:
            resource = oauth_resource or f"{shown}/mcp"
            access = Access(verifier=await discover(oauth_issuer, resource), issuer=oauth_issuer, resource=resource)
        async with open_http_server(settings, host, access, allowed_hosts) as app:
            config = uvicorn.Config(
                app,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=CLOSE_SECONDS,
            )
            logging.getLogger("rlm_mcp").warning("serving MCP on %s/mcp", shown)
            # uvicorn stops on these signals and then raises them again, which would end the process before its cleanup.
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT):
                await uvicorn.Server(config).serve()

    try:
        anyio.run(main)
    except* RlmError as group:
        raise group.exceptions[0] from None
    logging.shutdown()
    os._exit(0)  # the sandbox may still be compiling on a thread, which nothing can stop


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

"""The worker process: the MCP application of its tenants, on a unix socket of which only the front knows.

It ends with the front, however the front ends: its end of a pipe closes then.
"""

import os
import threading
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from socket import socket

import anyio
from mcp.server.auth.settings import AuthSettings
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyHttpUrl
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rlm_mcp.concurrency import on_stop_signal, run_in_thread
from rlm_mcp.contexts.processes import PROCESSES
from rlm_mcp.server.transports.listener import Listener, listener_config, run_to_the_end
from rlm_mcp.server.transports.logs import configure_logging
from rlm_mcp.server.transports.tenant_application import (
    TenantHost,
    mcp_application,
    open_tenants,
    tenants_with_left_runs,
)
from rlm_mcp.server.workers.front_token import FrontVerifier
from rlm_mcp.server.workers.worker_start import WorkerStart, restored
from rlm_mcp.workspace.process_tuning import limit_malloc_arenas
from rlm_mcp.workspace.telemetry import export_spans, flush
from wasm_runtime.budget import default_budget_bytes

FRONT_URL = "http://front"


def run_worker(start: WorkerStart, listener: socket, lifeline: Connection) -> None:
    """Serves at `listener` until SIGTERM, SIGINT, or the end of the process that has the other end of `lifeline`."""
    configure_logging(structured=True)
    threading.Thread(target=_end_with, args=[lifeline], name="lifeline", daemon=True).start()
    limit_malloc_arenas()
    settings = restored(start.settings)
    spans = export_spans() if settings.traces else None
    half = default_budget_bytes()
    memory_bytes = None if half is None else half // start.count

    async def main() -> None:
        async with open_tenants(settings, memory_bytes=memory_bytes) as host, anyio.create_task_group() as tasks:
            app = mcp_application(
                host,
                verifier=FrontVerifier(start.key),
                auth=AuthSettings(issuer_url=AnyHttpUrl(FRONT_URL), resource_server_url=None),
                security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # the front has checked
                state_key=start.state_key,
            )
            app.add_route("/status", partial(_report_status, host))
            left = await run_in_thread(tenants_with_left_runs, settings.data_dir, start.tenants)
            tasks.start_soon(host.tenants.resume_left, left)
            with on_stop_signal():
                await Listener(
                    listener_config(app),
                    announce_end=host.tenants.announce_end,
                    answer_all=host.tenants.end_all,
                    is_public=False,
                ).serve([listener])
            tasks.cancel_scope.cancel()

    run_to_the_end(main, partial(flush, spans))


async def _report_status(host: TenantHost, _: Request) -> Response:
    """What the front asks for all the time: whether the sandbox is loaded, and whose workspaces are open."""
    return JSONResponse({"is_ready": host.is_ready(), "tenants": host.tenants.names()})


def _end_with(lifeline: Connection) -> None:
    """Ends this process once nobody holds the other end, even while everything else in it stands still."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    PROCESSES.kill_all()
    os._exit(1)

"""The worker process: the MCP application of its tenants, on a unix socket of which only the front knows.

It ends with the front, however the front ends: its end of a pipe closes then.
"""

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection

import anyio
from mcp.server.auth.settings import AuthSettings
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyHttpUrl
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rlm_mcp.concurrency import on_stop_signal, run_in_thread
from rlm_mcp.contexts.processes import PROCESSES
from rlm_mcp.repl.process_shares import cache_of_workers, memory_share
from rlm_mcp.server.transports.listener import Listener, listener_config, run_to_the_end
from rlm_mcp.server.transports.logs import configure_logging
from rlm_mcp.server.transports.rate_limit import http_limits
from rlm_mcp.server.transports.tenant_application import (
    TenantHost,
    mcp_application,
    open_tenants,
    tenants_with_left_runs,
)
from rlm_mcp.server.workers.confinement import Confinement, confine
from rlm_mcp.server.workers.egress import Egress, certificate_files
from rlm_mcp.server.workers.front_token import FrontVerifier
from rlm_mcp.server.workers.memory import most_mapped
from rlm_mcp.server.workers.worker_start import WorkerEnds, WorkerStart, restored
from rlm_mcp.settings import Settings
from rlm_mcp.version import __version__
from rlm_mcp.workspace.process_tuning import limit_malloc_arenas, switch_threads_often
from rlm_mcp.workspace.telemetry import export_spans, flush

FRONT_URL = "http://front"

NICENESS = 5
"""Added to that of the front for a worker, so that the front gets a core at once when all cores compute."""

log = logging.getLogger(__name__)


def run_worker(start: WorkerStart, ends: WorkerEnds) -> None:
    """Serves until SIGTERM, SIGINT, or the end of the front. One of another version than the front ends at once."""
    configure_logging(structured=True)
    if start.version != __version__:
        log.error(
            "rlm-mcp was upgraded from %s to %s while its server runs: restart the server, which goes on with all runs",
            start.version,
            __version__,
        )
        sys.exit(1)
    os.nice(NICENESS)
    settings = restored(start.settings)
    settings = replace(settings, cache_dir=cache_of_workers(settings.cache_dir))
    share = memory_share(start.count)
    for lack in _confine(start, settings, share):
        log.warning("worker %d: %s", start.number, lack)
    threading.Thread(target=_end_with, args=[ends.lifeline], name="lifeline", daemon=True).start()
    limit_malloc_arenas()
    switch_threads_often()
    connections = None if ends.egress is None else Egress(ends.egress)
    spans = export_spans(connections) if settings.traces else None

    limits = http_limits(is_alone=True)  # of connections: those are the front's

    async def main() -> None:
        async with (
            open_tenants(
                settings, limits, memory_bytes=share, connections=connections, given_up=frozenset(start.given_up)
            ) as host,
            anyio.create_task_group() as tasks,
        ):
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
                    listener_config(app, is_public=False),
                    announce_end=host.tenants.announce_end,
                    answer_all=host.tenants.end_all,
                    is_public=False,
                ).serve([ends.listener])
            tasks.cancel_scope.cancel()

    run_to_the_end(main, partial(flush, spans))


def _confine(start: WorkerStart, settings: Settings, share: int | None) -> Iterable[str]:
    """Gives up what a worker does not need. Its sessions take `share` bytes at most."""
    os.environ["TMPDIR"] = tempfile.tempdir = str(start.temp_dir)
    return confine(
        Confinement(
            data_dir=settings.data_dir,
            cache_dir=settings.cache_dir,
            temp_dir=start.temp_dir,
            roots=(*(settings.roots or ()), *certificate_files(os.environ)),
            hidden=start.hidden,
            fetches=bool(settings.fetch_hosts or settings.s3_sources),
            memory_bytes=most_mapped(share),
            parent=os.getppid(),
        )
    )


async def _report_status(host: TenantHost, _: Request) -> Response:
    """The status that the front polls: whether the sandbox is loaded, and whose workspaces are open."""
    return JSONResponse({"is_ready": host.is_ready(), "tenants": host.tenants.names()})


def _end_with(lifeline: Connection) -> None:
    """Ends this process once nobody holds the other end, even while everything else in it stands still."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    PROCESSES.kill_all()
    os._exit(1)

"""The page of a run served on loopback, which follows the run while it goes on.

Only this user's browser can read it: the server listens on 127.0.0.1, accepts only requests whose host is this address
(so that no other name can be pointed at it), and its path cannot be guessed (so that no other page can request it). It
is read-only.
"""

import json
import secrets
import socket
from collections.abc import Callable

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from rlm_mcp.concurrency import on_stop_signal
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.records.protocols import RunRecord
from rlm_mcp.viewer.following import FollowedRun

HOST = "127.0.0.1"
CLOSE_SECONDS = 1

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def application(followed: FollowedRun, *, token: str, port: int) -> Starlette:
    """The server's two resources: the page of the run, and its new data."""
    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    def guarded(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def guard(request: Request) -> Response:
            if request.headers.get("host") not in hosts:
                return PlainTextResponse("wrong host", status_code=421, headers=_HEADERS)
            if not secrets.compare_digest(request.path_params["token"].encode(), token.encode()):
                return PlainTextResponse("not found", status_code=404, headers=_HEADERS)
            return answer(request)

        return guard

    def page(_: Request) -> Response:
        return HTMLResponse(followed.page(), headers=_HEADERS)

    def news(request: Request) -> Response:
        rows = request.query_params.get("rows", "0")
        found = followed.news(int(rows) if rows.isascii() and rows.isdigit() else 0)
        if found is None:
            return Response(status_code=204, headers=_HEADERS)
        return Response(json.dumps(found, allow_nan=False), media_type="application/json", headers=_HEADERS)

    return Starlette(routes=[Route("/{token}/", guarded(page)), Route("/{token}/data", guarded(news))])


async def serve_page(run: RunRecord, store: Store, *, tell: Callable[[str], None]) -> None:
    """Serves a page until SIGINT or SIGTERM; `tell` receives its address. Raises RunRecordTooNew, RunRecordDamaged."""
    followed = FollowedRun(run, store)
    await anyio.to_thread.run_sync(followed.page)  # raises here, and not in the browser, if the record cannot be shown
    token = secrets.token_urlsafe(16)
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            application(followed, token=token, port=port),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        tell(f"http://{HOST}:{port}/{token}/")
        # uvicorn stops on these signals and then raises them again, which would end the process before its cleanup.
        with on_stop_signal():
            await uvicorn.Server(config).serve(sockets=[listening])

"""The page of a run, or the index of all runs, served on loopback and followed.

Only this user's browser can read it: the server listens on 127.0.0.1, accepts only requests whose host is this address
(so that no other name can be pointed at it), and its path cannot be guessed (so that no other page can request it). It
is read-only.
"""

import json
import secrets
import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from rlm_mcp.concurrency import on_stop_signal
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import RlmError
from rlm_mcp.records.protocols import RunRecord, RunStore
from rlm_mcp.viewer.following import FollowedRun, FollowedRuns
from rlm_mcp.viewer.index import FollowedIndex

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


class Followed(Protocol):
    """Something with a page that can be followed: a run, or the index of all runs."""

    def page(self) -> str:
        """The whole page as of now."""

    def news(self, seen: int, /) -> Mapping[str, Any] | None:
        """The data that a page lacks, by its count of what it has seen; None if there is nothing new."""


def application(
    followed: Followed, *, token: str, port: int, find: Callable[[str], Followed] | None = None
) -> Starlette:
    """A page and its new data and, with `find`, those of each run. `find` raises RlmError for an unknown run."""
    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    def guarded(answer: Callable[[Followed, Request], Response]) -> Callable[[Request], Response]:
        def guard(request: Request) -> Response:
            if request.headers.get("host") not in hosts:
                return PlainTextResponse("wrong host", status_code=421, headers=_HEADERS)
            if not secrets.compare_digest(request.path_params["token"].encode(), token.encode()):
                return PlainTextResponse("not found", status_code=404, headers=_HEADERS)
            run_id = request.path_params.get("run_id")
            try:
                return answer(followed if run_id is None or find is None else find(run_id), request)
            except RlmError as error:
                return PlainTextResponse(str(error), status_code=404, headers=_HEADERS)

        return guard

    def page(followed: Followed, _: Request) -> Response:
        return HTMLResponse(followed.page(), headers=_HEADERS)

    def news(followed: Followed, request: Request) -> Response:
        seen = request.query_params.get("seen", "0")
        found = followed.news(int(seen) if seen.isascii() and seen.isdigit() else 0)
        if found is None:
            return Response(status_code=204, headers=_HEADERS)
        return Response(json.dumps(found, allow_nan=False), media_type="application/json", headers=_HEADERS)

    places = ["/{token}/"] if find is None else ["/{token}/", "/{token}/runs/{run_id}/"]
    return Starlette(
        routes=[
            Route(f"{place}{name}", guarded(answer))
            for place in places
            for name, answer in (("", page), ("data", news))
        ]
    )


async def serve_run(run: RunRecord, store: Store, *, tell: Callable[[str], None]) -> None:
    """Serves the page of a run until SIGINT or SIGTERM; `tell` receives its address.

    Raises RunRecordTooNew, RunRecordDamaged.
    """
    followed = FollowedRun(run, store)
    await anyio.to_thread.run_sync(followed.page)  # raises here, and not in the browser, if the record cannot be shown
    await _serve(followed, tell=tell)


async def serve_index(records: RunStore, store: Store, *, tell: Callable[[str], None]) -> None:
    """Serves the index and the pages of all runs until SIGINT or SIGTERM; `tell` receives its address."""
    index = FollowedIndex(records, store, served_address, served=True)
    await _serve(index, tell=tell, find=FollowedRuns(records, store).get)


def served_address(run_id: str) -> str:
    """Where the page of a run is, seen from the served index."""
    return f"runs/{run_id}/"


async def _serve(
    followed: Followed, *, tell: Callable[[str], None], find: Callable[[str], Followed] | None = None
) -> None:
    token = secrets.token_urlsafe(16)
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            application(followed, token=token, port=port, find=find),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        tell(f"http://{HOST}:{port}/{token}/")
        # uvicorn stops on these signals and then raises them again, which would end the process before its cleanup.
        with on_stop_signal():
            await uvicorn.Server(config).serve(sockets=[listening])

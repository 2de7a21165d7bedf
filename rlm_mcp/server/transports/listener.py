"""A uvicorn server that lets its application answer what it can before connections are closed."""

import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from socket import socket
from types import FrameType
from typing import Any

import anyio
import uvicorn
from starlette.types import ASGIApp

from rlm_mcp.contexts.processes import PROCESSES
from rlm_mcp.errors import RlmError
from rlm_mcp.server.transports.addresses import url_of
from rlm_mcp.server.transports.http_protocol import TimedProtocol, most_connections

KEEP_ALIVE_SECONDS = 75
"""For an idle connection. Many clients close after 5 s like uvicorn does by default: when both do, a call is lost."""

CLOSE_SECONDS = 2
"""For answering calls that wait, when the server ends."""


def listener_config(app: ASGIApp, *, is_public: bool = True, **place: Any) -> uvicorn.Config:
    """The configuration of a listener for `app` at `host` and `port`, or at a socket that is given to `serve`.

    One that is not public takes all connections: the front has counted them, and a worker that refused one of the front
    could not even say that it is well.
    """
    most = most_connections()
    return uvicorn.Config(
        app,
        **place,
        log_config=None,
        access_log=False,
        http=TimedProtocol,
        limit_concurrency=most if is_public else None,
        # asyncio accepts this many before it looks at any, so there have to be descriptors for all of them.
        backlog=max(32, most // 2),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )


class Listener(uvicorn.Server):
    """A uvicorn server that says that it is going to end, and answers all calls, before it closes connections.

    `announce_end` is called at the stop signal; `answer_all` ends the runs and the calls, whose answers then have
    CLOSE_SECONDS to be sent.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        announce_end: Callable[[], object],
        answer_all: Callable[[], Awaitable[object]],
        is_public: bool = True,
    ) -> None:
        super().__init__(config)
        self._announce_end = announce_end
        self._answer_all = answer_all
        self._is_public = is_public

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listens, and then logs the address, with the port that the system chose for port 0."""
        await super().startup(sockets)
        if self._is_public:
            port: int = self.servers[0].sockets[0].getsockname()[1]
            logging.getLogger("rlm_mcp").warning("serving MCP on %s/mcp", url_of(self.config.host, port))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Announces the end before any connection is closed, which would look as if the client had gone."""
        self._announce_end()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stops the runs, then closes the connections."""
        await self._answer_all()
        await super().shutdown(sockets)


def _first(error: BaseException) -> BaseException:
    """The first error in groups of groups, one for each task group around it."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def run_to_the_end(main: Callable[[], Coroutine[Any, Any, None]], at_end: Callable[[], None]) -> None:
    """Runs an event loop, then ends the process with status 0. Raises RlmError if it could not be started."""
    try:
        anyio.run(main)
    except* RlmError as group:
        raise _first(group) from None
    at_end()
    PROCESSES.kill_all()
    logging.shutdown()
    os._exit(0)  # the sandbox may still be compiling on a thread, which nothing can stop

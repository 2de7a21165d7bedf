"""The HTTP protocol of uvicorn with time-outs for requests and a bound on connections.

Uvicorn waits without limit for a request that comes byte by byte, and when there are too many connections it refuses
those that were there first. Here a request has to arrive in time, and the connection that has been idle for longest is
closed for a new one; a new one is refused only when all others are at work.
"""

import asyncio
import sys
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

HEAD_SECONDS, BODY_SECONDS = 15.0, 60.0
"""Time-outs for the head of a request, from its first byte, and for its body, which has at most 4 MiB."""

MOST_CONNECTIONS = 1_000

WANTED_DESCRIPTORS = 8_192
"""Requested from the system, within the hard limit. A quarter of the result is for connections."""

RETRY_SECONDS = 2

REFUSAL = (
    "HTTP/1.1 503 Service Unavailable\r\n"
    f"Retry-After: {RETRY_SECONDS}\r\n"
    "Content-Type: text/plain; charset=utf-8\r\n"
    "Content-Length: {length}\r\n"
    "Connection: close\r\n\r\n"
    "{text}"
)


class TimedProtocol(H11Protocol):
    """HTTP/1.1 on one connection. `limit_concurrency` of the configuration is the number of connections."""

    head_seconds, body_seconds = HEAD_SECONDS, BODY_SECONDS

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._most, self.limit_concurrency = self.limit_concurrency, None
        self._awaited: object = None
        self._limit: asyncio.TimerHandle | None = None
        self._idle_since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Accepts a new connection, for which an idle one may be closed."""
        has_room = self._most is None or len(self.connections) < self._most or self._make_room()
        super().connection_made(transport)
        if has_room:
            self._start_timeout(h11.IDLE)
        else:
            text = f"{self._most} connections are at work: try again in {RETRY_SECONDS} s"
            transport.write(REFUSAL.format(length=len(text), text=text).encode())
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Reads bytes. The time-out of a request that is incomplete after them goes on."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._start_timeout(self.conn.their_state)

    def on_response_complete(self) -> None:
        """The connection is idle from now on, and uvicorn closes it when it stays so."""
        super().on_response_complete()
        self._idle_since = self.loop.time()
        has_begun, _ = self.conn.trailing_data
        self._start_timeout(self.conn.their_state if has_begun or self.conn.their_state is not h11.IDLE else None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the time-out."""
        self._start_timeout(None)
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered; one may still be being sent."""
        return self.cycle is None or self.cycle.response_complete

    def _start_timeout(self, state: object) -> None:
        """Starts the time-out for what the client has to send in this state, if it has to send anything."""
        if state is self._awaited:
            return
        self._awaited = state
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if state in (h11.IDLE, h11.SEND_BODY):
            seconds = self.head_seconds if state is h11.IDLE else self.body_seconds
            self._limit = self.loop.call_later(seconds, self.transport.abort)

    def _make_room(self) -> bool:
        """Closes the connection that has been idle for longest; before all others, one that never sent a request."""
        idle = [one for one in self.connections if isinstance(one, TimedProtocol) and one.is_idle]
        if not idle:
            return False
        longest = min(idle, key=lambda one: (one.cycle is not None, one._idle_since))  # noqa: SLF001 - of this class
        self.connections.discard(longest)
        longest.transport.abort()
        return True


def most_connections() -> int:
    """The number of connections that the file descriptors allow, after raising the soft limit of those."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, soft // 4)

"""The HTTP client of `openai` over connections that another process has opened.

aiohttp takes a host through three steps: look up addresses, make a socket for one, connect it. Here the first step gets
a socket that is connected already and reports the address of its peer, the second hands that socket out, and the third
does nothing. The first is a private method of aiohttp, because its public resolver is not asked about IP addresses.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from socket import AI_NUMERICHOST, socket
from typing import Any

import aiohttp
import httpx2
from aiohttp.abc import ResolveResult
from aiohttp.tracing import Trace

from rlm_mcp.models.connections import Connections

Address = tuple[str, int]


class PassedSocketConnector(aiohttp.TCPConnector):
    """Takes its connections from `connections`. Sockets to one address replace each other, so none is mixed up."""

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(socket_factory=self._take, **options)
        self._connections = connections
        self._connected: dict[Address, list[socket]] = defaultdict(list)

    async def _resolve_host(
        self,
        host: str,
        port: int,
        traces: Sequence[Trace] | None = None,  # noqa: ARG002 - aiohttp's signature
    ) -> list[ResolveResult]:
        passed = _Passed(fileno=(await self._connections.connect(host, port)).detach())
        try:
            address: Address = passed.getpeername()[:2]
        except OSError:  # the server has closed it
            passed.close()
            raise
        self._connected[address].append(passed)
        found = ResolveResult(
            hostname=host, host=address[0], port=address[1], family=passed.family, proto=0, flags=AI_NUMERICHOST
        )
        return [found]

    def _take(self, found: tuple[Any, ...]) -> socket:
        address: Address = found[4][:2]
        taken = self._connected[address].pop()
        if not self._connected[address]:
            del self._connected[address]
        return taken


class _Passed(socket):
    def connect(self, address: Any, /) -> None:
        """Does nothing: it is connected."""


class OverPassedSockets(httpx2.AsyncClient):
    """Base of a client over aiohttp: its connections to hosts and to proxies come from `connections`."""

    def __init__(self, connections: Connections, **options: Any) -> None:
        self._connections = connections
        super().__init__(**options)

    def _init_transport(self, *args: Any, **options: Any) -> httpx2.AsyncBaseTransport:
        return self._over_passed_sockets(super()._init_transport(*args, **options))

    def _init_proxy_transport(self, *args: Any, **options: Any) -> httpx2.AsyncBaseTransport:
        return self._over_passed_sockets(super()._init_proxy_transport(*args, **options))

    def _over_passed_sockets(self, transport: Any) -> httpx2.AsyncBaseTransport:
        transport.client = partial(_session, self._connections, transport)
        adapted: httpx2.AsyncBaseTransport = transport
        return adapted


def _session(connections: Connections, transport: Any) -> aiohttp.ClientSession:
    """The session that the transport would otherwise make; it calls this on the first request, and closes it."""
    connector = PassedSocketConnector(
        connections,
        keepalive_timeout=transport.limits.keepalive_expiry,
        limit=transport.limits.max_connections,
        ssl=transport.ssl_context,
    )
    return aiohttp.ClientSession(connector=connector)

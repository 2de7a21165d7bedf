"""A balancer before servers over HTTP, as a transport of the client.

Each request goes to the next server in turn. Those of a handshake session go to the server that opened it, as long as
that one accepts connections.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

SESSION = "mcp-session-id"


class Balancer(httpx2.AsyncBaseTransport):
    """Passes requests on to the servers at `urls`, which may be changed; `passed` counts them."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = list(urls)
        self.passed: Counter[str] = Counter()
        self._turns = count()
        self._sessions: dict[str, str] = {}
        # A connection that is kept for later would break with its server, in the middle of a request.
        self._servers = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_keepalive_connections=0))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends a request to the first server that accepts it."""
        turn = next(self._turns)
        in_turn = [self.urls[(turn + number) % len(self.urls)] for number in range(len(self.urls))]
        opened_by = self._sessions.get(request.headers.get(SESSION, ""))
        for url in in_turn if opened_by is None else [opened_by, *in_turn]:
            place = httpx2.URL(url)
            request.url = request.url.copy_with(host=place.host, port=place.port)
            request.headers["host"] = f"{place.host}:{place.port}"
            try:
                response = await self._servers.handle_async_request(request)
            except httpx2.ConnectError:
                continue
            self.passed[url] += 1
            if SESSION in response.headers:
                self._sessions[response.headers[SESSION]] = url
            return response
        raise httpx2.ConnectError("no server accepts connections", request=request)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._servers.aclose()

    @asynccontextmanager
    async def client(self, era: str) -> AsyncIterator[Client]:
        """A client of all servers; the balancer is closed with it."""
        async with (
            httpx2.AsyncClient(transport=self, timeout=60) as http,
            Client(streamable_http_client(f"{self.urls[0]}/mcp", http_client=http), mode=era) as client,
        ):
            yield client

"""A blocking HTTP client of the standard library over connections that another process has opened."""

from functools import partial
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.request import HTTPHandler, Request

from rlm_mcp.models.connections import Connections


class PassedHTTPHandler(HTTPHandler):
    """Opens http:// addresses for urllib."""

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._connections = connections

    def http_open(self, req: Request) -> HTTPResponse:
        """Overrides the class of connections."""
        return self.do_open(partial(_Connection, self._connections), req)


class _Connection(HTTPConnection):
    def __init__(self, connections: Connections, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._connections = connections

    def connect(self) -> None:
        seconds = self.timeout or 0.0
        self.sock = self._connections.connect_now(self.host, self.port, seconds)
        self.sock.settimeout(seconds)

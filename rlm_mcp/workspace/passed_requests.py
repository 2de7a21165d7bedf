"""A session of `requests`, with which OpenTelemetry sends spans, over connections that another process has opened."""

import socket
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError

from rlm_mcp.models.connections import Connections

CONNECT_SECONDS = 5.0


def passed_session(connections: Connections) -> requests.Session:
    """Returns a session that opens no connection itself, neither to hosts nor to proxies."""
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _PassedAdapter(connections))
    return session


class _PassedAdapter(HTTPAdapter):
    def __init__(self, connections: Connections) -> None:
        self._pools = {
            "http": _pool(HTTPConnectionPool, HTTPConnection, connections),
            "https": _pool(HTTPSConnectionPool, HTTPSConnection, connections),
        }
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager


def _pool(pool: Any, connection: Any, connections: Connections) -> Any:
    """Returns a class of connection pools; urllib3 makes its connections in the method that is overridden."""

    class PassedConnection(connection):  # type: ignore[misc] # a class of any kind
        def _new_conn(self) -> socket.socket:
            try:
                return connections.connect_now(self.host, self.port, self.timeout or CONNECT_SECONDS)
            except OSError as error:
                raise NewConnectionError(self, str(error)) from error

    class PassedPool(pool):  # type: ignore[misc] # likewise
        ConnectionCls = PassedConnection

    return PassedPool

"""What is configured for the listener of clients, and for that of a front."""

from starlette.types import Receive, Scope, Send

from rlm_mcp.server.transports.http_protocol import most_connections
from rlm_mcp.server.transports.listener import listener_config


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Is not called."""


def test_connections_are_limited_where_clients_connect_and_not_again_behind_a_front() -> None:
    public, private = listener_config(nothing), listener_config(nothing, is_public=False)
    assert (public.limit_concurrency, private.limit_concurrency) == (most_connections(), None)
    assert public.backlog == private.backlog

"""TCP connections that another process opens, for a process that has no network of its own."""

from socket import socket
from typing import Protocol


class Connections(Protocol):
    """Opens TCP connections to the hosts that it permits. TLS is the caller's business."""

    async def connect(self, host: str, port: int) -> socket:
        """Returns a connected socket, which the caller closes. Raises OSError with the reason."""
        ...

    def connect_now(self, host: str, port: int, seconds: float) -> socket:
        """Does the same on a worker thread, where it blocks for at most `seconds`."""
        ...

"""Prepares early answers: asks the real server, over lines of text like those of its stdio."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import anyio
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from rlm_mcp.server.early_answers import META, Prepared
from rlm_mcp.server.list_cache import METHODS
from rlm_mcp.server.notifications import Notifications
from rlm_mcp.server.server import RlmServer
from rlm_mcp.server.tools import no_workspace

CLIENT: Mapping[str, Any] = {"name": "rlm-mcp", "version": "0"}


async def prepare_answers() -> Prepared:
    """The answers that are the same for every client, by protocol version and method."""
    server = server_without_workspace()
    lists: dict[str, Mapping[str, Any]] = {name: {} for name in sorted(METHODS)}
    handshake, enveloped = {}, {}
    for version in HANDSHAKE_PROTOCOL_VERSIONS:
        hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": CLIENT}
        handshake[version] = await _results(server, {"initialize": hello, "ping": {}} | lists)
    for version in MODERN_PROTOCOL_VERSIONS:
        meta = {"protocolVersion": version, "clientInfo": CLIENT, "clientCapabilities": {}}
        envelope = {"_meta": {META + name: value for name, value in meta.items()}}
        enveloped[version] = await _results(server, dict.fromkeys(["server/discover", *lists], envelope))
    return {"initialize": handshake, "envelope": enveloped}


async def _results(server: RlmServer, requests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The results of these requests by method. Errors are left out."""
    lines = [json.dumps({"jsonrpc": "2.0", "id": 0, "method": name, "params": requests[name]}) for name in requests]
    start, end = '{"jsonrpc":"2.0","id":0,"result":', "}\n"
    answers = zip(requests, await converse(server, lines), strict=True)
    return {name: line[len(start) : -len(end)] for name, line in answers if line.startswith(start)}


async def converse(server: RlmServer, requests: Sequence[str]) -> list[str]:
    """The lines that a server answers to the requests of one connection."""
    client = _AskingClient(requests)
    await server.run_on_lines(client, client)
    return client.answers


def server_without_workspace() -> RlmServer:
    """A server whose tools and resources cannot be used."""
    return RlmServer(no_workspace, Notifications())


class _AskingClient:
    """Both streams of a connection whose client waits for each answer before it sends the next request."""

    def __init__(self, requests: Sequence[str]) -> None:
        self._requests = requests
        self._answered = anyio.Event()
        self.answers: list[str] = []

    async def __aiter__(self) -> AsyncIterator[str]:
        for line in self._requests:
            self._answered = anyio.Event()
            yield line
            await self._answered.wait()

    async def write(self, line: str) -> None:
        self.answers.append(line)
        self._answered.set()

    async def flush(self) -> None:
        """Does nothing."""

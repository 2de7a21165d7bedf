"""Prepares early answers: asks the real server, over lines of text like those of its stdio."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from rlm_mcp.server.early_answers import META, Prepared
from rlm_mcp.server.list_cache import METHODS
from rlm_mcp.server.notifications import Notifications
from rlm_mcp.server.server import RlmServer
from rlm_mcp.workspace.workspace import Workspace

CLIENT: Mapping[str, Any] = {"name": "rlm-mcp", "version": "0"}


async def prepare_answers() -> Prepared:
    """What a server answers to the requests that it answers to everybody alike, by protocol version and method."""
    prepared = {}
    for version in HANDSHAKE_PROTOCOL_VERSIONS:
        hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": CLIENT}
        prepared[version] = await _results({"initialize": hello, "ping": {}} | {name: {} for name in sorted(METHODS)})
    for version in MODERN_PROTOCOL_VERSIONS:
        meta = {"protocolVersion": version, "clientInfo": CLIENT, "clientCapabilities": {}}
        envelope = {"_meta": {META + name: value for name, value in meta.items()}}
        prepared[version] = await _results(dict.fromkeys(["server/discover", *sorted(METHODS)], envelope))
    return prepared


async def _results(requests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The results of these requests, sent one after the other on a new connection."""
    dialogue = _Dialogue(requests)
    await RlmServer(_no_workspace, Notifications()).run_on_lines(dialogue, dialogue)
    return dialogue.results


class _Dialogue:
    """Both streams of a connection whose client waits for each answer before it sends the next request."""

    def __init__(self, requests: Mapping[str, Mapping[str, Any]]) -> None:
        self._requests = requests
        self._method = ""
        self._answered = anyio.Event()
        self.results: dict[str, str] = {}

    async def __aiter__(self) -> AsyncIterator[str]:
        for method, params in self._requests.items():
            self._method, self._answered = method, anyio.Event()
            yield json.dumps({"jsonrpc": "2.0", "id": 0, "method": method, "params": params})
            await self._answered.wait()

    async def write(self, line: str) -> None:
        """Takes the result out of an answer; the other answers, errors, are not prepared."""
        start, end = '{"jsonrpc":"2.0","id":0,"result":', "}\n"
        if line.startswith(start) and line.endswith(end):
            self.results[self._method] = line[len(start) : -len(end)]
        self._answered.set()

    async def flush(self) -> None:
        """Does nothing."""


def _no_workspace() -> Workspace:
    raise LookupError("what is prepared for all clients cannot depend on a workspace")

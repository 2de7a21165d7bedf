"""Sessions of handshake-era clients that outlive the worker in which they were opened.

A session is state of the worker. When another worker takes its place, the front opens a session there as the client did
once, with the same `initialize`, and goes on under the id that the client knows. Open streams and calls are lost, which
their clients are told; subscriptions of the handshake era have to be made again.
"""

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp
import anyio
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from multidict import CIMultiDict

from rlm_mcp.server.early_answers import Opening, opening_of, parsed
from rlm_mcp.server.transports.http_protocol import MOST_CONNECTIONS
from rlm_mcp.server.transports.sessions import MOST_SESSIONS
from rlm_mcp.server.transports.tenant_names import EVERYBODY
from rlm_mcp.server.workers.worker import Worker

MOST_OPENING_BYTES = 1 << 16
"""Of a request that opens a session. After a longer one the client has to open a session itself."""

INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'


@dataclass(slots=True, kw_only=True)
class HandshakeSession:
    """A session as its client opened it, and where it is now."""

    path: str
    opening: bytes
    headers: "CIMultiDict[str]"
    worker: Worker
    current_id: str
    opened: Opening | None
    """the handshake, if early_answers.py understands it"""
    lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def be_in(self, worker: Worker) -> None:
        """Opens the session in this worker if it is not there. One that cannot be opened is unknown to the worker."""
        async with self.lock:
            if self.worker is not worker:
                with suppress(aiohttp.ClientError, OSError):
                    await self._open_in(worker)

    async def _open_in(self, worker: Worker) -> None:
        async with await worker.request("POST", self.path, self.headers, self.opening) as response:
            new_id = response.headers.get(MCP_SESSION_ID_HEADER)
            await response.read()
        if response.status != 200 or new_id is None:
            return
        headers = CIMultiDict(self.headers)
        headers[MCP_SESSION_ID_HEADER] = new_id
        async with await worker.request("POST", self.path, headers, INITIALIZED) as response:
            await response.read()
        self.worker, self.current_id = worker, new_id


def opening_in(body: bytes) -> Opening | None:
    """The handshake in a request that opens a session."""
    match parsed(body.decode("utf-8", "replace")):
        case {"jsonrpc": "2.0", "id": str() | int(), "method": "initialize"} as request:
            return opening_of(request)
    return None


class HandshakeSessions:
    """The sessions of all tenants by the ids that their clients know, the least recently used first."""

    def __init__(self) -> None:
        self._of: dict[str, OrderedDict[str, HandshakeSession]] = {}

    def __repr__(self) -> str:
        return f"<HandshakeSessions, {sum(map(len, self._of.values()))}>"

    def find(self, tenant: str, session_id: str) -> HandshakeSession | None:
        """The session of this id, which counts as used now."""
        own = self._of.get(tenant, OrderedDict())
        if (session := own.get(session_id)) is not None:
            own.move_to_end(session_id)
        return session

    def note(self, tenant: str, asked: HandshakeSession) -> None:
        """Adds a session that a worker has opened. A tenant that has too many loses the least recently used one."""
        if len(asked.opening) > MOST_OPENING_BYTES:
            return
        own = self._of.setdefault(tenant, OrderedDict())
        own[asked.current_id] = asked
        if len(own) > (MOST_CONNECTIONS if tenant == EVERYBODY else MOST_SESSIONS):
            own.popitem(last=False)

    def forget(self, tenant: str, session_id: str) -> None:
        """Forgets a session that has ended."""
        own = self._of.get(tenant, OrderedDict())
        own.pop(session_id, None)
        if not own:
            self._of.pop(tenant, None)

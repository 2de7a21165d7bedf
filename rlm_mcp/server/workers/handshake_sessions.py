"""Sessions of handshake-era clients that outlive the worker in which they were opened.

A session is state of the worker. When another worker takes its place, the front opens a session there as the client did
once, with the same `initialize`, and goes on under the id that the client knows. Open streams and calls are lost, which
their clients are told; subscriptions of the handshake era have to be made again.
"""

from collections import Counter, OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp
import anyio
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from multidict import CIMultiDict

from rlm_mcp.server.early_answers import Opening, opening_of, parsed
from rlm_mcp.server.transports.sessions import MOST_SESSIONS
from rlm_mcp.server.transports.tenant_names import EVERYBODY
from rlm_mcp.server.workers.worker import Worker

MOST_OPENING_BYTES = 1 << 14
"""Size of a request that opens a session. After a longer one the client has to open a session itself."""

MOST_OF_ALL = 4_096
"""Sessions of all tenants. A client whose session is forgotten has to open another when its worker ends."""

INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'


@dataclass(slots=True, kw_only=True)
class HandshakeSession:
    """A session as its client opened it, and where it is now."""

    path: str
    opening: bytes = field(repr=False)
    headers: "CIMultiDict[str]" = field(repr=False)
    """with the front's key"""
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

    def __init__(self, *, most: int = MOST_OF_ALL) -> None:
        self._most = most
        self._sessions: OrderedDict[tuple[str, str], HandshakeSession] = OrderedDict()
        self._counts: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<HandshakeSessions, {len(self._sessions)}>"

    def find(self, tenant: str, session_id: str) -> HandshakeSession | None:
        """The session of this id, which counts as used now."""
        if (session := self._sessions.get((tenant, session_id))) is not None:
            self._sessions.move_to_end((tenant, session_id))
        return session

    def note(self, tenant: str, opened: HandshakeSession) -> None:
        """Adds a session that a worker has opened, in the place of the least recently used one where there are many."""
        if len(opened.opening) > MOST_OPENING_BYTES:
            return
        self._sessions[tenant, opened.current_id] = opened
        self._counts[tenant] += 1
        if tenant != EVERYBODY and self._counts[tenant] > MOST_SESSIONS:
            self.forget(*next(key for key in self._sessions if key[0] == tenant))
        elif len(self._sessions) > self._most:
            self.forget(*next(iter(self._sessions)))

    def forget(self, tenant: str, session_id: str) -> None:
        """Forgets a session that has ended."""
        if self._sessions.pop((tenant, session_id), None) is not None:
            self._counts[tenant] -= 1
            if not self._counts[tenant]:
                del self._counts[tenant]

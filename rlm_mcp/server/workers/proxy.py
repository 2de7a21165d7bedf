"""Passes requests on to the workers, as bytes. Of answers nothing is read.

The body of a request is read in four cases, each for a bounded length: whether it asks for a list that never changes
(list_answers.py), how it opens a session (handshake_sessions.py), and what it asks, under which id, when its worker has
died or its client gives it up (open_calls.py). When its worker has died, a request that changes no more the second time
goes to the next one, and every other is answered with an error.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Final

import aiohttp
import anyio
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from mcp_types import INTERNAL_ERROR
from multidict import CIMultiDict
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from rlm_mcp.server.list_cache import METHODS
from rlm_mcp.server.transports.tenant_names import current_tenant
from rlm_mcp.server.workers.front_token import front_token
from rlm_mcp.server.workers.handshake_sessions import HandshakeSession, HandshakeSessions, opening_in
from rlm_mcp.server.workers.list_answers import ListAnswer, ListAnswers
from rlm_mcp.server.workers.open_calls import CALL_HEADER, OpenCall, OpenCalls, read, request_id_in
from rlm_mcp.server.workers.supervisor import NoWorker, Supervisor
from rlm_mcp.server.workers.worker import Worker

_HOP = ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding")
OF_ONE_HOP: Final = frozenset([*_HOP, "upgrade", "host", "content-length", "authorization", "date", "server"])
"""Headers that are about one connection, or that each side writes itself."""

MOST_BUFFERED_BYTES = 1 << 20
"""An answer up to this length is passed on only when all of it is here, so that an error can take its place."""

REPEATED_METHODS = METHODS | {
    *("initialize", "server/discover", "ping"),  # a session that was opened in a worker has ended with it
    *("resources/list", "resources/read", "tasks/get", "tasks/cancel"),
}
REPEATED_TOOLS = frozenset(["list_contexts", "cancel_run"])

END_OF_EVENT = b"\r\n\r\n"
"""Also of one of which a worker had sent a part when it died."""

LOST = (
    "the worker process that answered this call has ended; a run that it had begun goes on in another: send the same"
    " request again, or read the run with rlm_result"
)


class WorkerProxy:
    """ASGI application that sends each request to the worker of its tenant, and its answer back."""

    def __init__(self, workers: Supervisor, key: str, security: TransportSecuritySettings, lists: ListAnswers) -> None:
        self._workers = workers
        self._lists = lists
        self._key = key
        self._security = TransportSecurityMiddleware(security)
        self._sessions = HandshakeSessions()
        self._calls = OpenCalls()

    def __repr__(self) -> str:
        return f"<WorkerProxy to {self._workers!r}, {self._sessions!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or gives it up when its client has."""
        request = Request(scope, receive)
        refusal = await self._security.validate_request(request, is_post=scope["method"] == "POST")
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        body = await request.body()
        tenant = current_tenant()
        if scope["method"] == "POST" and (known := self._list(scope, body, tenant)) is not None:
            await _send_all(send, 200, known.headers, known.body)
            return
        call = OpenCall(tenant=tenant, session_id=request.headers.get(MCP_SESSION_ID_HEADER), body=body)
        self._workers.note_given_up(tenant, self._calls.cancelled_by(call))
        answer = _Answer(send, call.session_id)
        with self._workers.at_work(tenant), self._calls.opened(call):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_when_disconnected, receive, tasks.cancel_scope)
                await self._find_worker(scope, call, answer)
                tasks.cancel_scope.cancel()
            # In a session, a client whose connection breaks may come back for the run.
            if not answer.is_complete and call.session_id is None:
                self._workers.note_given_up(tenant, [call.call_id])

    def _list(self, scope: Scope, body: bytes, tenant: str) -> ListAnswer | None:
        """The answer that needs no worker, if the request asks for a list that never changes."""
        headers = _forwarded(scope["headers"])
        session_id = headers.get(MCP_SESSION_ID_HEADER)
        if session_id is None:
            return self._lists.answer(headers, body, None)
        session = self._sessions.find(tenant, session_id)
        return None if session is None else self._lists.answer(headers, body, (session_id, session.opened))

    async def _find_worker(self, scope: Scope, call: OpenCall, answer: "_Answer") -> None:
        """Passes a request on to a worker that takes it."""
        worker: Worker | None = None
        is_repeated = False
        while True:
            try:
                worker = await self._workers.worker_of(call.tenant, after=worker)
                await self._pass_on(scope, call, worker, answer)
            except NoWorker as error:
                await answer.break_off(error_body(call.body, str(error)))
            except aiohttp.ClientConnectorError:  # the worker did not get it
                continue
            except (aiohttp.ClientError, OSError):
                if not is_repeated and answer.can_go_on() and may_be_repeated(call.body):
                    is_repeated = True  # not again: perhaps it is what ends the workers
                    continue
                await answer.break_off(error_body(call.body, LOST))
            return

    async def _pass_on(self, scope: Scope, call: OpenCall, worker: Worker, answer: "_Answer") -> None:
        """Passes a request on. Raises OSError and aiohttp.ClientError; ClientConnectorError where nothing was sent."""
        headers = _forwarded(scope["headers"])
        tenant, session_id = call.tenant, call.session_id
        headers["Authorization"] = f"Bearer {front_token(self._key, tenant)}"
        headers[CALL_HEADER] = call.call_id
        session = None if session_id is None else self._sessions.find(tenant, session_id)
        if session is not None:
            await session.be_in(worker)
            headers[MCP_SESSION_ID_HEADER] = session.current_id
        async with await worker.request(scope["method"], scope["path"], headers, call.body) as response:
            if session_id is not None:
                if response.status == 404 or (scope["method"] == "DELETE" and response.ok):
                    self._sessions.forget(tenant, session_id)
            elif (opened := response.headers.get(MCP_SESSION_ID_HEADER)) is not None and response.ok:
                self._sessions.note(
                    tenant,
                    HandshakeSession(
                        path=scope["path"],
                        opening=call.body,
                        headers=headers,
                        worker=worker,
                        current_id=opened,
                        opened=opening_in(call.body),
                    ),
                )
            length = response.content_length
            whole = await response.read() if length is not None and length <= MOST_BUFFERED_BYTES else b""
            await answer.begin(response)
            await answer.go_on(whole)
            async for piece in response.content.iter_any():
                await answer.go_on(piece)
            await answer.end()


class _Answer:
    """What a client gets: the worker's answer, as far as it comes, and what comes in the place of the rest."""

    def __init__(self, send: Send, session_id: str | None) -> None:
        """`session_id` is the id under which the client knows its session."""
        self._send = send
        self._session_id = session_id
        self._has_begun = False
        self._is_stream = False
        self.is_complete = False
        """whether all of it was sent"""

    def can_go_on(self) -> bool:
        """Whether the answer of another worker may follow what was sent of this one."""
        return not self._has_begun or self._is_stream

    async def begin(self, response: aiohttp.ClientResponse) -> None:
        """Sends status and headers. Raises aiohttp.ClientPayloadError for what does not follow the stream before."""
        is_stream = response.content_type == "text/event-stream"
        if self._has_begun:
            if not is_stream:
                raise aiohttp.ClientPayloadError("the next worker does not answer with a stream")
            await self.go_on(END_OF_EVENT)
            return
        self._is_stream, self._has_begun = is_stream, True
        headers = _forwarded(response.raw_headers)
        if self._session_id is not None and MCP_SESSION_ID_HEADER in headers:
            headers[MCP_SESSION_ID_HEADER] = self._session_id
        if (length := response.headers.get("Content-Length")) is not None:
            headers["Content-Length"] = length
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": response.status, "headers": raw})

    async def go_on(self, piece: bytes) -> None:
        """Sends more of the body."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self) -> None:
        """Ends the body."""
        self.is_complete = True
        await self._send({"type": "http.response.body", "body": b""})

    async def break_off(self, error: bytes) -> None:
        """Sends an error in the place of what is missing; in a stream, as its last event."""
        if not self._has_begun:
            self.is_complete = True
            await _answer(self._send, error)
        elif self._is_stream:
            if error:
                await self.go_on(END_OF_EVENT + b"event: message\r\ndata: " + error + END_OF_EVENT)
            await self.end()
        # else the connection is closed, because the body is shorter than was said


def error_body(body: bytes, text: str) -> bytes:
    """The JSON-RPC error that answers the request in `body`; nothing if that is no request, or a long one."""
    request_id = request_id_in(body)
    if request_id is None:
        return b""
    error = {"code": INTERNAL_ERROR, "message": text}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode()


def may_be_repeated(body: bytes) -> bool:
    """Whether the request may be sent to a second worker, because it changes nothing, or nothing more."""
    if request_id_in(body) is None:
        return False
    match read(body):
        case {"method": "tools/call", "params": {"name": str() as tool}}:
            return tool in REPEATED_TOOLS
        case {"method": str() as method}:
            return method in REPEATED_METHODS
    return False


async def _cancel_when_disconnected(receive: Receive, scope: anyio.CancelScope) -> None:
    """Does so also after the answer, which then is complete."""
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()
    scope.cancel()


async def _answer(send: Send, error: bytes) -> None:
    """Answers with an error in HTTP 200, whose text every client shows; what was no request, with 503."""
    headers = {"content-type": "application/json", "content-length": str(len(error))}
    await _send_all(send, 200 if error else 503, headers, error)


async def _send_all(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _forwarded(headers: Iterable[tuple[bytes, bytes]]) -> "CIMultiDict[str]":
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    return CIMultiDict([(name, value) for name, value in pairs if name.lower() not in OF_ONE_HOP])

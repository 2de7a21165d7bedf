"""HTTP/1.1 without TLS, for model servers on this machine or in its network.

A batch of sub-calls to such a server is bounded by what a request costs here: 1.1 ms of processor time in the client
library with 64 connections, 0.1 ms in this file, measured on the loopback server of the tests. It reads whole bodies,
follows no redirect, and speaks only what such servers speak: lengths, chunks, or the end of the connection. Other
addresses, and other event loops than asyncio, are left to the library.

`ResponseReader` puts a response together from bytes and knows no connection; `_Connection` is one, asked one thing at a
time; `PlainSender` keeps those that are idle.
"""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import anyio

from rlm_mcp.models import exchange
from rlm_mcp.models.dialect import retry_after_seconds
from rlm_mcp.models.exchange import Answer, NoAnswer
from rlm_mcp.redact import Secret

# Common servers close an idle connection after five seconds; one that is younger is still open.
IDLE_SECONDS = 4.0
# A reply is text; what is longer is no reply.
MOST_BODY_BYTES = 64 << 20
_MOST_HEAD_BYTES = 64 << 10
_MOST_LINE_BYTES = 8 << 10  # of a chunk's size or a trailer


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response. `headers` have lower-case names; `keeps` says that the connection can be used again."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    keeps: bool

    @property
    def text(self) -> str:
        """The body; JSON is UTF-8, and of anything else only a few words are quoted."""
        return self.body.decode("utf-8", "replace")


class NotHTTP(ValueError):
    """Bytes that are no response; str() says why."""


class ResponseReader:
    """One response from the bytes as they come. No I/O."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._chunks: bytearray | None = None
        self._chunk_bytes: int | None = None
        self._status = 0
        self._version = b""
        self._headers: dict[str, str] = {}

    def receive(self, data: bytes) -> Response | None:
        """The response, once its last byte is here. Raises NotHTTP."""
        self._data += data
        while self._status < 200:
            if not self._take_head():
                return None
        if self._status in {204, 304}:
            return self._response(b"", marked=True)
        if "transfer-encoding" in self._headers:
            body = self._take_chunks()
        elif "content-length" in self._headers:
            length = _allowed(_number(self._headers["content-length"], 10))
            body = self._take(length) if len(self._data) >= length else None
        else:
            _allowed(len(self._data))
            return None
        return None if body is None else self._response(body, marked=True)

    def end(self) -> Response:
        """The response that ends with its connection. Raises NotHTTP for one that should have gone on."""
        if self._status < 200 or "content-length" in self._headers or "transfer-encoding" in self._headers:
            raise NotHTTP("the server closed the connection without a whole reply")
        return self._response(self._take(len(self._data)), marked=False)

    def _response(self, body: bytes, *, marked: bool) -> Response:
        said = self._headers.get("connection", "").lower()
        keeps = said == "keep-alive" if self._version == b"HTTP/1.0" else said != "close"
        # What comes after the end belongs to nothing that was asked.
        keeps = keeps and marked and not self._data
        return Response(status=self._status, headers=self._headers, body=body, keeps=keeps)

    def _take(self, length: int) -> bytes:
        taken = bytes(self._data[:length])
        del self._data[:length]
        return taken

    def _take_head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0 and len(self._data) <= _MOST_HEAD_BYTES:
            return False
        if not 0 <= end <= _MOST_HEAD_BYTES:
            raise NotHTTP(f"headers of more than {_MOST_HEAD_BYTES} bytes")
        first, *lines = self._take(end + 4)[:-4].split(b"\r\n")
        self._version, _, rest = first.partition(b" ")
        if not self._version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise NotHTTP(f"not HTTP/1: {first[:60]!r}")
        self._status = int(rest[:3])
        pairs = (line.decode("latin-1").partition(":") for line in lines)
        self._headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        return True

    def _take_chunks(self) -> bytes | None:
        if self._chunks is None:
            self._chunks = bytearray()
        while self._chunk_bytes != 0:
            if self._chunk_bytes is None:
                if (line := self._take_line()) is None:
                    return None
                self._chunk_bytes = _number(line.split(b";")[0].decode("latin-1"), 16)
                _allowed(len(self._chunks) + self._chunk_bytes)
            elif len(self._data) >= self._chunk_bytes + 2:
                self._chunks += self._take(self._chunk_bytes + 2)[:-2]
                self._chunk_bytes = None
            else:
                return None
        while (line := self._take_line()) is not None:  # trailers say nothing that we read
            if not line:
                return bytes(self._chunks)
        return None

    def _take_line(self) -> bytes | None:
        end = self._data.find(b"\r\n", 0, _MOST_LINE_BYTES)
        if end < 0 and len(self._data) >= _MOST_LINE_BYTES:
            raise NotHTTP(f"a line of more than {_MOST_LINE_BYTES} bytes between chunks")
        return self._take(end + 2)[:-2] if end >= 0 else None


class PlainSender:
    """Keeps connections to one server, as many as there have been requests at once. Close it with `aclose`."""

    def __init__(
        self, base_url: str, api_key: Secret, *, late_seconds: float = exchange.LATE_SECONDS, most_seconds: float = 0.0
    ) -> None:
        """`most_seconds` is the longest wait for a reply; 0 is REPLY_SECONDS."""
        parts = urlsplit(base_url)
        self._address = parts.hostname or "", parts.port or 80
        self._path = parts.path.rstrip("/")
        self._late_seconds = late_seconds
        self._most_seconds = most_seconds or exchange.REPLY_SECONDS
        key = f"authorization: Bearer {api_key.reveal()}\r\n" if api_key else ""
        self._headers = (
            f" HTTP/1.1\r\nhost: {parts.netloc.rpartition('@')[2]}\r\n{key}accept: application/json\r\n"
            "content-type: application/json\r\nuser-agent: rlm-mcp\r\nconnection: keep-alive\r\ncontent-length: "
        ).encode("latin-1", "replace")
        self._idle: list[_Connection] = []

    def __repr__(self) -> str:
        return f"<PlainSender {self._address[0]}:{self._address[1]}, {len(self._idle)} idle>"

    async def send(self, path: str, body: Mapping[str, Any] | None) -> Answer | NoAnswer:
        """As in exchange.Sender."""
        method, content = b"POST ", b""
        if body is None:
            method = b"GET "
        else:
            content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        head = method + (self._path + path).encode() + self._headers + b"%d\r\n\r\n" % len(content)
        try:
            connection = self._kept() or await self._connect()
        except TimeoutError:
            return exchange.no_connection_in_time()
        except OSError as error:
            return exchange.no_connection(os.strerror(error.errno) if error.errno else str(error))
        try:
            response = await connection.ask(head + content, self._most_seconds, self._late_seconds)
        except TimeoutError:
            connection.abort()
            return exchange.no_reply_in_time()
        except (OSError, NotHTTP) as error:
            connection.abort()
            return NoAnswer(kind="broken", why=str(error) or type(error).__name__, sent=True)
        except BaseException:  # cancelled: the server sees the connection close at once
            connection.abort()
            raise
        if response.keeps:
            self._idle.append(connection)
        else:
            connection.abort()
        return Answer(status=response.status, text=response.text, retry_after=retry_after_seconds(response.headers))

    async def aclose(self) -> None:
        """Closes the idle connections."""
        while self._idle:
            self._idle.pop().abort()

    def _kept(self) -> "_Connection | None":
        now = time.monotonic()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable(now):
                return connection
            connection.abort()
        return None

    async def _connect(self) -> "_Connection":
        async with asyncio.timeout(exchange.CONNECT_SECONDS):
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Connection, *self._address)
        return connection


class _Connection(asyncio.Protocol):
    """One connection, asked one thing at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = ResponseReader()
        self._waiter: asyncio.Future[Response] | None = None
        self._response: Response | None = None
        self._idle_since = 0.0
        self._is_gone = False

    async def ask(self, request: bytes, most_seconds: float, late_seconds: float) -> Response:
        """The response to `request`, also one that comes late after a cancellation.

        Raises NotHTTP, OSError, TimeoutError.
        """
        assert self._transport is not None  # noqa: S101 - create_connection has made it
        self._reader, self._response = ResponseReader(), None
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(most_seconds, self._fail, TimeoutError())
        self._transport.write(request)
        try:
            return await self._waiter
        except asyncio.CancelledError:
            if self._response is not None:  # it came before this task had its turn to be cancelled
                return self._response
            self._waiter = self._loop.create_future()
            with anyio.move_on_after(late_seconds, shield=True):
                return await self._waiter
            raise
        finally:
            timer.cancel()
            self._waiter = None
            self._idle_since = self._loop.time()

    def is_usable(self, now: float) -> bool:
        """Whether the server still listens on it, as far as can be told."""
        return not self._is_gone and now - self._idle_since < IDLE_SECONDS

    def abort(self) -> None:
        """Closes it without another word."""
        self._is_gone = True
        if self._transport is not None:
            self._transport.abort()

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # of a TCP connection; uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._response is not None:  # nobody has asked for it
            self.abort()
            return
        try:
            self._response = self._reader.receive(data)
        except NotHTTP as error:
            self._fail(error)
        else:
            self._tell()

    def eof_received(self) -> None:
        self._is_gone = True
        if self._waiter is not None and self._response is None:
            try:
                self._response = self._reader.end()
            except NotHTTP as error:
                self._fail(error)
            else:
                self._tell()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_gone = True
        self._fail(error or NotHTTP("the server closed the connection without a whole reply"))

    def _tell(self) -> None:
        if self._response is not None and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._response)

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


def _number(text: str, base: int) -> int:
    try:
        return int(text, base)
    except ValueError as error:
        raise NotHTTP(f"a length of {text[:40]!r}") from error


def _allowed(size: int) -> int:
    if 0 <= size <= MOST_BODY_BYTES:
        return size
    raise NotHTTP(f"a body of {size} bytes")

"""HTTP/1.1 without TLS for local servers, a third of the processor time of the library's own transport.

A batch of sub-calls to a model on this machine is bounded by what a request costs here: 1.1 ms in httpcore with 64
connections, 0.2 ms in this file, measured on the loopback server of the tests. It reads whole bodies, follows no
redirect, and speaks only what such servers speak: lengths, chunks, or the end of the connection. Other addresses, and
other event loops than asyncio, are left to the library.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import httpx2

# Common servers close an idle connection after five seconds; one that is younger is still open.
IDLE_SECONDS = 4.0
# A reply is text; what is longer is no reply.
MOST_BODY_BYTES = 64 << 20
_MOST_HEAD_BYTES = 64 << 10


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    idle_since: float = 0.0

    def usable(self, now: float) -> bool:
        gone = self.reader.at_eof() or self.writer.is_closing()
        return not gone and now - self.idle_since < IDLE_SECONDS


class PlainTransport(httpx2.AsyncBaseTransport):
    """Sends requests over connections that it keeps, as many as there are requests in flight."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], list[_Connection]] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One exchange. Raises the library's errors, as its own transport does."""
        timeout: dict[str, Any] = request.extensions.get("timeout", {})
        address = (request.url.host, request.url.port or 80)
        connection = self._kept(address) or await _connect(address, request, timeout.get("connect"))
        try:
            async with asyncio.timeout(timeout.get("read")):
                response, keep = await _exchange(connection, request)
        except TimeoutError as error:
            connection.writer.transport.abort()
            raise httpx2.ReadTimeout("no reply in time", request=request) from error
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            connection.writer.transport.abort()
            raise httpx2.RemoteProtocolError(_why(error), request=request) from error
        except BaseException:  # cancelled: the server sees the connection close at once
            connection.writer.transport.abort()
            raise
        if keep:
            connection.idle_since = time.monotonic()
            self._idle.setdefault(address, []).append(connection)
        else:
            connection.writer.close()
        return response

    async def aclose(self) -> None:
        """Closes the idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.writer.transport.abort()
        self._idle.clear()

    def _kept(self, address: tuple[str, int]) -> _Connection | None:
        connections, now = self._idle.get(address, []), time.monotonic()
        while connections:
            connection = connections.pop()
            if connection.usable(now):
                return connection
            connection.writer.transport.abort()
        return None


async def _connect(address: tuple[str, int], request: httpx2.Request, seconds: float | None) -> _Connection:
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(*address, limit=_MOST_HEAD_BYTES)
    except TimeoutError as error:
        raise httpx2.ConnectTimeout("no connection in time", request=request) from error
    except OSError as error:
        raise httpx2.ConnectError(error.strerror or str(error), request=request) from error
    return _Connection(reader, writer)


async def _exchange(connection: _Connection, request: httpx2.Request) -> tuple[httpx2.Response, bool]:
    """The response, and whether the connection can be used again."""
    body = await request.aread()
    connection.writer.write(_head(request, body) + body)
    await connection.writer.drain()
    version, status, headers = await _read_head(connection.reader)
    while 100 <= status < 200:
        version, status, headers = await _read_head(connection.reader)
    content, delimited = await _read_body(connection.reader, status, headers)
    # The encoding of the transfer is undone; what is left of the headers describes the content.
    kept = [(name, value) for name, value in headers if name not in {b"transfer-encoding", b"content-length"}]
    response = httpx2.Response(status, headers=kept, content=content, request=request)
    said = _value(headers, b"connection").lower()
    return response, delimited and (said != b"close" if version != b"HTTP/1.0" else said == b"keep-alive")


def _head(request: httpx2.Request, body: bytes) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    for name, value in request.headers.raw:
        if name.lower() not in {b"content-length", b"accept-encoding", b"connection", b"transfer-encoding"}:
            lines.append(name + b": " + value)
    lines += [b"content-length: %d" % len(body), b"connection: keep-alive", b"", b""]
    return b"\r\n".join(lines)


async def _read_head(reader: asyncio.StreamReader) -> tuple[bytes, int, list[tuple[bytes, bytes]]]:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise ValueError(f"not HTTP/1: {first[:60]!r}")
    pairs = (line.partition(b":") for line in lines)
    return version, int(rest[:3]), [(name.strip().lower(), value.strip()) for name, _, value in pairs]


async def _read_body(
    reader: asyncio.StreamReader, status: int, headers: list[tuple[bytes, bytes]]
) -> tuple[bytes, bool]:
    """The body, and whether its end was marked otherwise than by the end of the connection."""
    if status in {204, 304}:
        return b"", True
    if _value(headers, b"transfer-encoding").lower() == b"chunked":
        return await _read_chunks(reader), True
    if length := _value(headers, b"content-length"):
        return await reader.readexactly(_allowed(int(length))), True
    content = bytearray()
    while piece := await reader.read(1 << 16):
        content += piece
        _allowed(len(content))
    return bytes(content), False


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    content = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        _allowed(len(content) + size)
        content += await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # trailers say nothing that we read
    return bytes(content)


def _allowed(size: int) -> int:
    if 0 <= size <= MOST_BODY_BYTES:
        return size
    raise ValueError(f"a body of {size} bytes")


def _value(headers: list[tuple[bytes, bytes]], name: bytes) -> bytes:
    return next((value for key, value in headers if key == name), b"")


def _why(error: Exception) -> str:
    if isinstance(error, asyncio.IncompleteReadError):
        return "the server closed the connection without a whole reply"
    return str(error) or type(error).__name__

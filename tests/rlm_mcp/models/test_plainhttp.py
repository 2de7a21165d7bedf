"""The small HTTP client against a server that writes the bytes it is told to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest

from rlm_mcp.models.plainhttp import PlainTransport

pytestmark = pytest.mark.anyio


class Bytes:
    """Answers each request with the next entry; None closes the connection instead."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0)
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
                if b"content-length" not in answer and b"chunked" not in answer:
                    return
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def asking(server: Bytes, *, seconds: float = 5.0) -> AsyncIterator[tuple[httpx2.AsyncClient, str]]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/x?a=b"
    async with httpx2.AsyncClient(transport=PlainTransport(), timeout=seconds, trust_env=False) as client:
        with anyio.fail_after(10):
            yield client, url
    listening.close()


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Y: z\r\n\r\nok"


async def test_a_connection_is_used_again() -> None:
    server = Bytes(OK, OK, OK)
    async with asking(server) as (client, url):
        for _ in range(3):
            response = await client.post(url, json={"a": "ü"})
            assert (response.status_code, response.text, response.headers["x-y"]) == (200, "ok", "z")
    assert server.connections == 1
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/x?a=b HTTP/1.1\r\n")
    assert body == '{"a":"ü"}'.encode()


async def test_requests_at_once_have_connections_of_their_own() -> None:
    server = Bytes(*[OK] * 20)
    async with asking(server) as (client, url), anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(client.get, url)
    assert (len(server.requests), server.connections) == (20, 20)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nwhi\r\n2;x=y\r\nch\r\n0\r\nTrailer: t\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nwhich",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhich",
        b"HTTP/1.1 200\r\nContent-Length:5\r\nConnection: close\r\n\r\nwhich",
    ],
    ids=["chunks", "end of connection", "100 first", "close"],
)
async def test_bodies_end_in_the_ways_that_servers_end_them(answer: bytes) -> None:
    async with asking(Bytes(answer, answer)) as (client, url):
        for _ in range(2):
            assert (await client.get(url)).text == "which"


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nonly this",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000,
    ],
    ids=["nothing", "half", "no http", "no size", "too long", "endless head"],
)
async def test_what_is_no_response_is_the_librarys_error(answer: bytes | None) -> None:
    if answer is not None and answer.startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n"):
        server = Bytes(answer.replace(b"content-length", b"Content-Length"))  # then the server closes after it
    else:
        server = Bytes(answer)
    async with asking(server) as (client, url):
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get(url)


async def test_a_refused_connection_and_a_slow_reply_are_the_librarys_errors() -> None:
    async with httpx2.AsyncClient(transport=PlainTransport(), trust_env=False) as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get("http://127.0.0.1:9/")
    async with asking(Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"), seconds=0.01) as (client, url):
        with pytest.raises(httpx2.ReadTimeout):
            await client.get(url)


async def test_an_old_server_closes_after_each_reply_unless_it_says_otherwise() -> None:
    server = Bytes(*[OK.replace(b"1.1", b"1.0")] * 3)
    async with asking(server) as (client, url):
        for _ in range(3):
            assert (await client.get(url)).text == "ok"
    assert server.connections == 3


async def test_an_idle_connection_that_the_server_closed_is_not_used() -> None:
    server = Bytes(OK, b"HTTP/1.1 200 OK\r\n\r\nbye", OK)
    async with asking(server) as (client, url):
        assert [(await client.get(url)).text for _ in range(3)] == ["ok", "bye", "ok"]
    assert server.connections == 2

"""The sender against a server on loopback that writes the bytes it is told to."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from rlm_mcp.models.exchange import HTTPResponse, NoResponse
from rlm_mcp.models.sender import Sender
from rlm_mcp.redact import Secret

pytestmark = pytest.mark.anyio


class Bytes:
    """Answers each request with the next entry, once `at_once` have come; None closes the connection instead."""

    def __init__(self, *answers: bytes | None, at_once: int = 1) -> None:
        self.answers = list(answers)
        self.at_once = at_once
        self.all_came = asyncio.Event()
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
                if len(self.requests) >= self.at_once:
                    self.all_came.set()
                await self.all_came.wait()
                answer = self.answers.pop(0)
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
                if b"content-length" not in answer and b"chunked" not in answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def asking(
    server: Bytes, *, path: str = "/v1", key: str = "sk-key", reply_seconds: float = 5.0, late_seconds: float = 5.0
) -> AsyncIterator[Sender]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}{path}"
    sender = Sender(url, Secret(key), late_seconds=late_seconds, reply_seconds=reply_seconds)
    with anyio.fail_after(60):
        yield sender
    await sender.aclose()
    listening.close()


async def send_once(base_url: str) -> HTTPResponse | NoResponse:
    sender = Sender(base_url, Secret(""))
    with anyio.fail_after(60):
        answer = await sender.send("/models", None)
    await sender.aclose()
    return answer


async def text(sender: Sender) -> str:
    answer = await sender.send("/models", None)
    assert isinstance(answer, HTTPResponse)
    return answer.text


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nRetry-After: 7\r\n\r\nok"


async def test_a_connection_is_used_again() -> None:
    server = Bytes(OK, OK, OK)
    async with asking(server) as sender:
        for _ in range(3):
            assert await sender.send("/x?a=b", {"a": "ü\ud800"}) == HTTPResponse(status=200, text="ok", retry_after=7.0)
    assert server.connections == 1
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/x?a=b HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nauthorization: Bearer sk-key\r\n" in head
    assert body == '{"a":"ü?"}'.encode()


async def test_without_a_key_nothing_names_the_user_or_this_machine() -> None:
    server = Bytes(OK)
    async with asking(server, key="") as sender:
        await sender.send("/x", {})
    head = server.requests[0].lower()
    assert [name for name in (b"authorization", b"openai-", b"x-stainless") if name in head] == []


@pytest.mark.parametrize(
    ("key", "header"), [("0a1b2c", b"api-key: 0a1b2c"), ("eyJ0eX.e30.sig", b"authorization: Bearer eyJ0eX.e30.sig")]
)
async def test_an_azure_deployment_is_asked_with_its_version_and_its_kind_of_key(key: str, header: bytes) -> None:
    server = Bytes(OK)
    async with asking(server, path="/openai/deployments/m?api-version=2024-10-21", key=key) as sender:
        await sender.send("/chat/completions", {})
    head = server.requests[0]
    assert head.startswith(b"POST /openai/deployments/m/chat/completions?api-version=2024-10-21 HTTP/1.1")
    lines = head.lower().split(b"\r\n")
    assert [line for line in lines if line.startswith((b"api-key", b"authorization"))] == [header.lower()]


async def test_requests_at_once_have_connections_of_their_own() -> None:
    server = Bytes(*[OK] * 20, at_once=20)
    async with asking(server) as sender, anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(sender.send, "/models", None)
    assert (len(server.requests), server.connections) == (20, 20)


WHICH = {
    "chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nwhi\r\n2;x=y\r\nch\r\n0\r\nTrail: t\r\n\r\n",
    "end of connection": b"HTTP/1.0 200 OK\r\n\r\nwhich",
    "100 first": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhich",
    "close": b"HTTP/1.1 200\r\nContent-Length:5\r\nConnection: close\r\n\r\nwhich",
}


@pytest.mark.parametrize("answer", WHICH.values(), ids=list(WHICH))
async def test_bodies_are_read_however_the_server_marks_their_end(answer: bytes) -> None:
    async with asking(Bytes(answer, answer)) as sender:
        for _ in range(2):
            assert await text(sender) == "which"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "Server disconnected"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nonly this", "received 9 of 99 bytes"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP: Bad status line"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "not HTTP: Invalid character in chunk size"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1" * 10_000, "not HTTP: Chunk size overflow"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", "a body of more than 67108864 bytes"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "not HTTP: Invalid character in Content-Length"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, "not HTTP: Got more than 8190 bytes"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + bytes((64 << 20) + 1), "a body of more than 67108864 bytes"),
        (b"HTTP/1.0 500 No\r\n\r\n" + bytes((64 << 20) + 1), "a body of more than 67108864 bytes"),
    ],
    ids=[
        "nothing",
        "half",
        "no http",
        "no size",
        "endless line",
        "too long",
        "negative",
        "endless head",
        "endless",
        "error",
    ],
)
async def test_bytes_that_are_no_response_are_a_broken_exchange(answer: bytes | None, why: str) -> None:
    server = Bytes(answer)
    async with asking(server) as sender:
        told = await sender.send("/models", {})
    assert isinstance(told, NoResponse)
    assert (told.kind, told.sent, why in told.why) == ("broken", True, True), told.why
    assert len(server.requests) == 1


def gzipped(text: bytes, header: bytes = b"gzip", *, times: int = 1) -> bytes:
    """A reply that unpacks to `times` times the text. All copies but the first are packed alike."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    first, again = [pack.compress(text) + pack.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    body = first + again * (times - 1) if times > 1 else gzip.compress(text)
    return b"HTTP/1.1 200 OK\r\ncontent-encoding: %s\r\ncontent-length: %d\r\n\r\n%s" % (header, len(body), body)


async def test_a_packed_body_is_unpacked() -> None:
    async with asking(Bytes(gzipped(b"which"))) as sender:
        assert await text(sender) == "which"


PACKED_TWICE = gzipped(zlib.compress(bytes(1 << 20)), header=b"deflate, gzip")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (gzipped(bytes(1 << 20), times=512), "a body of more than 67108864 bytes"),
        (b"HTTP/1.0 200 OK\r\ncontent-encoding: gzip\r\n\r\n" + gzip.compress(b"which")[:-9], "breaks off"),
        (OK.replace(b"Retry-After: 7", b"content-encoding: gzip"), "not gzip as its header says"),
        (OK.replace(b"Retry-After: 7", b"content-encoding: br"), "a body packed as 'br', though only gzip"),
        (PACKED_TWICE, "a body packed as 'deflate, gzip', though only gzip"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n", ""),
    ],
    ids=["bomb", "half", "no gzip", "brotli", "twice", "5,000 digits"],
)
async def test_a_packed_body_is_bounded_as_it_is_unpacked(answer: bytes, why: str) -> None:
    tracemalloc.start()
    async with asking(Bytes(answer)) as sender:
        told = await sender.send("/models", {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(told, NoResponse)
    assert (told.kind, why in told.why) == ("broken", True), told.why
    assert peak < 4 * (64 << 20)


async def test_a_refused_connection_is_unreachable_and_a_slow_reply_is_a_timeout() -> None:
    refused = await send_once("http://127.0.0.1:9/v1")
    assert refused == NoResponse(kind="unreachable", why="Connection refused", sent=False)
    async with asking(Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"), reply_seconds=0.01) as sender:
        slow = await sender.send("/models", None)
    assert slow == NoResponse(kind="timeout", why="0.01 s have passed", sent=True)


async def test_a_host_without_an_address_and_a_server_without_tls_are_unreachable() -> None:
    unknown = await send_once("http://no-such-host.invalid/v1")
    assert isinstance(unknown, NoResponse)
    assert (unknown.kind, unknown.sent) == ("unreachable", False), unknown.why

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(greet, "127.0.0.1", 0)
    plain = await send_once(f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1")
    listening.close()
    assert isinstance(plain, NoResponse)
    assert (plain.kind, plain.sent, "SSL" in plain.why) == ("unreachable", False, True), plain.why


async def test_a_redirect_is_reported_and_not_followed() -> None:
    elsewhere = Bytes(OK)
    async with asking(elsewhere) as other:
        redirect = f"HTTP/1.1 307 Away\r\nlocation: {other.base_url}/x\r\ncontent-length: 0\r\n\r\n".encode()
        async with asking(Bytes(redirect)) as sender:
            answer = await sender.send("/x", {"secret": "of a context"})
        assert answer == HTTPResponse(status=307, text="", location=f"{other.base_url}/x")
    assert elsewhere.requests == []


async def test_an_old_server_closes_after_each_reply_unless_it_says_otherwise() -> None:
    server = Bytes(*[OK.replace(b"1.1", b"1.0")] * 3)
    async with asking(server) as sender:
        for _ in range(3):
            assert await text(sender) == "ok"
    assert server.connections == 3


async def test_an_idle_connection_that_the_server_closed_is_not_used() -> None:
    server = Bytes(OK, b"HTTP/1.1 200 OK\r\n\r\nbye", OK)
    async with asking(server) as sender:
        assert [await text(sender) for _ in range(3)] == ["ok", "bye", "ok"]
    assert server.connections == 2


async def test_a_reply_that_is_followed_by_more_ends_its_connection() -> None:
    server = Bytes(OK + OK, OK)
    async with asking(server) as sender:
        assert [await text(sender) for _ in range(2)] == ["ok", "ok"]
    assert server.connections == 2


class Slow:
    """Sends `first` at once and a whole response when told to."""

    def __init__(self, first: bytes = b"") -> None:
        self.first = first
        self.asked, self.go, self.closed = anyio.Event(), anyio.Event(), anyio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self.first)
        self.asked.set()
        await self.go.wait()
        writer.write(OK)
        await reader.read()
        self.closed.set()
        writer.close()


@asynccontextmanager
async def cancelling(server: Slow, late_seconds: float) -> AsyncIterator[list[HTTPResponse | NoResponse]]:
    """Cancels one request after the server has read it; the list holds what `send` returned, if anything."""
    results: list[HTTPResponse | NoResponse] = []
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    sender = Sender(url, Secret(""), late_seconds=late_seconds)

    async def ask() -> None:
        results.append(await sender.send("/models", None))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await server.asked.wait()
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
            server.go.set() if late_seconds else None
        yield results
        await sender.aclose()
        server.go.set()
        await server.closed.wait()
    listening.close()


async def test_a_reply_in_transit_is_returned_after_a_cancellation() -> None:
    async with cancelling(Slow(), late_seconds=5.0) as results:
        assert results == [HTTPResponse(status=200, text="ok", retry_after=7.0)]


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"], ids=["nothing", "half"])
async def test_a_cancelled_request_without_a_whole_reply_closes_its_connection(first: bytes) -> None:
    server = Slow(first)
    async with cancelling(server, late_seconds=0.0) as results:
        assert results == []
        server.go.set()
        await server.closed.wait()

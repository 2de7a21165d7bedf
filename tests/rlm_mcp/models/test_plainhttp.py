"""The small HTTP client against a server that writes the bytes it is told to, and its reader without a server."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_mcp.models.exchange import Answer, NoAnswer
from rlm_mcp.models.plainhttp import NotHTTP, PlainSender, ResponseReader
from rlm_mcp.redact import Secret

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
async def asking(server: Bytes, *, most_seconds: float = 5.0, late_seconds: float = 5.0) -> AsyncIterator[PlainSender]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    sender = PlainSender(url, Secret("sk-key"), late_seconds=late_seconds, most_seconds=most_seconds)
    with anyio.fail_after(10):
        yield sender
    await sender.aclose()
    listening.close()


async def text(sender: PlainSender) -> str:
    answer = await sender.send("/models", None)
    assert isinstance(answer, Answer)
    return answer.text


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nRetry-After: 7\r\n\r\nok"


async def test_a_connection_is_used_again() -> None:
    server = Bytes(OK, OK, OK)
    async with asking(server) as sender:
        for _ in range(3):
            assert await sender.send("/x?a=b", {"a": "ü\ud800"}) == Answer(status=200, text="ok", retry_after=7.0)
    assert server.connections == 1
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/x?a=b HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nauthorization: Bearer sk-key\r\n" in head
    assert body == '{"a":"ü?"}'.encode()


async def test_requests_at_once_have_connections_of_their_own() -> None:
    server = Bytes(*[OK] * 20)
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
async def test_bodies_end_in_the_ways_that_servers_end_them(answer: bytes) -> None:
    async with asking(Bytes(answer, answer)) as sender:
        for _ in range(2):
            assert await text(sender) == "which"


@given(answer=st.sampled_from(list(WHICH.values())), cuts=st.lists(st.integers(1, 80), max_size=8))
def test_a_response_is_the_same_however_its_bytes_arrive(answer: bytes, cuts: list[int]) -> None:
    reader, response = ResponseReader(), None
    edges = [0, *sorted(set(cuts)), len(answer)]
    for start, end in itertools.pairwise(edges):
        response = response or reader.receive(answer[start:end])
    assert (response or reader.end()).body == b"which"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "closed the connection without a whole reply"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nonly this", "without a whole reply"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP/1: b'SSH-2.0-OpenSSH'"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "a length of 'zz'"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1" * 10_000, "a line of more than 8192 bytes"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", "a body of 99999999999 bytes"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "a body of -1 bytes"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, "headers of more than 65536 bytes"),
    ],
    ids=["nothing", "half", "no http", "no size", "endless line", "too long", "negative", "endless head"],
)
async def test_what_is_no_response_is_no_answer(answer: bytes | None, why: str) -> None:
    async with asking(Bytes(answer)) as sender:
        told = await sender.send("/models", None)
    assert isinstance(told, NoAnswer)
    assert (told.kind, told.sent, why in told.why) == ("broken", True, True), told.why


async def test_a_refused_connection_and_a_slow_reply_are_told_apart() -> None:
    refused = await PlainSender("http://127.0.0.1:9/v1", Secret("")).send("/models", None)
    assert refused == NoAnswer(kind="unreachable", why="Connection refused", sent=False)
    async with asking(Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"), most_seconds=0.01) as sender:
        slow = await sender.send("/models", None)
    assert isinstance(slow, NoAnswer)
    assert (slow.kind, slow.sent) == ("timeout", True)


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


async def test_a_body_that_grows_over_the_limit_is_refused() -> None:
    reader = ResponseReader()
    reader.receive(b"HTTP/1.0 200 OK\r\n\r\n")
    with pytest.raises(NotHTTP, match="a body of 67108865 bytes"):
        reader.receive(bytes((64 << 20) + 1))


class Slow:
    """Answers when told to."""

    def __init__(self) -> None:
        self.asked, self.go, self.closed = anyio.Event(), anyio.Event(), anyio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked.set()
        await self.go.wait()
        writer.write(OK)
        await reader.read()
        self.closed.set()
        writer.close()


@asynccontextmanager
async def cancelling(server: Slow, late_seconds: float) -> AsyncIterator[list[Answer | NoAnswer]]:
    """One request, cancelled when the server has it; what came of it."""
    results: list[Answer | NoAnswer] = []
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    sender = PlainSender(url, Secret(""), late_seconds=late_seconds)

    async def ask() -> None:
        results.append(await sender.send("/models", None))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await server.asked.wait()
            group.cancel_scope.cancel()
            server.go.set() if late_seconds else None
        yield results
        await sender.aclose()
        server.go.set()
        await server.closed.wait()
    listening.close()


async def test_a_reply_on_its_way_is_taken_in_after_a_cancellation() -> None:
    async with cancelling(Slow(), late_seconds=5.0) as results:
        assert results == [Answer(status=200, text="ok", retry_after=7.0)]


async def test_a_cancelled_request_without_a_reply_closes_its_connection() -> None:
    async with cancelling(Slow(), late_seconds=0.0) as results:
        assert results == []

"""Slow connections, and more connections than allowed."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest
import uvicorn
from anyio.abc import SocketStream
from starlette.types import Receive, Scope, Send

from rlm_mcp.server.transports.http_protocol import TimedProtocol

pytestmark = pytest.mark.anyio

ASKING = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SENDING = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Waits for the body and answers "done"."""
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        continue
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"done"})


class Impatient(TimedProtocol):
    head_seconds, body_seconds = 0.1, 0.1


@asynccontextmanager
async def listening(protocol: type[TimedProtocol], most: int | None = 100) -> AsyncIterator[int]:
    """A server of `echo`; its port."""
    config = uvicorn.Config(echo, port=0, log_config=None, http=protocol, limit_concurrency=most, lifespan="off")
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        await server.shutdown()


async def connected(port: int, said: bytes = b"") -> SocketStream:
    stream = await anyio.connect_tcp("127.0.0.1", port)
    if said:
        await stream.send(said)
    return stream


async def answered(stream: SocketStream) -> bytes:
    with anyio.fail_after(60):
        return await stream.receive()


async def is_closed(stream: SocketStream) -> bool:
    """Waits for the end of the connection, whatever comes before it."""
    with anyio.fail_after(60):
        try:
            while True:
                await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True


@pytest.mark.parametrize("said", [b"", b"GET / HT", SENDING, ASKING + b"GET /"])
async def test_a_request_that_does_not_become_whole_in_time_ends_the_connection(said: bytes) -> None:
    async with listening(Impatient) as port, await connected(port, said) as stream:
        assert await is_closed(stream)


async def test_bytes_that_come_one_by_one_do_not_make_the_time_longer() -> None:
    async with listening(Impatient) as port, await connected(port, b"GET / HTTP/1.1\r\n") as stream:
        with anyio.fail_after(60):
            try:
                while True:
                    await stream.send(b"X")
                    await anyio.sleep(0.01)
            except anyio.BrokenResourceError:
                pass


async def test_a_silent_connection_makes_room_and_one_that_never_asked_goes_first() -> None:
    async with (
        listening(TimedProtocol, most=3) as port,
        await connected(port, ASKING) as first,
        await connected(port, ASKING) as second,
    ):
        assert b"done" in await answered(first)
        assert b"done" in await answered(second)
        async with await connected(port) as mute, await connected(port, ASKING) as new:
            assert b"done" in await answered(new)
            assert await is_closed(mute)
            async with await connected(port, ASKING) as newer:
                assert b"done" in await answered(newer)
                assert await is_closed(first)
                await second.send(ASKING)
                assert b"done" in await answered(second)


async def test_when_all_are_at_work_a_new_one_is_told_when_to_come_back() -> None:
    async with (
        listening(TimedProtocol, most=2) as port,
        await connected(port, SENDING) as first,
        await connected(port, SENDING) as second,
    ):
        await anyio.wait_all_tasks_blocked()
        async with await connected(port, ASKING) as third:
            refusal = await answered(third)
            assert refusal.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: 2\r\n" in refusal
            assert await is_closed(third)
        for working in (first, second):
            await working.send(b"456789")
            assert b"done" in await answered(working)


async def test_without_a_limit_a_new_connection_is_answered_while_all_others_are_at_work() -> None:
    async with listening(TimedProtocol, most=None) as port, AsyncExitStack() as working:
        for _ in range(5):
            await working.enter_async_context(await connected(port, SENDING))
        await anyio.wait_all_tasks_blocked()
        async with await connected(port, ASKING) as new:
            assert b"done" in await answered(new)

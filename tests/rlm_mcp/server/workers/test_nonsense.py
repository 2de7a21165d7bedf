"""A worker that answers nonsense, over a real socket: it has failed, and its clients are told so in a sentence."""

import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import anyio.to_thread
import pytest
from anyio.abc import SocketStream
from multidict import CIMultiDict

from rlm_mcp.server.workers.worker import MOST_STATUS_BYTES, SOCKET, WorkerFailed, WorkerProcess

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="workers listen on unix sockets"),
]


@asynccontextmanager
async def worker_that_says(said: list[bytes]) -> AsyncIterator[WorkerProcess]:
    """A worker whose socket answers each request with the last of these bytes, and closes the connection."""

    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(said[-1])

    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=[600], daemon=True)
    process.start()
    receiving, lifeline = multiprocessing.Pipe()
    with receiving, tempfile.TemporaryDirectory() as short:
        directory = Path(short) / "worker"
        await anyio.to_thread.run_sync(directory.mkdir)
        async with (
            await anyio.create_unix_listener(directory / SOCKET) as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, answer)
            worker = WorkerProcess(process, lifeline, directory)
            try:
                yield worker
            finally:
                await worker.close()
                tasks.cancel_scope.cancel()


def ok(body: bytes, *, length: int | None = None) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


NONSENSE = {
    "not HTTP": b"hello\r\n\r\n",
    "nothing": b"",
    "not JSON": ok(b"\xff\xfe"),
    "another value": ok(b"[]"),
    "another type": ok(b'{"is_ready": 1, "tenants": []}'),
    "names that are none": ok(b'{"is_ready": true, "tenants": [1]}'),
    "very deep": ok(b"[" * 200_000),
    "shorter than it says": ok(b"{}", length=1_000),
    "longer than any status": ok(b" " * (MOST_STATUS_BYTES + 1)),
    "a header without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
}


async def test_whatever_else_a_worker_says_about_itself_it_has_failed() -> None:
    said: list[bytes] = []
    failures: dict[str, str] = {}
    with anyio.fail_after(60):
        async with worker_that_says(said) as worker:
            for name, answer in NONSENSE.items():
                said.append(answer)
                with pytest.raises(WorkerFailed) as failed:
                    await worker.status()
                failures[name] = str(failed.value)
    assert {name for name, text in failures.items() if not text.startswith("answers with ")} == set()
    assert failures["another value"] == "answers with 2 bytes that are no status"


async def test_an_answer_that_is_no_http_is_an_error_that_the_client_is_told() -> None:
    with anyio.fail_after(60):
        said: list[bytes] = []
        async with worker_that_says(said) as worker:
            for answer in (NONSENSE["not HTTP"], NONSENSE["nothing"]):
                said.append(answer)
                with pytest.raises(aiohttp.ClientError) as caught:
                    await worker.request("POST", "/mcp", CIMultiDict(), b"{}")
                assert not isinstance(caught.value, aiohttp.ClientConnectorError)  # it would be sent to the next one

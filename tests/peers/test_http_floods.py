"""A server process over HTTP under floods of connections, requests and bodies, which serves other clients meanwhile."""

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
from anyio.abc import SocketStream
from mcp import Client, MCPError

from rlm_mcp.server.transports.token_file import digest_of
from rlm_mcp.workspace.tenant_limits import BURST
from tests.peers.forking import forked_command
from tests.peers.places import COMMAND, at, environment, http_process, listening

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="descriptors are not limited there"),
]

ANN, BOB = "token-of-ann", "token-of-bob"
PLACES = 64
FEW_DESCRIPTORS = ("/bin/sh", "-c", f'ulimit -n {4 * PLACES}; exec "$@"', "sh")
"""Starts a command with few file descriptors, a quarter of which are for connections."""


@contextmanager
def serving(
    tmp_path: Path, cache: Path, *, tokens: bool = True, command: Sequence[str] = ()
) -> Iterator[tuple[int, str]]:
    """A server process: its id and its URL."""
    token_file = tmp_path / "tokens"
    token_file.write_text(f"ann {digest_of(ANN)}\nbob {digest_of(BOB)}\n")
    options = ("--token-file", str(token_file)) if tokens else ()
    environ, started = environment(tmp_path, cache, "http://127.0.0.1:9"), command or forked_command()
    with http_process(environ, *options, command=(*FEW_DESCRIPTORS, *started)) as (process, url):
        yield process.pid, url
        process.terminate()
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0
        assert b'"level": "ERROR"' not in log, log.decode()


@asynccontextmanager
async def crowd(url: str, number: int, said: bytes) -> AsyncIterator[list[SocketStream]]:
    """`number` connections that have sent `said`."""
    port = int(url.rpartition(":")[2])
    streams = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(number)]
    try:
        for stream in streams:
            await send(stream, said)
        yield streams
    finally:
        for stream in streams:
            await anyio.aclose_forcefully(stream)


async def send(stream: SocketStream, said: bytes) -> None:
    try:
        await stream.send(said)
    except anyio.BrokenResourceError:  # it has made room already
        return


def post(token: str, length: int) -> bytes:
    lines = [
        "POST /mcp HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {token}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"Content-Length: {length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(
    "said", [b"", b"GET /health HTTP/1.1\r\nHo", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", post("wrong", 100)]
)
async def test_more_connections_than_places_keep_nobody_out(said: bytes, tmp_path: Path, compiled_cache: Path) -> None:
    """Silent connections, half a head, idle ones, and bodies without a valid token that never come."""
    with serving(tmp_path, compiled_cache) as (_, url), anyio.fail_after(60):
        await listening(url)
        async with crowd(url, PLACES * 3, said):
            await listening(url)  # which comes after the crowd, so that all of it has been let in
            async with at(url, "auto", BOB) as bob:
                assert len((await bob.list_tools()).tools) == 7


async def test_when_every_place_is_at_work_the_answer_is_503_until_one_is_free(
    tmp_path: Path, compiled_cache: Path
) -> None:
    with serving(tmp_path, compiled_cache, tokens=False) as (_, url), anyio.fail_after(60):
        await listening(url)
        async with crowd(url, PLACES, post("none", 100) + b"{"):
            async with httpx2.AsyncClient(timeout=60) as http:
                while (answer := await http.get(f"{url}/health")).status_code == 200:
                    continue  # some of them have not been read yet
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        await listening_again(url)


async def listening_again(url: str) -> None:
    async with httpx2.AsyncClient(timeout=60) as http:
        while (await http.get(f"{url}/health")).status_code != 200:
            continue


async def test_a_flood_of_requests_of_one_token_is_429_and_another_is_served(
    tmp_path: Path, compiled_cache: Path
) -> None:
    with serving(tmp_path, compiled_cache) as (_, url), anyio.fail_after(60):
        await listening(url)
        async with at(url, "auto", BOB) as bob, at(url, "auto", ANN) as ann:
            refusal = await refused(ann)
            assert refusal.error.message == "more than 20 requests a second: wait a second"
            headers = {"Authorization": f"Bearer {ANN}"}
            async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
                while (answer := await http.post(f"{url}/mcp", content=b"{}")).status_code != 429:
                    continue
            assert int(answer.headers["retry-after"]) == 1
            assert answer.json()["error"]["message"] == refusal.error.message
            assert len((await bob.list_tools(cache_mode="bypass")).tools) == 7


async def refused(client: Client) -> MCPError:
    """Sends requests until one is refused."""
    for _ in range(int(BURST) * 10):
        try:
            await client.list_tools(cache_mode="bypass")
        except MCPError as error:
            return error
    raise AssertionError("no request was refused")


async def test_bodies_that_do_not_end_are_bounded_in_size_and_number(tmp_path: Path, compiled_cache: Path) -> None:
    """Each body is below the limit and stops one byte before its end."""
    with serving(tmp_path, compiled_cache, command=COMMAND) as (pid, url), anyio.fail_after(60):
        await listening(url)
        async with at(url, "auto", BOB) as bob:
            before = resident_bytes(pid)
            size = 4_000_000
            async with crowd(url, PLACES - 10, post(ANN, size) + b"x" * (size - 1)):
                assert len((await bob.list_tools(cache_mode="bypass")).tools) == 7
                assert resident_bytes(pid) - before < PLACES * 5_000_000
            async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {ANN}"}) as http:
                answer = await http.post(f"{url}/mcp", content=endless())
            assert answer.status_code == 413
            assert resident_bytes(pid) - before < PLACES * 5_000_000


async def endless() -> AsyncIterator[bytes]:
    """A body without a length."""
    for _ in range(100):
        yield b"x" * 1_000_000


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) << 10

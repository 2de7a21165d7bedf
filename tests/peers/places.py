"""The same server in three places: in this process, as a process on stdio, as a process over HTTP.

A place is opened once and gives clients in either protocol era. The model is the scripted endpoint, everything else is
real.
"""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from rlm_mcp.server.server import build_server
from rlm_mcp.settings import load_settings
from rlm_mcp.workspace.workspace import open_workspace
from tests.peers.forking import forked_command

NewClient = Callable[..., AbstractAsyncContextManager[Client]]
"""takes the era ("auto" or "legacy") and what `Client` takes"""

TRANSPORTS = ("memory", "stdio", "http")
COMMAND = (sys.executable, "-m", "rlm_mcp.cli")
"""for tests of what a start or the whole process does; the others fork, see forking.py"""


def environment(directory: Path, cache: Path, base_url: str, **more: str) -> dict[str, str]:
    """Environment of a server whose home is `directory` and whose model is the scripted endpoint."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "RLM_MCP_DATA_DIR": str(directory / "data"),
        "RLM_MCP_CACHE_DIR": str(cache),
        "RLM_MCP_ROOTS": str(directory),
        "RLM_MCP_BASE_URL": base_url,
        "RLM_MCP_MODEL": "scripted",
        **more,
    }


@asynccontextmanager
async def opened(transport: str, environ: Mapping[str, str]) -> AsyncIterator[NewClient]:
    """A place with this environment."""
    match transport:
        case "memory":
            async with in_memory(environ) as new_client:
                yield new_client
        case "stdio":
            yield lambda era, **options: on_stdio(environ, era, **options)
        case _:
            with over_http(environ, workers=2) as url:
                await listening(url)
                yield lambda era, **options: at(url, era, **options)


@asynccontextmanager
async def in_memory(environ: Mapping[str, str]) -> AsyncIterator[NewClient]:
    """The server in this process and event loop."""
    async with open_workspace(load_settings(environ=environ), serves=True) as workspace:
        server = build_server(workspace)
        yield lambda era, **options: Client(server, mode=era, **options)


def on_stdio(environ: Mapping[str, str], era: str, **options: Any) -> Client:
    """A client with a server process of its own."""
    command, *arguments = forked_command()
    return Client(StdioServerParameters(command=command, args=arguments, env=dict(environ)), mode=era, **options)


@contextmanager
def over_http(environ: Mapping[str, str], *options: str, workers: int = 0) -> Iterator[str]:
    """A server process that listens; its URL. It ends cleanly on SIGTERM."""
    with http_process(environ, *options, workers=workers) as (process, url):
        yield url
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 0


@contextmanager
def http_process(
    environ: Mapping[str, str], *options: str, command: Sequence[str] = (), workers: int = 0
) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """A server process and its URL, at a port that the system chooses; killed if it still runs at the end."""
    serve = ["serve", "--http", "127.0.0.1:0", "--workers", str(workers), *options]
    started = [*(command or forked_command()), *serve]
    with subprocess.Popen(started, env=dict(environ), stderr=subprocess.PIPE) as process:  # noqa: S603 - our own command
        try:
            yield process, served_url(process)
        finally:
            if process.poll() is None:
                process.kill()


class ServerEnded(AssertionError):
    """A server ended before it listened; the text is what it logged."""


def served_url(process: "subprocess.Popen[bytes]") -> str:
    """The URL that a server over HTTP logs once it listens."""
    assert process.stderr is not None
    found, said = None, ""
    while found is None and (line := process.stderr.readline().decode()):
        said += line
        found = re.search(r"serving MCP on (http://[0-9.]+:[0-9]+)/mcp", line)
    if found is None:
        raise ServerEnded(said)
    return found[1]


async def listening(url: str) -> None:
    """Waits until the server answers."""
    with anyio.fail_after(60):
        async with httpx2.AsyncClient(timeout=60) as http:  # descriptors that are used up stop the socket for seconds
            while True:
                try:
                    answer = await http.get(f"{url}/health")
                except httpx2.ConnectError:
                    continue
                assert answer.json() == {"status": "ok"}
                return


@asynccontextmanager
async def at(url: str, era: str, token: str | None = None, **options: Any) -> AsyncIterator[Client]:
    """A client of a server that listens."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=era, **options) as client,
    ):
        yield client


def connections_to(url: str, *, otherwise: int) -> int:
    """The connections that a server has accepted; `otherwise` where the system does not list them in /proc."""
    table = Path("/proc/net/tcp")
    port = f":{int(url.rpartition(':')[2]):04X}"
    rows = [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []
    return sum(row[1].endswith(port) and row[3] == "01" for row in rows) if rows else otherwise


def processes_about(path: Path) -> list[str]:
    """Commands of the processes that have a path in their environment or arguments; none where there is no /proc."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + b"\0" + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(path).encode() in told and int(process.name) != os.getpid():
            found.append(told.decode(errors="replace"))
    return found


def endless_repository(directory: Path) -> str:
    """A repository in which `git ls-files` never ends: its .gitignore is a FIFO without a writer."""
    if not Path("/proc").is_dir():
        pytest.skip("whether git runs is seen in /proc")
    repository = directory / "repository"
    subprocess.run(["git", "init", str(repository)], check=True, capture_output=True)  # noqa: S603, S607 - git, in a directory of the test
    os.mkfifo(repository / ".gitignore")
    return str(repository)

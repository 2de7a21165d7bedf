"""A worker process as the front sees it: started from a fork server, asked over its socket, and ended."""

import asyncio
import json
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from multidict import CIMultiDict

from rlm_mcp.errors import RlmError
from rlm_mcp.repl.process_shares import memory_share
from rlm_mcp.server.early_answers import Prepared
from rlm_mcp.server.prepared_answers import code_fingerprint, find_prepared, places
from rlm_mcp.server.workers.egress import EgressBroker, egress_pair
from rlm_mcp.server.workers.fork_server import fork_context
from rlm_mcp.server.workers.memory import memory_of, most_memory
from rlm_mcp.server.workers.worker_entry import prepare_lists, run
from rlm_mcp.server.workers.worker_start import WorkerEnds, WorkerStart

MOST_STATUS_BYTES = 4 << 20
"""A status names the open workspaces of a worker, each in 64 characters at most."""

SOCKET = "socket"
BACKLOG = 1_000


class WorkerFailed(RlmError):
    """A worker has ended, or answers what no worker answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """The status that a worker reports: whether code can be run in it, and whose workspaces are open."""

    is_ready: bool
    tenants: frozenset[str]


class Worker(Protocol):
    """A worker that was started."""

    @property
    def pid(self) -> int:
        """Its process."""

    async def status(self) -> WorkerStatus:
        """Asks it. Raises WorkerFailed; waits as long as the worker takes."""

    async def request(self, method: str, path: str, headers: "CIMultiDict[str]", body: bytes) -> aiohttp.ClientResponse:
        """Sends a request; the answer's body is still to be read.

        Raises aiohttp.ClientConnectorError if the worker did not get it, and aiohttp.ClientError if it may have.
        """

    async def ended(self) -> str:
        """Returns when the process has ended; how, for a sentence."""

    def terminate(self) -> None:
        """Asks it to end: runs are left on record and calls answered."""

    async def close(self) -> None:
        """Kills the process if it still runs, and waits until it has ended, so that nothing of it can act any more."""


StartWorker = Callable[[int, tuple[str, ...], tuple[str, ...]], Awaitable[Worker]]
"""takes the number of a worker, the tenants whose left runs it resumes, and the runs and calls that were given up"""


class WorkerProcesses:
    """Starts workers as processes that are forked from one that has imported the server."""

    def __init__(self, start: WorkerStart, directory: Path, broker: EgressBroker, tasks: TaskGroup) -> None:
        """`directory` is one that only this user can enter; `start` is what all workers are told.

        `broker` serves each worker in one of the `tasks`.
        """
        self._start = start
        self._directory = directory
        self._broker = broker
        self._tasks = tasks
        self._context = fork_context()
        self._started = 0

    def __repr__(self) -> str:
        return f"<WorkerProcesses, {self._started} started>"

    async def __call__(self, number: int, tenants: tuple[str, ...], given_up: tuple[str, ...]) -> Worker:
        """Starts a worker. It listens already, so a request to it waits until it answers."""
        self._started += 1
        directory = self._directory / f"{number}-{self._started}"
        start = replace(self._start, number=number, tenants=tenants, given_up=given_up, temp_dir=directory / "tmp")
        pair = egress_pair()
        if pair is not None:
            self._tasks.start_soon(self._broker.serve, pair[0])
        process, lifeline = await anyio.to_thread.run_sync(_start_process, self._context, start, directory, pair)
        most = most_memory(memory_share(start.count))
        return WorkerProcess(process, lifeline, directory, most_memory_bytes=most)


def prepared_lists(cache_dir: Path) -> Callable[[], Prepared | None]:
    """The lookup of answers that need no worker. If none are prepared yet, a process begins to prepare them."""
    files, fingerprint = places(cache_dir), code_fingerprint()
    if find_prepared(files, fingerprint) is None:
        context: Any = fork_context()
        context.Process(target=prepare_lists, args=(cache_dir,), name="rlm-mcp lists", daemon=True).start()
    return partial(find_prepared, files, fingerprint)


def _start_process(
    context: Any, start: WorkerStart, directory: Path, pair: tuple[socket.socket, socket.socket] | None
) -> tuple[BaseProcess, Any]:
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as passed:
        egress = None if pair is None else passed.enter_context(pair[1])
        start.temp_dir.mkdir(parents=True, mode=0o700)
        listener.bind(str(directory / SOCKET))
        listener.listen(BACKLOG)
        ours, theirs = context.Pipe()
        process = context.Process(
            target=run,
            args=(start, WorkerEnds(listener=listener, lifeline=passed.enter_context(theirs), egress=egress)),
            name=f"rlm-mcp worker {start.number}",
            daemon=True,
        )
        process.start()
    return process, ours


class WorkerProcess:
    """A worker that is a process; made by WorkerProcesses."""

    def __init__(
        self, process: BaseProcess, lifeline: Any, directory: Path, *, most_memory_bytes: int | None = None
    ) -> None:
        self._process = process
        self._pid, self._exitcode = process.pid or 0, process.exitcode
        self._most_memory_bytes = most_memory_bytes
        self._lifeline = lifeline  # the worker ends when this is closed, so also when this process dies
        self._directory = directory
        self._ended = anyio.Event()
        asyncio.get_running_loop().add_reader(process.sentinel, self._note_end)
        # A connection for each request: on one that was kept, a request to a dead worker might have been read. Where it
        # breaks before the answer, aiohttp sends a GET or DELETE once more, which do nothing twice, and never a POST.
        self._http = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(directory / SOCKET), limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            max_line_size=1 << 16,
            max_field_size=1 << 16,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.pid}>"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._pid

    async def status(self) -> WorkerStatus:
        """Asks it. Raises WorkerFailed, also for too much memory; waits as long as the worker takes."""
        used, most = memory_of(self.pid), self._most_memory_bytes
        if most is not None and used > most:
            raise WorkerFailed(f"uses {used >> 20:,} MB of memory and may use {most >> 20:,}")
        try:
            async with await self.request("GET", "/status", CIMultiDict(), b"") as response:
                body = await _read_at_most(response, MOST_STATUS_BYTES)
                match json.loads(body):
                    case {"is_ready": bool() as is_ready, "tenants": [*names]} if all(type(n) is str for n in names):
                        return WorkerStatus(is_ready=is_ready, tenants=frozenset(names))
        except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
            raise WorkerFailed(f"answers with {type(error).__name__}") from error
        raise WorkerFailed(f"answers with {len(body):,} bytes that are no status")

    async def request(self, method: str, path: str, headers: "CIMultiDict[str]", body: bytes) -> aiohttp.ClientResponse:
        """Sends a request; the answer's body is still to be read.

        Raises aiohttp.ClientConnectorError if the worker did not get it, and aiohttp.ClientError if it may have.
        """
        if self._http.closed:
            raise aiohttp.ClientConnectionError("the worker has ended")
        return await self._http.request(
            method, f"http://worker{path}", headers=headers, data=body or None, allow_redirects=False
        )

    async def ended(self) -> str:
        """Returns when the process has ended; how, for a sentence."""
        await self._ended.wait()
        return _how(self._exitcode)

    def terminate(self) -> None:
        """Asks it to end: runs are left on record and calls answered."""
        if not self._ended.is_set():
            self._process.terminate()

    async def close(self) -> None:
        """Kills the process if it still runs, and waits until it has ended, so that nothing of it can act any more."""
        if not self._ended.is_set():
            self._process.kill()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()
            self._lifeline.close()
            await self._http.close()
            await anyio.to_thread.run_sync(partial(shutil.rmtree, self._directory, ignore_errors=True))

    def _note_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._process.join()
        self._exitcode = self._process.exitcode
        self._process.close()  # its descriptors; a session may refer to this object for long
        self._ended.set()


async def _read_at_most(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The beginning of a body. `read` returns what has arrived."""
    pieces, room = [], most
    while room > 0 and (piece := await response.content.read(room)):
        pieces.append(piece)
        room -= len(piece)
    return b"".join(pieces)


def _how(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        try:
            return f"was ended by {signal.Signals(-exitcode).name}"
        except ValueError:
            return f"was ended by signal {-exitcode}"
    return f"ended with status {exitcode}"

"""A cluster as processes of this machine: Postgres, an object store, a scripted model, servers and workers."""

import asyncio
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from mcp import Client

from benchmarks import CACHE_DIR
from benchmarks.sums import Sums
from rlm_mcp.cluster.addresses import parse_database
from rlm_mcp.cluster.database import Database
from rlm_mcp.redact import Secret
from tests.peers.cluster import (
    BUCKET,
    LOOPBACK,
    PostgresServer,
    object_store,
    object_store_variables,
    postgres_server,
    server_directory,
)
from tests.peers.forking import process_of
from tests.peers.networks import Networks, Node, networks
from tests.peers.openai_server import OpenAIServer, Request
from tests.peers.places import COMMAND, environment, http_process

SUMS = Sums(turns=5, batch=5, tag=re.compile(r"question \d+"))
LATENCY = 0.05


@dataclass(slots=True, kw_only=True)
class ClusterProcesses:
    """The parts of a cluster that run."""

    environ: dict[str, str]
    postgres: PostgresServer
    model: OpenAIServer
    directory: Path
    command: Sequence[str] = COMMAND
    """starts `rlm-mcp` for workers that are not on nodes"""
    urls: list[str] = field(default_factory=list)
    servers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    machines: Iterator[int] = field(default_factory=count)
    closing: ExitStack = field(default_factory=ExitStack)
    bucket_is_away: threading.Event = field(default_factory=threading.Event)
    networks: Networks | None = None
    nodes: dict[int, Node] = field(default_factory=dict)
    """by the process id of the worker that runs there, if there are networks"""

    @property
    def url(self) -> str:
        """The URL of the first server."""
        return self.urls[0]

    def new_machine(self) -> dict[str, str]:
        """The environment of a process that shares no data directory with any other."""
        return self.environ | {"RLM_MCP_DATA_DIR": str(self.directory / f"machine-{next(self.machines)}")}

    async def start_server(self, *options: str) -> str:
        """Starts one more server, which plays no runs; its URL."""
        serving = http_process(self.new_machine(), "--runs", "0", *options)
        process, url = await asyncio.to_thread(self.closing.enter_context, serving)
        self.closing.callback(process.terminate)
        self.servers.append(process)
        self.urls.append(url)
        return url

    def start_worker(self, processor: int | None = None) -> "subprocess.Popen[bytes]":
        """Starts one more worker, which appends what it logs to a file; on one processor, if it is named."""
        node = None if self.networks is None else self.networks.add_node()
        with (self.directory / "workers.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [*self.command, "worker"] if node is None else node.command(*COMMAND, "worker"),
                env=self.new_machine(), stderr=log, start_new_session=True,
            )  # fmt: skip
        if node is not None:
            self.nodes[process.pid] = node
        if processor is not None:
            os.sched_setaffinity(process.pid, {processor})
        self.workers.append(process)
        return process

    def signal_worker(self, process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
        """Sends a signal to a worker itself, also where another process stands in for it."""
        os.kill(process_of(process.pid), number)

    def kill_server(self, process: "subprocess.Popen[bytes]") -> None:
        """Kills a server."""
        number = self.servers.index(process)
        del self.servers[number], self.urls[number]
        process.kill()
        process.wait()

    def kill_worker(self, process: "subprocess.Popen[bytes]") -> None:
        """Kills a worker."""
        self.workers.remove(process)
        process.kill()
        process.wait()
        if self.networks is not None:
            self.networks.remove(self.nodes.pop(process.pid))

    def kill_workers(self) -> None:
        """Kills all workers."""
        for process in list(self.workers):
            self.kill_worker(process)

    def wait_for_workers(self) -> None:
        """Returns once every worker takes jobs."""
        with self.database() as database:
            for _ in range(1_200):
                if database.rows("SELECT count(*) FROM procrastinate_workers") >= [(len(self.workers),)]:
                    return
                time.sleep(0.1)
        raise TimeoutError((self.directory / "workers.log").read_text()[-2_000:])

    def database(self) -> Database:
        """The database of the cluster."""
        return Database(parse_database(Secret(self.postgres.url)))


@asynccontextmanager
async def cluster_processes(
    directory: Path,
    cache_dir: Path = CACHE_DIR,
    *,
    servers: int = 1,
    options: Sequence[str] = (),
    workers: int = 2,
    latency: float = LATENCY,
    is_durable: bool = False,
    has_nodes: bool = False,
    command: Sequence[str] = COMMAND,
    reply_to: Callable[[Request], str] | None = None,
) -> AsyncIterator[ClusterProcesses]:
    """A cluster with its data in a directory, until the end of the block.

    Servers are started with these `options`, and workers by `command`. With `has_nodes`, each worker is started by
    COMMAND on a node of its own, which can be cut off. Raises NetworksUnavailable.
    """
    programs = server_directory()
    assert programs is not None, "Postgres is not installed: `apt-get install postgresql` brings it"
    async with AsyncExitStack() as stack:
        made = stack.enter_context(networks()) if has_nodes else None
        storage, models = (LOOPBACK, LOOPBACK) if made is None else (made.storage_address, made.models_address)
        model = OpenAIServer(reply_to or SUMS.reply_to, latency=latency, address=models)
        await stack.enter_async_context(model)
        postgres = stack.enter_context(postgres_server(programs, address=storage, is_durable=is_durable))
        bucket_is_away = threading.Event()
        store = object_store(directory / "buckets", is_away=bucket_is_away.is_set, address=storage)
        environ = environment(directory, cache_dir, model.base_url, RLM_MCP_SUB_CALL_CACHE="false")
        environ |= object_store_variables(stack.enter_context(store))
        environ |= {"RLM_MCP_STORE": postgres.url, "RLM_MCP_BLOBS": f"s3://{BUCKET}/cluster"}
        cluster = ClusterProcesses(
            environ=environ,
            postgres=postgres,
            model=model,
            directory=directory,
            command=command,
            bucket_is_away=bucket_is_away,
            networks=made,
        )
        stack.enter_context(cluster.closing)
        stack.callback(cluster.kill_workers)
        for _ in range(servers):
            await cluster.start_server(*options)
        for _ in range(workers):
            cluster.start_worker()
        await asyncio.to_thread(cluster.wait_for_workers)
        yield cluster


async def call(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """The structured result of a tool call."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return dict(result.structured_content)


Call = Callable[..., Awaitable[dict[str, Any]]]
"""(tool, **arguments), gives the structured result"""


async def ask(client: Client, context: str, number: int) -> dict[str, Any]:
    """The end of a run that answers a question of its own."""
    return await ask_by(partial(call, client), context, number)


async def ask_by(call_tool: Call, context: str, number: int) -> dict[str, Any]:
    """The same by another way to call tools."""
    query = f"question {number}: add it up"
    run = await call_tool("rlm_solve", query=query, contexts=[context], mode="rlm", wait_seconds=20)
    while run["status"] == "running":
        run = await call_tool("rlm_result", run_id=run["run_id"], wait_seconds=20)
    return run

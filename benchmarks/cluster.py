"""Lets the machines of a cluster die, stand still and lose database or bucket while runs go on, and checks invariants.

    python -m benchmarks.cluster [--minutes 15] [--servers 2] [--workers 3] [--seed 0]

Starts Postgres (Debian's package), an object store, a scripted model, servers that play no runs, and workers, all as
processes of this machine. First it measures, without faults, the start of runs, their time beside that of the same runs
on files, how soon a cancel at another server ends the requests to the model, and what a map of items that only compute
takes on one and on two workers of one processor each. Then clients, behind a balancer, ask question after question
while workers and servers are killed (SIGKILL), workers stopped for longer than a lease lasts (SIGSTOP, SIGCONT), the
database is restarted, and the bucket is away. Times are printed; checked is that

    every run that was accepted ends, with the right answer
    no call whose reply was on record was asked again, according to the record
    the model got no request that is not on record, as one would be that a worker sent after it had lost its run
    no event of an old epoch comes after one of a new epoch
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

from mcp import Client

from benchmarks import CACHE_DIR
from benchmarks.sums import Sums
from rlm_mcp.cluster.addresses import parse_database
from rlm_mcp.cluster.database import Database
from rlm_mcp.redact import Secret
from tests.peers.balancer import Balancer
from tests.peers.cluster import (
    BUCKET,
    PostgresServer,
    object_store,
    object_store_variables,
    postgres_server,
    server_directory,
)
from tests.peers.openai_server import OpenAIServer, Request
from tests.peers.places import COMMAND, at, environment, http_process

SUMS = Sums(turns=5, batch=5, tag=re.compile(r"question \d+"))
MAP_ITEMS = 40
MAP_CODE = """
def work(number, rounds={rounds}):
    total = number
    for step in range(rounds):
        total = (total * 31 + step) % 1_000_003
    return total

FINAL(str(sum(parallel_map(work, range({items})))))
"""
LATENCY = 0.05

STANDING_SECONDS = 4.5
"""Longer than a lease lasts."""

BUCKET_AWAY_SECONDS = 15.0

Fault = Literal["kill", "stop", "server", "database", "bucket"]


@dataclass(slots=True, kw_only=True)
class ClusterProcesses:
    """The parts of a cluster that run."""

    environ: dict[str, str]
    postgres: PostgresServer
    model: OpenAIServer
    directory: Path
    urls: list[str] = field(default_factory=list)
    servers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    machines: Iterator[int] = field(default_factory=count)
    closing: ExitStack = field(default_factory=ExitStack)
    bucket_is_away: threading.Event = field(default_factory=threading.Event)

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
        with (self.directory / "workers.log").open("ab") as log:
            # Not a forked one, which stands behind another process: SIGSTOP would reach only that.
            process = subprocess.Popen([*COMMAND, "worker"], env=self.new_machine(), stderr=log, start_new_session=True)  # noqa: S603 - our own command
        if processor is not None:
            os.sched_setaffinity(process.pid, {processor})
        self.workers.append(process)
        return process

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
    workers: int = 2,
    latency: float = LATENCY,
    is_durable: bool = False,
    reply_to: Callable[[Request], str] | None = None,
) -> AsyncIterator[ClusterProcesses]:
    """A cluster with its data in a directory, until the end of the block."""
    programs = server_directory()
    assert programs is not None, "Postgres is not installed: `apt-get install postgresql` brings it"
    async with OpenAIServer(reply_to or SUMS.reply_to, latency=latency) as model:
        with ExitStack() as stack:
            postgres = stack.enter_context(postgres_server(programs, is_durable=is_durable))
            bucket_is_away = threading.Event()
            endpoint = stack.enter_context(object_store(directory / "buckets", is_away=bucket_is_away.is_set))
            environ = environment(directory, cache_dir, model.base_url, RLM_MCP_SUB_CALL_CACHE="false")
            environ |= object_store_variables(endpoint)
            environ |= {"RLM_MCP_STORE": postgres.url, "RLM_MCP_BLOBS": f"s3://{BUCKET}/cluster"}
            cluster = ClusterProcesses(
                environ=environ, postgres=postgres, model=model, directory=directory, bucket_is_away=bucket_is_away
            )
            stack.enter_context(cluster.closing)
            for _ in range(servers):
                await cluster.start_server()
            try:
                for _ in range(workers):
                    cluster.start_worker()
                await asyncio.to_thread(cluster.wait_for_workers)
                yield cluster
            finally:
                for worker in list(cluster.workers):
                    cluster.kill_worker(worker)


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


@dataclass(slots=True)
class Patient:
    """A client behind a balancer that makes a call again when the server died with which it had begun."""

    cluster: ClusterProcesses
    delays: list[float] = field(default_factory=list)
    """seconds from the end of a server until the call is answered by another, without what the call itself takes"""

    async def __call__(self, tool: str, **arguments: object) -> dict[str, Any]:
        """The structured result of a tool call."""
        failed_at = 0.0
        while True:
            balancer = Balancer(self.cluster.urls)
            try:
                async with balancer.client("auto") as client:
                    if failed_at:
                        self.delays.append(time.monotonic() - failed_at)
                        failed_at = 0.0
                    result = await client.call_tool(tool, arguments)
            except Exception:  # noqa: BLE001 - a client whose server is dead raises this or that
                failed_at = failed_at or time.monotonic()
                await asyncio.sleep(0.05)
                continue
            assert not result.is_error, result.content
            assert result.structured_content is not None
            return dict(result.structured_content)


@dataclass(slots=True, kw_only=True)
class Findings:
    """Failures and counts of a time under faults."""

    runs: int = 0
    takeovers: int = 0
    on_record: int = 0
    wrong: list[str] = field(default_factory=list)
    repeated: int = 0
    """calls that were asked again although their reply was on record"""
    unrecorded: int = 0
    """requests that the model got and that are not on record"""
    old_epochs: int = 0
    gaps: list[float] = field(default_factory=list)
    """seconds from the last event of a dead worker to the first of its successor"""
    delays: list[float] = field(default_factory=list)
    """seconds until another server than a dead one could be asked"""


def examine(cluster: ClusterProcesses, runs: Sequence[dict[str, Any]]) -> Findings:
    """Checks the records of the runs, and compares them with what the model was asked."""
    findings = Findings(runs=len(runs))
    for run in runs:
        if (run["status"], str(run["answer"])) != ("completed", SUMS.answer):
            findings.wrong.append(f"{run['run_id']} {run['status']} {run['answer']!r} {run['message']}")
    asked: Counter[str] = Counter()
    with cluster.database() as database:
        ids = [run_id for (run_id,) in database.rows("SELECT run_id FROM rlm_runs ORDER BY run_id")]
        for run_id in ids:
            rows = database.rows("SELECT epoch, line FROM rlm_events WHERE run_id = %s ORDER BY seq", (run_id,))
            epochs = [epoch for epoch, _ in rows]
            findings.old_epochs += epochs != sorted(epochs)
            _examine_record([json.loads(line) for _, line in rows], asked, findings)
    sent = Counter(map(SUMS.name_of, cluster.model.requests))
    findings.unrecorded = sum((sent - asked).values())
    return findings


def _examine_record(events: Sequence[dict[str, Any]], asked: "Counter[str]", findings: Findings) -> None:
    query, answered = "", set[str]()
    for before, event in zip([{}, *events], events, strict=False):
        match event["event"]:
            case "run_started":
                query = event["query"]
            case "run_resumed":
                findings.takeovers += 1
                findings.gaps.append(event["at"] - before.get("at", 0.0))
            case "root_asked" | "sub_asked" if event.get("request") is not None:
                name = (
                    SUMS.name_of_turn(query, event["turn"]) if event["event"] == "root_asked" else event["prompt_head"]
                )
                asked[name] += 1
                findings.repeated += name in answered
            case "root_reply":
                answered.add(SUMS.name_of_turn(query, event["turn"]))
                findings.on_record += 1
            case "sub_reply":
                answered.add(event["prompt_head"])
                findings.on_record += 1
            case _:
                pass


async def make_faults(cluster: ClusterProcesses, dice: random.Random, until: float, faults: Sequence[Fault]) -> None:
    """Lets something happen every few seconds; in the end all workers go on."""
    while time.monotonic() < until:
        await asyncio.sleep(dice.uniform(0.5, 3.0))
        worker = dice.choice(cluster.workers)
        match dice.choice(faults):
            case "kill":
                await asyncio.to_thread(cluster.kill_worker, worker)
                cluster.start_worker()
            case "stop":
                worker.send_signal(signal.SIGSTOP)
                await asyncio.sleep(STANDING_SECONDS)
                worker.send_signal(signal.SIGCONT)
            case "server":
                await asyncio.to_thread(cluster.kill_server, dice.choice(cluster.servers))
                await cluster.start_server()
            case "bucket":
                cluster.bucket_is_away.set()
                await asyncio.sleep(BUCKET_AWAY_SECONDS)
                cluster.bucket_is_away.clear()
            case "database":
                await asyncio.to_thread(cluster.postgres.stop)
                await asyncio.sleep(3)
                await asyncio.to_thread(cluster.postgres.start)


async def run_under_faults(
    cluster: ClusterProcesses, *, seconds: float, clients: int, faults: Sequence[Fault], seed: int = 0
) -> Findings:
    """Clients ask for this time while faults happen; then all runs are brought to their end and examined."""
    patient = Patient(cluster)
    await patient("register_context", text="a line\n" * 20_000, name="lines")
    until, runs, numbers = time.monotonic() + seconds, list[dict[str, Any]](), iter(range(10**9))

    async def ask_on() -> None:
        while time.monotonic() < until:
            runs.append(await ask_by(patient, "lines", next(numbers)))

    asking = [asyncio.create_task(ask_on()) for _ in range(clients)]
    breaking = asyncio.create_task(make_faults(cluster, random.Random(seed), until, faults))
    try:
        await asyncio.gather(breaking, *asking)
    finally:
        for task in (breaking, *asking):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
    findings = await asyncio.to_thread(examine, cluster, runs)
    findings.delays = patient.delays
    return findings


async def undisturbed(cluster: ClusterProcesses, times: int) -> None:
    """Prints what a run takes without faults, and beside it what it takes on the files of one process."""
    seconds: dict[str, list[float]] = {"cluster": [], "files": []}
    on_files = cluster.new_machine()
    del on_files["RLM_MCP_STORE"], on_files["RLM_MCP_BLOBS"]
    with http_process(on_files) as (_, url):
        async with at(cluster.urls[0], "auto") as client, at(url, "auto") as alone:
            for one in (client, alone):
                await call(one, "register_context", text="a line\n" * 20_000, name="lines")
                await ask(one, "lines", 0)
            for number in range(1, times + 1):
                for name, one in (("cluster", client), ("files", alone)):
                    began = time.monotonic()
                    await ask(one, "lines", number)
                    seconds[name].append(time.monotonic() - began)
    with cluster.database() as database:
        ids = [run_id for (run_id,) in database.rows("SELECT run_id FROM rlm_runs ORDER BY run_id")]
        query = "SELECT line FROM rlm_events WHERE run_id = %s ORDER BY seq LIMIT 2"
        first = [[json.loads(line)["at"] for (line,) in database.rows(query, (run_id,))] for run_id in ids]
    print(f"a run on the cluster, on files: median {' and '.join(map(_median, seconds.values()))}")
    print(f"from the start of a run to its first event: {_spread([after - before for before, after in first])}")


async def maps_over_workers(
    directory: Path, cache_dir: Path = CACHE_DIR, *, times: int = 5, rounds: int = 2_000_000
) -> list[tuple[float, float]]:
    """Prints what a map of items that only compute takes on one and on two workers of one processor each.

    Gives the seconds of each time, on one and directly after it on two: what else the machine does meets both.
    """
    reply = f"```repl{MAP_CODE.format(rounds=rounds, items=MAP_ITEMS)}```"
    seconds: list[tuple[float, float]] = []
    answers = set[str]()
    async with (
        cluster_processes(directory, cache_dir, workers=0, is_durable=True, reply_to=lambda _: reply) as cluster,
        at(cluster.url, "auto") as client,
    ):
        await call(client, "register_context", text="a line\n", name="lines")
        _, second = [cluster.start_worker(processor) for processor in sorted(os.sched_getaffinity(0))[:2]]
        await asyncio.to_thread(cluster.wait_for_workers)

        async def seconds_of_map(number: int) -> float:
            began = time.monotonic()
            run = await ask(client, "lines", number)
            answers.add(f"{run['status']} {run['answer']}")
            return time.monotonic() - began

        for number in range(times):
            second.send_signal(signal.SIGSTOP)
            alone = await seconds_of_map(2 * number)
            second.send_signal(signal.SIGCONT)
            seconds.append((alone, await seconds_of_map(2 * number + 1)))
    assert len(answers) == 1, answers
    one, two = (statistics.median(some) for some in zip(*seconds, strict=True))
    ratio = statistics.median(alone / together for alone, together in seconds)
    print(
        f"{MAP_ITEMS} items of parallel_map: {one:.1f} s on one worker, {two:.1f} s on two, {ratio:.2f} times as fast"
    )
    return seconds


async def cancelled_elsewhere(cluster: ClusterProcesses, times: int, dice: random.Random) -> None:
    """Prints how long a run asks the model after another server was told to cancel it."""
    seconds = []
    async with at(cluster.urls[0], "auto") as client, at(cluster.urls[-1], "auto") as other:
        for number in range(times):
            query = f"question {number}: add it up, and be cancelled"
            run = await call(client, "rlm_solve", query=query, contexts=["lines"], mode="rlm", wait_seconds=0)
            await asyncio.sleep(dice.uniform(0.0, 0.4))
            began = time.monotonic()
            await call(other, "cancel_run", run_id=run["run_id"])
            seconds.append(time.monotonic() - began)
    print(f"until a cancel at another server has ended a run: {_spread(seconds)}", flush=True)


def _median(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} s"


def _spread(seconds: Sequence[float]) -> str:
    order = sorted(seconds) or [0.0]
    return f"p50 {order[len(order) // 2]:.2f} s, p99 {order[int(len(order) * 0.99)]:.2f} s ({len(seconds)} times)"


def _report(faults: Sequence[Fault], findings: Findings) -> None:
    print(
        f"{' and '.join(faults)}: {findings.runs} runs, {len(findings.wrong)} wrong; {findings.takeovers} takeovers"
        f" (gap {_spread(findings.gaps)}); {findings.on_record} replies on record, {findings.repeated} asked"
        f" again; requests without a record {findings.unrecorded}; records with old epochs {findings.old_epochs};"
        f" another server than a dead one asked after {_spread(findings.delays)}",
        flush=True,
    )
    for wrong in findings.wrong[:10]:
        print(f"WRONG: {wrong}", flush=True)


async def _measure(minutes: float, servers: int, workers: int, clients: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with cluster_processes(Path(directory), servers=servers, workers=workers, is_durable=True) as cluster:
            await undisturbed(cluster, times=30)
            await cancelled_elsewhere(cluster, 40, random.Random(seed))
    with tempfile.TemporaryDirectory() as directory:
        await maps_over_workers(Path(directory))
    mixes: list[tuple[Fault, ...]] = [("kill",), ("stop",), ("server",), ("database",), ("bucket",)]
    mixes.append(("kill", "stop", "server", "database", "bucket"))
    for faults in mixes:
        with tempfile.TemporaryDirectory() as directory:
            async with cluster_processes(Path(directory), servers=servers, workers=workers, is_durable=True) as cluster:
                findings = await run_under_faults(
                    cluster, seconds=minutes * 60 / len(mixes), clients=clients, faults=faults, seed=seed
                )
        _report(faults, findings)
        assert (len(findings.wrong), findings.repeated, findings.unrecorded, findings.old_epochs) == (0, 0, 0, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs of a cluster while its parts fail.")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(_measure(options.minutes, options.servers, options.workers, options.clients, options.seed))


if __name__ == "__main__":
    main()

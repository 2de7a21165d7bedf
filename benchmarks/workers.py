"""Savings and costs of worker processes.

    python -m benchmarks.workers [FIGURE …] [--kills 200] [--seconds 8] [--seed 0]

Every figure but `kills` is taken of one process (`serve --http --workers 0`) and of two workers, in the same run.

    attacks   latency for another tenant, and memory, while each attack of attacks.py is repeated
    kills     a worker is killed (each fifth: stopped) again and again while runs go on in both
    runs      50 runs of seven tenants at once
    turns     a run of 40 turns, without latency of the model
    cells     cells of two tenants that compute
    start     from the start of the process to the first answer, and the private memory of an idle worker

The model is a scripted endpoint in this process, everything else is real: HTTP, tokens, the SDK's client.
"""

import argparse
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
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, MCPError
from mcp_types import CallToolResult

from benchmarks import CACHE_DIR
from benchmarks.attacks import HEADING, measure_all
from benchmarks.sums import Sums
from rlm_mcp.records.recovery import MOST_TRIES
from rlm_mcp.records.store import Runs
from rlm_mcp.server.transports.token_file import digest_of
from tests.peers.openai_server import OpenAIServer, Request
from tests.peers.places import COMMAND, at, environment, http_process, listening
from wasm_runtime import Runtime

TENANTS = tuple(f"tenant{number}" for number in range(7))
BOTH = (0, 2)

SUMS = Sums(turns=4, batch=8, tag=re.compile(r"run-tag-\w+"))
LATENCY = 0.05
KILLED_RUNS, OF_EACH = 4, 2
"""Runs at once for each of two tenants while workers are killed."""


def behave(request: Request) -> str:
    """Both models of runs that add up, or a root model of forty turns if its question says so."""
    if "FINAL" in request.text and "forty turns" in request.text:
        return "```repl\nFINAL('done')\n```" if request.turn == 40 else f"```repl\nx = {request.turn}\n```"
    return SUMS.reply_to(request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server process with its model."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: list[bytes]
    endpoint: OpenAIServer
    data_dir: Path

    def workers(self) -> list[int]:
        """The processes of the workers."""
        servers = [
            pid for pid in children(self.process.pid) if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        return [worker for server in servers for worker in children(server)]

    def client(self, tenant: str) -> Any:
        """A client of a tenant."""
        return at(self.url, "auto", f"token-of-{tenant}")


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def served(workers: int, *, latency: float = 0.0) -> Iterator[Served]:
    """Starts a server with a token for each tenant, on a directory of its own."""
    with tempfile.TemporaryDirectory() as scratch, OpenAIServer(behave, latency=latency).run_in_thread() as endpoint:
        directory = Path(scratch)
        (directory / "tokens").write_text("".join(f"{name} {digest_of(f'token-of-{name}')}\n" for name in TENANTS))
        environ = environment(
            directory, CACHE_DIR, endpoint.base_url, RLM_MCP_SUB_CALL_CACHE="false", RLM_MCP_MAX_ITERATIONS="50"
        )
        options = ["--token-file", str(directory / "tokens")]
        with http_process(environ, *options, command=COMMAND, workers=workers) as (process, url):
            assert process.stderr is not None
            log: list[bytes] = []
            threading.Thread(target=log.extend, args=[process.stderr], daemon=True).start()
            try:
                data_dir = Path(environ["RLM_MCP_DATA_DIR"])
                yield Served(url=url, process=process, log=log, endpoint=endpoint, data_dir=data_dir)
            finally:
                process.terminate()
                process.wait()


async def called(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The fields of a tool's result, sent again while its worker is being replaced."""
    while True:
        with suppress(MCPError):
            result = await client.call_tool(tool, arguments)
            assert isinstance(result, CallToolResult)
            assert not result.is_error, result.content
            return result.structured_content or {}
        await anyio.sleep(0.2)  # the requests of a tenant are limited


@asynccontextmanager
async def clients(server: Served, tenants: Sequence[str]) -> AsyncIterator[list[Client]]:
    """Clients of tenants, each with a context and a sandbox that is loaded."""
    await listening(server.url)
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(server.client(tenant)) for tenant in tenants]
        for client in opened:
            await called(client, "register_context", text="some notes\n" * 100, name="notes")
            await called(client, "inspect_context", context="notes", code="1")
        yield opened


async def solved(client: Client, query: str) -> dict[str, Any]:
    """The result of a run once it has ended."""
    question = {"query": query, "contexts": ["notes"], "mode": "rlm", "wait_seconds": 0}
    result = await called(client, "rlm_solve", **question)
    while result["status"] == "running":
        result = await called(client, "rlm_result", run_id=result["run_id"], wait_seconds=20)
    return result


# --- figures ------------------------------------------------------------------------------------------------------


async def attacks(options: argparse.Namespace) -> None:
    """Latency for others during attacks."""
    for workers in BOTH:
        print(f"\n{workers} workers\n{HEADING}")
        await measure_all(workers, options.seconds)


@dataclass(slots=True)
class Kills:
    """Observations while workers were killed."""

    times: int = 0
    calls_on_record: int = 0
    repeated: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    left_alone: int = 0
    """killed so often, before they got any further, that they are resumed only for the same question"""
    takeovers: dict[str, list[float]] = field(default_factory=lambda: {"killed": [], "stopped": []})
    """seconds until a run of a worker went on, after it was killed, and after it was stopped and had to be found out"""
    errors: list[str] = field(default_factory=list)
    """errors that the server logged"""


async def killed_workers(times: int, seed: int) -> Kills:
    """Kills workers at random moments while runs go on, so many times."""
    seen, chance, is_over = Kills(), random.Random(seed), anyio.Event()
    tags = iter(range(1 << 30))

    async def keep_running(client: Client, records: Runs) -> None:
        while not is_over.is_set():
            result = await solved(client, query := f"add up run-tag-{next(tags)}x")
            while result["status"] == "failed" and records.get(result["run_id"]).fruitless_resumes() >= MOST_TRIES:
                seen.left_alone += 1
                result = await solved(client, query)
            if (result["status"], result["answer"]) == ("completed", SUMS.answer):
                seen.right += 1
            else:
                seen.wrong.append(f"{result['run_id']} {result['status']} {result['answer']} {result.get('message')}")

    with served(2, latency=LATENCY) as server:
        async with clients(server, TENANTS[:2]) as opened, anyio.create_task_group() as tasks:
            for client, tenant in zip(opened, TENANTS, strict=False):
                for _ in range(KILLED_RUNS):
                    tasks.start_soon(keep_running, client, Runs(server.data_dir / "owners" / tenant))
            while seen.times < times:
                await anyio.sleep(chance.uniform(0.3, 2.0))
                if len(pids := server.workers()) == 2:
                    await kill_one(server, chance.choice(pids), seen, is_stop=seen.times % 5 == 4)
            is_over.set()
        seen.errors = [line.decode() for line in server.log if b'"level": "ERROR"' in line]
    return seen


async def kills(options: argparse.Namespace) -> None:
    """Prints what was seen while workers were killed."""
    seen = await killed_workers(options.kills, options.seed)
    print(f"workers killed or stopped {seen.times}; runs right {seen.right}, wrong {len(seen.wrong)} {seen.wrong[:3]}")
    print(f"runs killed {MOST_TRIES} times without getting further, and asked for once more {seen.left_alone}")
    print(f"calls on record at the kills {seen.calls_on_record}, of them asked again {seen.repeated}")
    print(f"errors in the log {len(seen.errors)} {seen.errors[:3]}")
    for what, taken in seen.takeovers.items():
        order = sorted(taken)
        p99 = order[min(len(order) - 1, int(len(order) * 0.99))]
        print(
            f"takeover of runs of a {what} worker: median {statistics.median(order):.2f} s, p99 {p99:.2f} s,"
            f" longest {order[-1]:.2f} s ({len(order)} times)"
        )


async def kill_one(server: Served, pid: int, seen: Kills, *, is_stop: bool) -> None:
    """Kills or stops a worker, and counts what is asked again of what was on record when it was dead."""
    written = records_of(pid)
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP if is_stop else signal.SIGKILL)
    while is_alive(pid):  # noqa: ASYNC110 - another process
        await anyio.sleep(0.001)
    asked_before = len(server.endpoint.requests)
    known = Counter(name for record in written for name in answered_in(record))
    sizes = {record: record.stat().st_size for record in written}
    with anyio.move_on_after(30):
        while sizes and not any(record.stat().st_size > size for record, size in sizes.items()):  # noqa: ASYNC110 - a file
            await anyio.sleep(0.005)
        if sizes:
            seen.takeovers["stopped" if is_stop else "killed"].append(time.monotonic() - began)
    await anyio.sleep(1)
    again = Counter(map(SUMS.name_of, server.endpoint.requests[asked_before:]))
    seen.times += 1
    seen.calls_on_record += known.total()
    seen.repeated += sum(again[name] for name in known)


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}").exists()


def records_of(pid: int) -> list[Path]:
    """The records that a worker is writing."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if (target := link.readlink()).name == "events.jsonl":
                found.add(target)
    return sorted(found)


def answered_in(record: Path) -> Iterator[str]:
    """The names of the requests whose replies are on record."""
    query = ""
    for line in record.read_bytes().splitlines():
        with suppress(ValueError):
            event = json.loads(line)
            query = query or str(event.get("query", ""))
            if event["event"] == "sub_reply":
                yield str(event["prompt_head"])
            elif event["event"] == "root_reply":
                yield SUMS.name_of_turn(query, event["turn"])


async def compared(what: str, measure: Callable[[int], Awaitable[float]], unit: str = "s", repeat: int = 3) -> None:
    """Prints the medians of one process and of two workers, and their ratio."""
    taken: dict[int, list[float]] = {workers: [] for workers in BOTH}
    for _ in range(repeat):
        for workers in BOTH:
            taken[workers].append(await measure(workers))
    one, two = (statistics.median(taken[workers]) for workers in BOTH)
    print(f"{what:44} {one:8.3f} {two:8.3f} {unit}   {two / one:.2f} times", flush=True)


async def runs(_: argparse.Namespace) -> None:
    """50 runs of seven tenants at once."""

    async def measure(workers: int) -> float:
        with served(workers, latency=LATENCY) as server:
            async with clients(server, TENANTS) as opened:
                began = time.monotonic()
                async with anyio.create_task_group() as tasks:
                    for number in range(50):
                        tasks.start_soon(solved, opened[number % len(opened)], f"add up run-tag-{number}x")
                return time.monotonic() - began

    await compared("50 runs at once end", measure)


async def turns(_: argparse.Namespace) -> None:
    """A turn of a run."""

    async def measure(workers: int) -> float:
        with served(workers) as server:
            async with clients(server, TENANTS[:1]) as (client,):
                question = {"contexts": ["notes"], "mode": "rlm"}
                times = []
                for number in range(5):
                    began = time.monotonic()
                    result = await called(client, "rlm_solve", query=f"take forty turns, {number}", **question)
                    times.append((time.monotonic() - began) * 1_000 / 40)
                    assert result["answer"] == "done", result
                return statistics.median(times)

    await compared("a turn, with its share of the call", measure, "ms")


async def cells(_: argparse.Namespace) -> None:
    """Two cells that compute."""
    code = "total = 0\nfor number in range(6_000_000):\n    total += number"

    async def measure(workers: int) -> float:
        with served(workers) as server:
            async with clients(server, TENANTS[:2]) as opened:
                began = time.monotonic()
                async with anyio.create_task_group() as tasks:
                    for client in opened:
                        tasks.start_soon(lambda one: called(one, "inspect_context", context="notes", code=code), client)
                return time.monotonic() - began

    await compared("cells of two tenants that compute", measure)


async def start(_: argparse.Namespace) -> None:
    """The start, and idle workers."""
    idle: list[float] = []

    async def measure(workers: int, tool: str | None) -> float:
        began = time.monotonic()
        with served(workers) as server:
            await listening(server.url)
            async with server.client(TENANTS[0]) as client:
                await (client.list_tools() if tool is None else called(client, tool))
                seconds = time.monotonic() - began
            idle.extend(private_bytes(pid) / 1e6 for pid in server.workers())
            return seconds

    await compared("start to the list of tools", partial(measure, tool=None))
    await compared("start to the first answer of a tool", partial(measure, tool="list_contexts"))
    print(f"private memory of an idle worker: median {statistics.median(idle):.0f} MB, most {max(idle):.0f} MB")


def private_bytes(pid: int) -> int:
    """The memory that a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


FIGURES = {"attacks": attacks, "kills": kills, "runs": runs, "turns": turns, "cells": cells, "start": start}


async def main(options: argparse.Namespace) -> None:
    """Prints the figures that were asked for."""
    with Runtime(CACHE_DIR) as runtime, runtime.session() as session:
        session.exec("1")  # the sandbox is compiled
    print(f"load {os.getloadavg()[0]:.1f}; {'':31} one process, two workers")
    for name in options.figures or FIGURES:
        await FIGURES[name](options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("figures", nargs="*", choices=[*FIGURES, []], default=[])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    anyio.run(main, parser.parse_args())

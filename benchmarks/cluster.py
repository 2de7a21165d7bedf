"""Lets the machines of a cluster die, stand still and lose database or bucket while runs go on, and checks invariants.

    python -m benchmarks.cluster [--minutes 15] [--servers 2] [--workers 3] [--seed 0]

Starts Postgres (Debian's package), an object store, a scripted model, servers that play no runs, and workers, all as
processes of this machine. First it measures, without faults, the start of runs, their time beside that of the same runs
on files, how soon a cancel at another server ends the requests to the model, and what a map of items that only compute
takes on one and on two workers of one processor each, and what a cell of `inspect_context` takes. Then clients, behind
a balancer, ask question after question while workers and servers are killed (SIGKILL), workers stopped for longer than
a lease lasts (SIGSTOP, SIGCONT) or cut off from database and bucket while they still reach the model, the database is
restarted, and the bucket is away. Cutting off needs Linux and root, and is left out elsewhere. All of it takes some
ten minutes more than `--minutes`. After each kind of fault a row of a table is printed; checked is that

    every run that was accepted ends, with the right answer
    no call whose reply was on record was asked again, according to the record
    the model got no request that is not on record, as one would be that a worker sent after it had lost its run
    no event of an old epoch comes after one of a new epoch
    a worker that was cut off asked the model nothing after others may have taken its runs
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from mcp import Client

from benchmarks import CACHE_DIR
from benchmarks.cluster_faults import Fault, Findings, run_under_faults
from benchmarks.cluster_processes import ClusterProcesses, ask, call, cluster_processes
from tests.peers.networks import why_unavailable
from tests.peers.places import at, http_process

MAP_ITEMS = 40
MAP_CODE = """
def work(number, rounds={rounds}):
    total = number
    for step in range(rounds):
        total = (total * 31 + step) % 1_000_003
    return total

FINAL(str(sum(parallel_map(work, range({items})))))
"""


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


async def cells_in_turns(cluster: ClusterProcesses, times: int) -> None:
    """Prints what a cell of `inspect_context` takes with files, at one server, and where two take turns.

    There it follows the one before directly, or after a while in which that one's variables were saved.
    """
    on_files = cluster.new_machine()
    del on_files["RLM_MCP_STORE"], on_files["RLM_MCP_BLOBS"]
    seconds: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        _, url = stack.enter_context(http_process(on_files))
        one, other, alone = [await stack.enter_async_context(at(server, "auto")) for server in (*cluster.urls[:2], url)]
        for client in (one, alone):
            await call(client, "register_context", text="a line\n" * 20_000, name="lines")
        cells = Counter[str]()

        async def run_cell(client: Client, name: str, pause: float, state: str = "cluster") -> None:
            code = "x = 1\nx" if not cells[state] else "x += 1\nx"
            cells[state] += 1
            began = time.monotonic()
            cell = await call(client, "inspect_context", context="lines", code=code)
            seconds.setdefault(name, []).append(time.monotonic() - began)
            assert cell["value"] == str(cells[state]), cell
            await asyncio.sleep(pause)

        for number in range(times):
            # One after the other, so that what else the machine does meets all of them.
            await run_cell(alone, "on files", 0.2, "files")
            await run_cell((one, other)[number % 2], "at another server, later", 0.2)
            await run_cell((one, other)[number % 2], "at the same server", 0.0)
            await run_cell((other, one)[number % 2], "at another server, at once", 0.2)
            await run_cell((one, other)[number % 2], "", 0.2)
    told = [f"{name} {_milliseconds(some)}" for name, some in seconds.items() if name]
    print(f"a cell of inspect_context: {', '.join(told)}", flush=True)


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
            cluster.signal_worker(second, signal.SIGSTOP)
            alone = await seconds_of_map(2 * number)
            cluster.signal_worker(second, signal.SIGCONT)
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


def _milliseconds(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1_000:.0f} ms"


def _spread(seconds: Sequence[float]) -> str:
    order = sorted(seconds) or [0.0]
    return f"p50 {order[len(order) // 2]:.2f} s, p99 {order[int(len(order) * 0.99)]:.2f} s ({len(seconds)} times)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Faults that happen together for a share of the time, so many of them at once."""

    faults: tuple[Fault, ...]
    share: float
    between: tuple[float, float] = (0.5, 2.0)
    at_once: int = 1
    more_workers: int = 0
    """for those that are being started again"""


PHASES = (
    Phase(faults=("kill",), share=0.22, between=(0.5, 1.2), more_workers=3),
    Phase(faults=("stop",), share=0.27, between=(0.2, 0.8), at_once=2),
    Phase(faults=("cut",), share=0.10, between=(0.2, 0.8), at_once=2),
    Phase(faults=("database",), share=0.20, between=(4.0, 6.0)),  # in between, runs go on
    Phase(faults=("server",), share=0.05),
    Phase(faults=("bucket",), share=0.05),
    Phase(faults=("kill", "stop", "cut", "server", "database", "bucket"), share=0.11, at_once=2),
)
"""In 15 minutes about 200 workers are killed and 100 stand still, and 20 are cut off and 20 databases restarted."""


async def under_faults(
    phase: Phase, *, seconds: float, servers: int, workers: int, clients: int, seed: int
) -> Findings:
    """What was found after a phase, on a cluster of its own."""
    with tempfile.TemporaryDirectory() as directory:
        has_nodes = "cut" in phase.faults
        opening = cluster_processes(
            Path(directory),
            servers=servers,
            workers=workers + phase.more_workers,
            is_durable=True,
            has_nodes=has_nodes,
        )
        async with opening as cluster:
            return await run_under_faults(
                cluster,
                seconds=seconds * phase.share,
                clients=clients,
                faults=phase.faults,
                at_once=phase.at_once,
                between=phase.between,
                seed=seed,
            )


def possible(phases: Sequence[Phase]) -> list[Phase]:
    """The phases without faults that this machine cannot have; the reason is printed."""
    if not (reason := why_unavailable()):
        return list(phases)
    print(f"no worker can be cut off here: {reason}")
    left = [replace(phase, faults=tuple(fault for fault in phase.faults if fault != "cut")) for phase in phases]
    return [phase for phase in left if phase.faults]


def _row(findings: Findings) -> list[str]:
    return [
        ", ".join(f"{fault} {count}" for fault, count in findings.made.items()),
        f"{findings.runs}, {len(findings.wrong)}",
        f"{findings.takeovers}",
        _spread(findings.gaps),
        f"{findings.on_record}, {findings.repeated}",
        f"{findings.unrecorded}",
        f"{findings.old_epochs}",
        f"{findings.sent_at_first}, {findings.sent_later}",
        _spread(findings.delays),
    ]


HEADINGS = (
    "faults made",
    "runs, wrong",
    "takeovers",
    "seconds without events",
    "replies on record, asked again",
    "requests without a record",
    "records with old epochs",
    "requests while cut off: before, after it may be given up",
    "until another server answers",
)


def _print_row(row: Sequence[str]) -> None:
    print(f"| {' | '.join(row)} |", flush=True)


async def _measure(minutes: float, servers: int, workers: int, clients: int, seed: int) -> bool:
    phases = possible(PHASES)
    with tempfile.TemporaryDirectory() as directory:
        async with cluster_processes(Path(directory), servers=servers, workers=workers, is_durable=True) as cluster:
            await undisturbed(cluster, times=30)
            await cancelled_elsewhere(cluster, 40, random.Random(seed))
    with tempfile.TemporaryDirectory() as directory:
        async with cluster_processes(Path(directory), servers=2, workers=0, is_durable=True) as cluster:
            await cells_in_turns(cluster, times=60)
    with tempfile.TemporaryDirectory() as directory:
        await maps_over_workers(Path(directory))
    found: list[Findings] = []
    _print_row(HEADINGS)
    _print_row(["---"] * len(HEADINGS))
    for phase in phases:
        options = {"servers": servers, "workers": workers, "clients": clients, "seed": seed}
        found.append(await under_faults(phase, seconds=minutes * 60, **options))
        _print_row(_row(found[-1]))
    total = sum((findings.made for findings in found), Counter[Fault]())
    print(f"in all: {', '.join(f'{fault} {count}' for fault, count in total.items())}")
    for one in (wrong for findings in found for wrong in findings.wrong[:10]):
        print(f"wrong: {one}")
    return all(findings.is_right for findings in found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs of a cluster while its parts fail.")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    is_right = asyncio.run(_measure(options.minutes, options.servers, options.workers, options.clients, options.seed))
    if not is_right:
        raise SystemExit("a run went wrong, a reply was paid twice, or a worker that had lost its runs went on")


if __name__ == "__main__":
    main()

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
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import CACHE_DIR
from benchmarks.cluster_faults import Fault, Findings, run_under_faults
from benchmarks.cluster_processes import ClusterProcesses, ask, call, cluster_processes
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

"""Workers as processes that work on the map of one of them, which is killed, stands still, or is told to cancel it."""

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest

pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")

from benchmarks.cluster_faults import STANDING_SECONDS
from benchmarks.cluster_processes import ClusterProcesses, ask, call, cluster_processes
from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.server.transports.token_file import digest_of
from tests.peers.cluster import PostgresServer
from tests.peers.forking import forked_command
from tests.peers.openai_server import Request
from tests.peers.places import at

pytestmark = [pytest.mark.cluster, pytest.mark.anyio]

ITEMS, ROUNDS, MODULUS = 40, 250_000, 1_000_003
CODE = f"""
def work(number):
    total = number
    for step in range({ROUNDS}):
        total = (total * 31 + step) % {MODULUS}
    total += len(search(str(number))) + len(context)
    if number % 8 == 3:
        total += int(llm_query(f"say {{number}}"))
    return total

FINAL(str(parallel_map(work, range({ITEMS}))))
"""
LINES = [f"line {number}\n" for number in range(100)]
ASKED = {f"say {number}": 1 for number in range(ITEMS) if number % 8 == 3}


def reply_to(request: Request) -> str:
    return f"```repl{CODE}```" if "FINAL" in request.text else request.last.rpartition(" ")[2]


def right_answer() -> str:
    total = 0
    for step in range(ROUNDS):
        total = (total * 31 + step) % MODULUS
    factor = pow(31, ROUNDS, MODULUS)
    found = {n: sum(str(n) in line for line in LINES) + len("".join(LINES)) for n in range(ITEMS)}
    return str([(total + n * factor) % MODULUS + found[n] + (n if n % 8 == 3 else 0) for n in range(ITEMS)])


async def wait_for_rows(cluster: ClusterProcesses, table: str, *, count: int = 1) -> None:
    """Returns once the table has as many rows, or none if that is asked for."""
    with cluster.database() as database:
        while True:
            ((found,),) = await run_in_thread(database.rows, f"SELECT count(*) FROM {table}")  # noqa: S608 - of the tests
            if found >= count > 0 or found == count == 0:
                return
            await anyio.sleep(0.05)


def answered_calls(cluster: ClusterProcesses, run_id: str) -> "Counter[str]":
    with cluster.database() as database:
        rows = database.rows("SELECT line FROM rlm_events WHERE run_id = %s", (run_id,))
    events = [json.loads(line) for (line,) in rows]
    return Counter(event["prompt_head"] for event in events if event["event"] == "sub_reply")


Fault = Literal["none", "kill", "stop", "home", "cancel"]


@pytest.mark.parametrize("fault", ["none", "kill", "stop", "home", "cancel"])
async def test_a_map_has_the_same_result_and_pays_each_call_once_whatever_becomes_of_a_worker(
    tmp_path: Path, sandbox_cache: Path, postgres: PostgresServer, fault: Fault
) -> None:
    (tmp_path / "tokens").write_text(f"alice {digest_of('alice')}\n")
    options, command = ["--token-file", str(tmp_path / "tokens")], forked_command()
    async with cluster_processes(
        tmp_path, sandbox_cache, options=options, workers=2, command=command, reply_to=reply_to
    ) as cluster:
        home, other = cluster.workers
        with anyio.fail_after(240):
            async with at(cluster.url, "auto", "alice") as client:
                await call(client, "register_context", text="".join(LINES), name="lines")
                cluster.signal_worker(other, signal.SIGSTOP)  # so that it is the other one that plays the run
                begun = await call(client, "rlm_solve", query="1?", contexts=["lines"], mode="rlm", wait_seconds=0)
                await wait_for_rows(cluster, "rlm_maps")
                cluster.signal_worker(other, signal.SIGCONT)
                await wait_for_rows(cluster, "rlm_map_items")
                match fault:
                    case "kill":
                        await run_in_thread(cluster.kill_worker, other)
                    case "home":
                        await run_in_thread(cluster.kill_worker, home)
                    case "stop":
                        cluster.signal_worker(other, signal.SIGSTOP)
                        await anyio.sleep(STANDING_SECONDS)
                        cluster.signal_worker(other, signal.SIGCONT)
                    case "cancel":
                        cancelled = await call(client, "cancel_run", run_id=begun["run_id"])
                        assert cancelled["status"] == "cancelled"
                        await wait_for_rows(cluster, "rlm_maps", count=0)
                        cluster.model.requests.clear()
                        begun = await ask(client, "lines", 2)
                    case _:
                        pass
                run: dict[str, Any] = {"status": "running"}
                while run["status"] == "running":
                    run = await call(client, "rlm_result", run_id=begun["run_id"], wait_seconds=20)
            assert (run["status"], run["answer"]) == ("completed", right_answer()), run
            assert answered_calls(cluster, begun["run_id"]) == ASKED
            if fault != "home":  # calls that were in flight when it died are asked again
                requests = Counter(request.last for request in cluster.model.requests if "FINAL" not in request.text)
                assert requests == ASKED
                await wait_for_rows(cluster, "rlm_maps", count=0)
                assert [path for path in (tmp_path / "buckets").rglob("*/maps/*") if path.is_file()] == []

"""Servers and workers as processes over one database and one bucket; benchmarks/cluster.py does it for minutes."""

import shutil
from pathlib import Path

import anyio
import pytest

pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")

from benchmarks.cluster_faults import Fault, run_under_faults
from benchmarks.cluster_processes import SUMS, ask, call, cluster_processes
from tests.peers.cluster import PASSWORD, PostgresServer
from tests.peers.forking import forked_command
from tests.peers.networks import why_unavailable
from tests.peers.places import at

pytestmark = [pytest.mark.cluster, pytest.mark.anyio]


async def test_runs_that_a_server_begins_are_played_by_workers_and_cancelled_from_the_server(
    tmp_path: Path, sandbox_cache: Path, postgres: PostgresServer
) -> None:
    with anyio.fail_after(240):
        command = forked_command()
        async with cluster_processes(tmp_path, sandbox_cache, workers=1, latency=0.01, command=command) as cluster:
            async with at(cluster.url, "auto") as client:
                await call(client, "register_context", text="a line\n" * 20_000, name="lines")
                run = await ask(client, "lines", 1)
                assert (run["status"], str(run["answer"]), run["stopped_by"]) == ("completed", SUMS.answer, "final")

                cluster.model.latency = 30.0
                asked = await call(client, "rlm_solve", query="2?", contexts=["lines"], mode="rlm", wait_seconds=0)
                assert asked["status"] == "running"
                while len(cluster.model.requests) < 32:  # noqa: ASYNC110 - the model does not tell
                    await anyio.sleep(0.02)
                cancelled = await call(client, "cancel_run", run_id=asked["run_id"])
                assert cancelled["status"] == "cancelled"
            logged = (tmp_path / "workers.log").read_text()
            assert PASSWORD not in logged


async def test_a_context_of_one_server_is_asked_about_at_another_and_outlives_its_machine(
    tmp_path: Path, sandbox_cache: Path, postgres: PostgresServer
) -> None:
    text = "a line\n" * 20_000
    with anyio.fail_after(240):
        async with cluster_processes(
            tmp_path, sandbox_cache, servers=2, workers=1, latency=0.01, command=forked_command()
        ) as cluster:
            async with (
                at(cluster.urls[0], "auto") as first,
                at(cluster.urls[1], "auto") as listening,
                listening.listen(resources_list_changed=True) as events,
            ):
                registered = await call(first, "register_context", text=text, name="lines")
                async for _ in events:
                    break
            cluster.servers[0].kill()
            shutil.rmtree(tmp_path / "machine-0")
            async with at(cluster.urls[1], "auto") as second:
                listed = await call(second, "list_contexts")
                assert [one["context_id"] for one in listed["contexts"]] == [registered["context_id"]]
                found = await call(second, "inspect_context", context="lines", search="a li", max_matches=1)
                assert found["total"] == 20_000
                code = "print(len(context))"
                assert (await call(second, "inspect_context", context="lines", code=code))["stdout"] == "140000\n"
                run = await ask(second, "lines", 1)
                assert (run["status"], str(run["answer"])) == ("completed", SUMS.answer)
                removed = await second.call_tool("remove_context", {"context": "lines"})
                assert not removed.is_error


@pytest.mark.parametrize("fault", ["kill", "stop", "cut", "server", "database"])
async def test_no_fault_makes_a_run_fail_or_a_paid_call_be_asked_again(
    tmp_path: Path, sandbox_cache: Path, postgres: PostgresServer, fault: Fault
) -> None:
    if fault == "cut" and (reason := why_unavailable()):
        pytest.skip(f"no worker can be cut off here: {reason}")
    with anyio.fail_after(280):
        async with cluster_processes(
            tmp_path, sandbox_cache, workers=2, has_nodes=fault == "cut", command=forked_command()
        ) as cluster:
            found = await run_under_faults(cluster, seconds=8, clients=2, faults=[fault], seed=1)
    assert found.wrong == []
    assert (found.repeated, found.unrecorded, found.old_epochs, found.sent_later) == (0, 0, 0, 0)
    assert found.made[fault] >= 1
    assert found.runs >= 2

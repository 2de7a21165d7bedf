"""Clients of several servers behind a balancer: what they keep when another server answers, or theirs ends."""

from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")

from mcp import Client, MCPError

from benchmarks.cluster_processes import SUMS, call, cluster_processes
from rlm_mcp.server.transports.token_file import digest_of
from rlm_mcp.workspace.inspect_repls import INSPECT_REPLS
from rlm_mcp.workspace.kept_repl import what_became_of
from rlm_mcp.workspace.repl_states import TakenState
from tests.peers.balancer import Balancer
from tests.peers.cluster import PostgresServer
from tests.peers.forking import forked_command
from tests.peers.places import at

pytestmark = [pytest.mark.cluster, pytest.mark.anyio]


async def run_code(client: Client, code: str, context: str = "lines", **more: Any) -> dict[str, Any]:
    return await call(client, "inspect_context", context=context, code=code, **more)


async def until_gone(url: str) -> None:
    """Waits until a server accepts no connection any more: it dies a moment after the process that was killed."""
    async with httpx2.AsyncClient() as http:
        while True:
            try:
                await http.get(f"{url}/health")
            except httpx2.ConnectError:
                return
            except httpx2.TransportError:
                continue


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_variables_survive_a_change_of_server_an_eviction_and_a_restart(
    tmp_path: Path, sandbox_cache: Path, postgres: PostgresServer, era: str
) -> None:
    with anyio.fail_after(280):
        async with cluster_processes(tmp_path, sandbox_cache, servers=2, workers=0) as cluster:
            balancer = Balancer(cluster.urls)
            async with balancer.client(era) as client:
                await call(client, "register_context", text="a line", name="lines")
                await run_code(client, "n = 0")
                for n in range(1, 6):
                    cell = await run_code(client, "n += 1\nprint(n)")
                    assert (cell["stdout"], cell.get("notes", [])) == (f"{n}\n", [])
                assert (len(balancer.passed) == 2) == (era == "auto")

                for number in range(2 * INSPECT_REPLS):  # so many more at each server
                    await call(client, "register_context", text=f"text {number}", name=f"text-{number}")
                    await run_code(client, "1", f"text-{number}")
                    await run_code(client, "1", f"text-{number}")
                assert (await run_code(client, "print(n)"))["stdout"] == "5\n"

            for server in cluster.servers:
                server.terminate()
                assert await anyio.to_thread.run_sync(server.wait, 60) == 0
            cluster.urls.clear()
            async with Balancer([await cluster.start_server(), await cluster.start_server()]).client(era) as client:
                cell = await run_code(client, "print(n)")
                assert (cell["stdout"], cell.get("notes", [])) == ("5\n", [])


async def test_clients_that_run_cells_at_two_servers_at_once_share_their_variables(
    tmp_path: Path, sandbox_cache: Path, postgres: PostgresServer
) -> None:
    async def count_on(url: str, era: str) -> None:
        async with at(url, era) as client:
            for _ in range(5):
                assert (await run_code(client, "n += 1")).get("notes", []) == []

    with anyio.fail_after(240):
        async with (
            cluster_processes(tmp_path, sandbox_cache, servers=2, workers=0) as cluster,
            at(cluster.url, "auto") as client,
        ):
            await call(client, "register_context", text="a line", name="lines")
            await run_code(client, "n = 0")
            async with anyio.create_task_group() as tasks:
                for url in cluster.urls:
                    for era in ("auto", "legacy"):
                        tasks.start_soon(count_on, url, era)
            assert (await run_code(client, "print(n)"))["stdout"] == "20\n"


async def test_tenants_with_the_same_context_share_no_variables_at_any_server(
    tmp_path: Path, sandbox_cache: Path, postgres: PostgresServer
) -> None:
    names = ("ann", "bob")
    (tmp_path / "tokens").write_text("".join(f"{name} {digest_of(name)}\n" for name in names))
    with anyio.fail_after(240):
        async with cluster_processes(tmp_path, sandbox_cache, servers=1, workers=0) as cluster:
            urls = [await cluster.start_server("--token-file", str(tmp_path / "tokens")) for _ in range(2)]
            contexts = set()
            for name in names:
                async with at(urls[0], "auto", name) as client:
                    registered = await call(client, "register_context", text="a line", name="lines")
                    contexts.add(registered["context_id"])
                    await run_code(client, f"mine = {name!r}")
            for url in reversed(urls):
                for name in names:
                    async with at(url, "auto", name) as client:
                        assert (await run_code(client, "print(mine)"))["stdout"] == f"{name}\n"
            async with at(urls[1], "auto", "ann") as client:
                await run_code(client, "1", reset=True)
                assert "NameError" in str(await run_code(client, "mine"))
            async with at(urls[0], "auto", "bob") as client:
                assert (await run_code(client, "print(mine)"))["stdout"] == "bob\n"
    assert len(contexts) == 1


async def test_after_a_server_was_killed_in_a_cell_the_next_call_is_answered_by_another_and_told_what_is_missing(
    tmp_path: Path, sandbox_cache: Path, postgres: PostgresServer
) -> None:
    async def run_endlessly(url: str) -> None:
        with pytest.raises((MCPError, httpx2.HTTPError, ExceptionGroup)):
            async with at(url, "auto") as client:
                await run_code(client, "n += 1\nprint('begun')\nwhile True: pass", timeout_seconds=200)

    with anyio.fail_after(240):
        async with (
            cluster_processes(tmp_path, sandbox_cache, servers=2, workers=0) as cluster,
            at(cluster.urls[1], "auto") as client,
        ):
            await call(client, "register_context", text="a line", name="lines")
            await run_code(client, "n = 1")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run_endlessly, cluster.urls[0])
                with cluster.database() as database:
                    while database.rows("SELECT begun FROM rlm_repls") != [(2,)]:  # noqa: ASYNC110 - a cell tells nobody
                        await anyio.sleep(0.05)
                cluster.servers[0].kill()
                cell = await run_code(client, "print(n)")
    missing = what_became_of(TakenState(lease="", begun=2, data=b"", cells=1), "")
    assert (cell["stdout"], cell["notes"]) == ("1\n", [missing])


async def test_a_handshake_client_whose_server_died_is_told_404_and_initializes_anew_and_its_run_goes_on(
    tmp_path: Path, sandbox_cache: Path, postgres: PostgresServer
) -> None:
    with anyio.fail_after(240):
        command = forked_command()
        async with cluster_processes(
            tmp_path, sandbox_cache, servers=2, workers=1, latency=0.2, command=command
        ) as cluster:
            balancer = Balancer(cluster.urls)
            async with balancer.client("legacy") as client:
                await call(client, "register_context", text="a line\n" * 20_000, name="lines")
                asked = await call(
                    client, "rlm_solve", query="question 1: add it up", contexts=["lines"], mode="rlm", wait_seconds=0
                )
                ((url, _),) = balancer.passed.items()
                cluster.servers[cluster.urls.index(url)].kill()
                await until_gone(url)
                with pytest.raises(MCPError, match="Session"):
                    await client.call_tool("list_contexts", {})
            assert sum(balancer.passed.values()) > balancer.passed[url]
            async with Balancer(cluster.urls).client("legacy") as client:
                run = await call(client, "rlm_result", run_id=asked["run_id"], wait_seconds=50)
    assert (run["status"], str(run["answer"])) == ("completed", SUMS.answer)

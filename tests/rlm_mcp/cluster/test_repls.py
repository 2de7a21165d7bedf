"""REPLs of `inspect_context` whose variables move between the servers of a cluster, and outlive them."""

import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

pytest.importorskip("psycopg", reason="the extra `cluster` is not installed")

from rlm_mcp.bucket_address import BucketAddress
from rlm_mcp.cluster.addresses import parse_database
from rlm_mcp.cluster.database import Database
from rlm_mcp.cluster.notices import Notices
from rlm_mcp.cluster.objects import Objects, owner_prefix
from rlm_mcp.cluster.repls import GONE, HeldRepls, RowReplStates, delete_dropped, sweep_states
from rlm_mcp.cluster.schema import prepare_schema
from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.redact import Secret
from rlm_mcp.repl.sandbox import open_sandbox
from rlm_mcp.repl.session import SandboxFailed
from rlm_mcp.workspace.inspect_repls import InspectRepls
from rlm_mcp.workspace.kept_repl import what_became_of
from rlm_mcp.workspace.repl_states import NOT_SAVED, ReplStates, StateNotKept, TakenState
from tests.peers.cluster import BUCKET, PostgresServer, access_to, object_store, open_repl_states, postgres_server
from tests.peers.kept_repls import Process, context, process, taken

pytestmark = [pytest.mark.cluster, pytest.mark.anyio]

AWAY = "the bucket of the server cannot be used now"
NOT_KEPT = "The variables cannot be saved ({}): they last as long as this server keeps them."


@pytest.fixture
def reopen(request: pytest.FixtureRequest) -> Callable[..., RowReplStates]:
    """Opens the states as servers of one tenant would, which live unless it is said that they do not."""
    return open_repl_states(request, lives=True)


@pytest.fixture
def unreachable() -> Objects:
    return Objects(BucketAddress(bucket=BUCKET), access=access_to("http://127.0.0.1:1"), patience=0.2)


def objects_of(objects: Objects, states: RowReplStates) -> list[str]:
    """The keys of the states in the bucket."""
    return list(objects.keys(f"{owner_prefix(states.owner)}/repls/"))


# --- a REPL that is asked for at one server after the other


async def test_variables_come_along_to_another_server_and_back_and_that_is_not_worth_a_note(
    reopen: Callable[..., RowReplStates],
) -> None:
    async with process(reopen()) as one, process(reopen()) as other:
        told = [await server.run() for server in (one, other, one, one, other)]
    assert told == [()] * 5
    assert (one.restored, other.restored) == ([[b"1"]], [[b"1", b"3"]])


class LateStates:
    """States that are on record, for others too, a while before `save` returns."""

    def __init__(self, states: RowReplStates) -> None:
        self._states = states

    def __getattr__(self, name: str) -> Any:
        return getattr(self._states, name)

    def save(self, *arguments: Any) -> bool:
        saved = self._states.save(*arguments)
        time.sleep(0.3)
        return saved


async def test_a_server_that_is_asked_again_before_it_knows_that_it_has_saved_keeps_its_session(
    reopen: Callable[..., RowReplStates],
) -> None:
    late: Any = LateStates(reopen())
    async with process(late) as one, process(reopen()) as other:
        told = [await server.run() for server in (one, other, one)]
    assert told == [()] * 3
    assert (one.restored, other.restored) == ([[b"1"]], [[b"1"]])


async def test_a_server_waits_for_the_cell_that_runs_at_another_and_gets_what_it_leaves(
    reopen: Callable[..., RowReplStates],
) -> None:
    async with process(reopen()) as one, process(reopen()) as other, anyio.create_task_group() as tasks:
        tasks.start_soon(one.run, "a", "wait")
        await one.began.wait()
        tasks.start_soon(other.run)
        while not other.opener.opened:  # noqa: ASYNC110 - the opener does not tell
            await anyio.sleep(0.01)
        await other.run("b")  # by now it has asked for the other one, and waits for it only
        assert other.opener.opened[0].ran == []
        one.go.set()
    assert other.restored[0] == [b"1"]


async def test_a_server_that_gives_up_waiting_leaves_the_repl_to_the_other(
    reopen: Callable[..., RowReplStates],
) -> None:
    async with process(reopen()) as one, process(reopen()) as other, anyio.create_task_group() as tasks:
        tasks.start_soon(one.run, "a", "wait")
        await one.began.wait()
        with anyio.move_on_after(0.3):
            await other.run()
        one.go.set()
        assert await one.run() == ()
    assert sum(len(repl.ran) for repl in one.opener.opened) == 2
    assert [repl.ran for repl in other.opener.opened] == [[]]


async def test_a_server_that_has_the_repl_open_and_gives_up_waiting_leaves_it_to_the_other_and_gets_its_variables(
    reopen: Callable[..., RowReplStates],
) -> None:
    async with process(reopen()) as one, process(reopen()) as other, anyio.create_task_group() as tasks:
        await other.run()
        tasks.start_soon(one.run, "a", "wait")
        await one.began.wait()
        with anyio.move_on_after(0.3):
            await other.run()
        one.go.set()
        assert await one.run() == ()
        assert await other.run() == ()
    assert [repl.ran for repl in other.opener.opened] == [["1"], ["1"]]


async def test_a_call_behind_one_that_gives_up_waiting_is_answered(reopen: Callable[..., RowReplStates]) -> None:
    async with process(reopen()) as one, process(reopen()) as other, anyio.create_task_group() as tasks:
        tasks.start_soon(one.run, "a", "wait")
        await one.began.wait()
        with anyio.move_on_after(0.3):
            async with anyio.create_task_group() as giving_up:
                giving_up.start_soon(other.run)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(other.run)
        one.go.set()
    assert [repl.ran for repl in other.opener.opened] == [[], ["1"]]


async def test_cells_that_clients_run_at_three_servers_at_once_are_all_in_the_last_state(
    reopen: Callable[..., RowReplStates],
) -> None:
    states = [reopen() for _ in range(4)]

    async def run_cells(server: Process) -> None:
        for _ in range(4):
            assert await server.run() == ()

    async with (
        process(states[0]) as one,
        process(states[1]) as two,
        process(states[2]) as three,
        anyio.create_task_group() as tasks,
    ):
        for server in (one, two, three):
            for _ in range(2):
                tasks.start_soon(run_cells, server)
    state = await run_in_thread(taken, states[3], "a", "scripted")
    assert (state.begun, state.cells) == (24, 24)


async def test_a_repl_that_was_only_opened_does_not_keep_another_server_waiting(
    reopen: Callable[..., RowReplStates],
) -> None:
    async with process(reopen()) as one, process(reopen()) as other:
        assert await one.repls.complete(context("a"), "x") == ()
        assert await other.run() == ()
        assert await one.run() == ()
    assert (one.restored, other.restored) == ([[b"1"]], [[]])


async def test_a_reset_at_one_server_begins_anew_at_the_other(reopen: Callable[..., RowReplStates]) -> None:
    async with process(reopen()) as one, process(reopen()) as other:
        await one.run()
        assert await other.run(reset=True) == ()
        assert await one.run() == ()
    assert (one.restored[-1], other.restored) == ([b"1"], [[]])


@asynccontextmanager
async def server(store: Store, states: ReplStates, cache: Path) -> AsyncIterator[InspectRepls]:
    """The REPLs of one server with the real sandbox."""
    async with open_sandbox(cache) as sandbox, anyio.create_task_group() as tasks:
        repls = InspectRepls(partial(sandbox.open_repl, store), states=states, tasks=tasks)
        yield repls
        await repls.close_all()


async def test_variables_of_the_real_sandbox_come_along(
    reopen: Callable[..., RowReplStates], sandbox_cache: Path, tmp_path: Path
) -> None:
    with Store(tmp_path / "data") as store, anyio.fail_after(60):
        text = store.register_text("some text", name="t")
        async with server(store, reopen(), sandbox_cache) as one, server(store, reopen(), sandbox_cache) as other:
            await one.run_code(text, "found = {'here': len(context)}\ndef double(x): return 2 * x", seconds=20)
            cell = await other.run_code(text, "double(found['here']), context[:4]", seconds=20)
            assert (cell.value, cell.notes) == ("(18, 'some')", ())
            await other.run_code(text, "found['there'] = len(contexts)\ndel double", seconds=20)
            cell = await one.run_code(text, "found, context[:4], 'double' in globals()", seconds=20)
            assert (cell.value, cell.notes) == ("({'here': 9, 'there': 1}, 'some', False)", ())


async def test_a_reset_at_one_server_ends_a_cell_that_runs_at_another(
    reopen: Callable[..., RowReplStates], sandbox_cache: Path, tmp_path: Path
) -> None:
    told: list[str] = []

    async def run_endless(repls: InspectRepls, text: Context) -> None:
        try:
            told.append(str((await repls.run_code(text, "while True: pass", seconds=600)).error))
        except SandboxFailed as error:
            told.append(str(error))

    with Store(tmp_path / "data") as store, anyio.fail_after(60):
        text = store.register_text("some text", name="t")
        async with server(store, reopen(), sandbox_cache) as one, server(store, reopen(), sandbox_cache) as other:
            await one.run_code(text, "found = 1", seconds=20)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run_endless, one, text)
                await anyio.wait_all_tasks_blocked()
                cell = await other.run_code(text, "'found' in globals()", seconds=20, reset=True)
            assert (cell.value, cell.notes) == ("False", ())
            cell = await one.run_code(text, "'found' in globals()", seconds=20)
            assert (cell.value, cell.notes) == ("False", ())
    assert len(told) == 1


# --- servers that die, stand still, or share nothing


async def test_cells_that_a_dead_server_did_not_save_are_told(reopen: Callable[..., RowReplStates]) -> None:
    dead = reopen(lives=False)
    lease = (await run_in_thread(taken, dead, "a", "scripted")).lease
    assert await run_in_thread(dead.count_cell, "a", lease, 1)
    assert await run_in_thread(dead.save, "a", lease, "scripted", 1, b"1")
    assert await run_in_thread(dead.count_cell, "a", lease, 2)
    async with process(reopen()) as successor:
        (told,) = await successor.run()
        assert told == what_became_of(TakenState(lease="", begun=2, data=b"1", cells=1), "")
        assert not await run_in_thread(dead.save, "a", lease, "scripted", 2, b"2")
        assert await successor.run() == ()
    assert successor.restored == [[b"1"]]


async def test_a_lease_is_renewed_while_a_cell_runs(reopen: Callable[..., RowReplStates], database: Database) -> None:
    held = HeldRepls()
    busy, other = reopen(lives=False, held=held), reopen(lives=False)
    lease = taken(busy, "a", "image").lease
    database.rows("UPDATE rlm_repls SET held_until = clock_timestamp() WHERE epoch = %s", (int(lease),))
    held.renew(database)
    assert other.take("a", "image") is None
    assert busy.count_cell("a", lease, 1)


async def test_of_many_servers_only_the_one_that_has_the_repl_ever_replaces_its_state(
    reopen: Callable[..., RowReplStates],
) -> None:
    """Each adds one to the state it has taken, and loses the REPL to others at random."""
    saves: list[int] = []

    def add_on(states: RowReplStates) -> None:
        for number in range(40):
            state = states.take("a", "image")
            if state is None:
                continue
            cells = state.begun + 1
            if number % 3 == 0:
                states.release("a", state.lease)  # so that another may take it before this one saves
            is_counted = states.count_cell("a", state.lease, cells)
            if states.save("a", state.lease, "image", cells, str(int(state.data or b"0") + 1).encode()):
                saves.append(is_counted)
            states.release("a", state.lease)

    threads = [threading.Thread(target=add_on, args=(reopen(lives=False),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(saves)
    assert taken(reopen(lives=False), "a", "image").data == str(len(saves)).encode()


async def test_a_tenant_neither_gets_nor_drops_what_another_has_of_the_same_context(
    request: pytest.FixtureRequest, reopen: Callable[..., RowReplStates]
) -> None:
    own, strange = reopen(), open_repl_states(request, lives=True)()
    async with process(own) as server, process(strange) as stranger:
        await server.run()
        assert await stranger.run() == ()
        await stranger.repls.forget("a")
    assert stranger.restored == [[]]
    assert await run_in_thread(strange.context_ids) == set()
    state = await run_in_thread(taken, own, "a", "scripted")
    assert (state.begun, state.data) == (1, b"1")
    assert not await run_in_thread(strange.count_cell, "a", state.lease, 9)


# --- what is in the bucket


async def test_only_the_last_states_are_in_the_bucket(reopen: Callable[..., RowReplStates], objects: Objects) -> None:
    states = reopen(lives=False)
    lease = taken(states, "a", "image").lease
    for cells in range(1, 4):
        assert states.count_cell("a", lease, cells)
        assert states.save("a", lease, "image", cells, b"one")
        states.delete_replaced()
        assert len(objects_of(objects, states)) == 1
    states.drop("a")
    delete_dropped(states.database, objects)
    assert objects_of(objects, states) == []


async def test_states_that_nobody_uses_any_more_are_deleted_and_that_is_told(
    reopen: Callable[..., RowReplStates], objects: Objects
) -> None:
    states = reopen(lives=False)
    lease = taken(states, "a", "image").lease
    assert states.count_cell("a", lease, 1)
    assert states.save("a", lease, "image", 1, b"one")
    sweep_states(states.database, objects)
    assert len(objects_of(objects, states)) == 1
    sweep_states(states.database, objects, unused=0, owner=states.owner)
    assert objects_of(objects, states) == []
    assert taken(states, "a", "image").lost == NOT_SAVED


async def test_a_state_that_is_missing_in_the_bucket_is_told(
    reopen: Callable[..., RowReplStates], objects: Objects
) -> None:
    states = reopen(lives=False)
    lease = taken(states, "a", "image").lease
    assert states.count_cell("a", lease, 1)
    assert states.save("a", lease, "image", 1, b"one")
    for key in objects_of(objects, states):
        objects.delete(key)
    state = taken(states, "a", "image")
    assert (state.begun, state.data, state.lost) == (1, None, GONE)


class Failing(Objects):
    """Objects that end with an error which nobody expects when they are read."""

    def get(self, key: str) -> bytes:
        raise MemoryError(key)


async def test_a_repl_whose_state_could_not_be_taken_is_not_kept_from_others(
    reopen: Callable[..., RowReplStates], objects: Objects
) -> None:
    held = HeldRepls()
    failing = reopen(lives=False, held=held, objects=Failing(objects.address, access=access_to("http://127.0.0.1:1")))
    states = reopen(lives=False)
    lease = taken(states, "a", "image").lease
    assert states.count_cell("a", lease, 1)
    assert states.save("a", lease, "image", 1, b"one")
    with pytest.raises(MemoryError):
        failing.take("a", "image")
    assert repr(held) == "<HeldRepls 0>"
    assert taken(states, "a", "image").data == b"one"  # once the lease has expired


# --- without the bucket, and without the database


async def test_without_the_bucket_cells_are_answered_and_told_that_nothing_is_saved(
    reopen: Callable[..., RowReplStates], unreachable: Objects
) -> None:
    states = reopen(objects=unreachable)
    lease = (await run_in_thread(taken, states, "b", "scripted")).lease
    with pytest.raises(StateNotKept, match=f"^{AWAY}$"):
        await run_in_thread(states.save, "b", lease, "scripted", 1, b"1")
    async with process(states) as server, process(reopen()) as other:
        told: list[str] = []
        while not told:  # until it was tried
            told += await server.run()
        assert told == [NOT_KEPT.format(AWAY)]
        assert await server.run() == ()
        assert await other.run() == (what_became_of(TakenState(lease="", begun=2), NOT_SAVED),)
    assert len(server.opener.opened) == 1


async def test_when_the_bucket_is_back_another_server_gets_what_was_not_saved(
    reopen: Callable[..., RowReplStates], tmp_path: Path
) -> None:
    with object_store(tmp_path / "buckets") as endpoint:
        pass
    stopping = Objects(BucketAddress(bucket=BUCKET), access=access_to(endpoint), patience=0.2)
    async with process(reopen(objects=stopping)) as one, process(reopen(objects=stopping)) as other:
        while not await one.run():  # until it was tried
            pass
        ran = len(one.opener.opened[0].ran)
        with object_store(tmp_path / "buckets", int(endpoint.rpartition(":")[2])):
            assert await other.run() == ()
            assert other.restored == [[str(ran).encode()]]
            assert await one.run() == ()


async def test_without_the_bucket_another_server_is_told_why_variables_are_gone(
    reopen: Callable[..., RowReplStates], unreachable: Objects
) -> None:
    async with process(reopen()) as server:
        await server.run()
    async with process(reopen(objects=unreachable)) as other:
        (told, *_) = await other.run()
    assert told == f"The variables of the earlier cells are gone ({AWAY}): run again what you need."


async def test_without_the_database_cells_are_answered_and_told_in_one_sentence(
    postgres: PostgresServer, objects: Objects
) -> None:
    with postgres_server(postgres.programs) as own, Database(parse_database(Secret(own.url))) as database:
        prepare_schema(database)
        options: dict[str, Any] = {"owner": secrets.token_hex(4), "node": "one"}
        states = RowReplStates(database, objects, Notices(database), HeldRepls(), **options)
        async with process(states) as server:
            assert await server.run() == ()
            await run_in_thread(own.stop)
            told = [note for _ in range(3) for note in await server.run()]
            assert told == [NOT_KEPT.format("the database of the server cannot be used now")]
            await run_in_thread(own.start)

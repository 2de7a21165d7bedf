"""What the client of a REPL keeps, and is told, when the REPL was evicted or its process has ended."""

import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import pytest

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.repl.sandbox import open_sandbox
from rlm_mcp.repl.scripted import ScriptedOpener
from rlm_mcp.repl.types import CellResult
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.inspect_repls import InspectRepls
from rlm_mcp.workspace.kept_repl import REPLACED, what_became_of
from rlm_mcp.workspace.launch import RunModels
from rlm_mcp.workspace.repl_states import FileReplStates, MemoryReplStates, StorageAway, TakenState
from rlm_mcp.workspace.workspace import Workspace, open_workspace
from tests.peers.kept_repls import RESTORED, process, taken

pytestmark = pytest.mark.anyio


class Counting(MemoryReplStates):
    """Notes after how many cells each state was saved."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[int] = []
        self._waited: dict[int, anyio.Event] = {}

    def save(self, context_id: str, lease: str, image: str, cells: int, data: bytes) -> bool:
        is_saved = super().save(context_id, lease, image, cells, data)
        self.saved.append(cells)
        anyio.from_thread.run_sync(self._event(cells).set)
        return is_saved

    def _event(self, cells: int) -> anyio.Event:
        return self._waited.setdefault(cells, anyio.Event())

    async def until(self, cells: int) -> None:
        """Waits until a state after so many cells is saved."""
        await self._event(cells).wait()


class Crowded(Counting):
    """Saves nothing before `go`; `is_saving` once a state is being saved, `is_full` once two are."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.is_saving, self.is_full = threading.Event(), threading.Event(), threading.Event()
        self.most = self._now = 0

    def save(self, context_id: str, lease: str, image: str, cells: int, data: bytes) -> bool:
        self._now += 1
        self.is_saving.set()
        self.most = max(self.most, self._now)
        if self._now == 2:
            self.is_full.set()
        assert self.go.wait(60)
        self._now -= 1
        return super().save(context_id, lease, image, cells, data)


async def test_variables_come_back_after_a_restart_and_the_next_cell_is_told_once() -> None:
    states = MemoryReplStates()
    async with process(states) as first:
        assert [await first.run(), await first.run()] == [(), ()]
    async with process(states) as second:
        assert [await second.run(), await second.run()] == [(RESTORED,), ()]
    assert (first.restored, second.restored) == ([[]], [[b"2"]])


async def test_variables_come_back_after_an_eviction() -> None:
    async with process(MemoryReplStates(), most=1) as server:
        told = [await server.run(name) for name in ("a", "b", "a", "b")]
    assert told == [(), (), (RESTORED,), (RESTORED,)]
    assert server.restored == [[], [], [b"1"], [b"1"]]


async def test_a_state_is_saved_while_the_repl_stays_open() -> None:
    states = Counting()
    async with process(states) as server:
        await server.run()
        await states.until(1)


async def test_cells_that_follow_each_other_while_a_state_is_saved_are_saved_together() -> None:
    states = Counting()
    async with process(states) as server:
        for _ in range(50):
            await server.run()
    assert states.saved[-1] == 50
    assert len(states.saved) < 40


async def test_at_most_two_states_are_copied_at_once() -> None:
    states = Crowded()
    async with process(states) as server:
        for name in "abcde":
            await server.run(name)
        assert await run_in_thread(states.is_full.wait, 60)
        states.go.set()
    assert (states.most, states.saved) == (2, [1] * 5)


async def test_a_reset_forgets_what_was_kept() -> None:
    states = MemoryReplStates()
    async with process(states) as first:
        await first.run()
        assert await first.run(reset=True) == ()
    async with process(states) as second:
        await second.run()
    assert (first.restored, second.restored) == ([[], []], [[b"1"]])


async def test_a_cell_that_waits_while_its_repl_is_forgotten_runs_in_a_new_one_that_is_saved() -> None:
    states = MemoryReplStates()
    async with process(states) as one:
        async with anyio.create_task_group() as cells:
            cells.start_soon(one.run, "a", "wait")
            await one.began.wait()
            cells.start_soon(one.run)
            await anyio.wait_all_tasks_blocked()
            await one.repls.forget("a")
            one.go.set()
        assert len(one.opener.opened) == 2
    assert taken(states, "a", one.opener.opened[-1].image).data == b"1"


async def test_a_forgotten_context_leaves_nothing() -> None:
    states = MemoryReplStates()
    async with process(states) as server:
        await server.run("a")
        await server.run("b")
        await server.repls.forget("a")
        assert states.context_ids() == {"b"}

        async def exists(_: str) -> bool:
            return False

        await server.repls.forget_all_but(exists)
        assert states.context_ids() == set()


async def test_a_process_that_stood_still_takes_the_newer_state_before_its_next_cell() -> None:
    states = Counting()
    async with process(states) as one, process(states) as other:
        await one.run()
        await states.until(1)
        assert await other.run() == (RESTORED,)
        await states.until(2)
        assert await one.run() == (RESTORED,)
    assert one.restored == [[b"1"]]


async def test_all_cells_that_wait_for_a_repl_that_another_process_took_run_in_the_newer_one() -> None:
    states = Counting()
    async with process(states) as one, process(states) as other:
        await one.run()
        await states.until(1)
        assert await other.run() == (RESTORED,)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(one.run)
    assert [(len(repl.ran), repl.restored) for repl in one.opener.opened] == [(4, [b"1"])]


async def test_a_repl_that_is_reset_while_it_is_saved_and_a_cell_runs_is_not_saved_for_ever() -> None:
    states = Crowded()
    async with process(states) as server:
        await server.run()
        assert await run_in_thread(states.is_saving.wait, 60)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, "a", "wait")
            await server.began.wait()
            await server.repls.forget("a")
            server.go.set()
        states.go.set()
    assert states.saved == [1]


async def test_a_cell_that_ended_with_its_process_is_told() -> None:
    states = Counting()
    async with process(states) as server, anyio.create_task_group() as tasks:
        await server.run()
        await states.until(1)
        tasks.start_soon(server.run, "a", "wait")
        await server.began.wait()
        async with process(states) as successor:  # as if the first had been killed
            (told,) = await successor.run()
        server.go.set()
    assert told == what_became_of(TakenState(lease="", begun=2, data=b"1", cells=1), "")
    assert "before the last cell, which was not saved" in told


async def test_cells_that_were_told_to_be_missing_are_not_told_again() -> None:
    states = MemoryReplStates()
    states.count_cell("a", taken(states, "a", "scripted").lease, 3)
    async with process(states) as server:
        told = [await server.run(), await server.run()]
    assert [len(notes) for notes in told] == [1, 0]
    async with process(states) as successor:
        assert await successor.run() == (RESTORED,)


@pytest.mark.parametrize("saved", [0, 1])
async def test_cells_that_were_told_to_be_missing_are_not_told_after_one_more_cell_and_a_kill(saved: int) -> None:
    states = Counting()
    lease = taken(states, "a", "scripted").lease
    states.count_cell("a", lease, 3)
    if saved:
        await run_in_thread(states.save, "a", lease, "scripted", saved, b"1")
    async with process(states) as server:
        assert len(await server.run()) == 1
        await states.until(saved + 1)
        async with process(states) as successor:  # as if the first had been killed
            assert await successor.run() == (RESTORED,)


class AwayAtFirst(MemoryReplStates):
    """Cannot be used until `is_away` ends."""

    is_away = True

    def take(self, context_id: str, image: str) -> TakenState:
        if self.is_away:
            raise StorageAway("it is away")
        return super().take(context_id, image)


async def test_variables_that_could_not_be_read_when_the_repl_was_opened_are_told_to_be_gone() -> None:
    states = AwayAtFirst()
    states.is_away = False
    lease = taken(states, "a", "scripted").lease
    assert states.count_cell("a", lease, 1)
    assert states.save("a", lease, "scripted", 1, b"1")
    states.is_away = True
    async with process(states) as server:
        (away,) = await server.run()
        assert away.startswith("The variables cannot be saved (it is away)")
        states.is_away = False
        assert [await server.run(), await server.run()] == [(REPLACED,), ()]
        states.is_away = True
        await server.run("new")
        states.is_away = False
        assert await server.run("new") == ()


async def test_a_state_of_another_image_is_one_sentence() -> None:
    states = MemoryReplStates()
    lease = taken(states, "a", "older").lease
    assert states.count_cell("a", lease, 1)
    states.save("a", lease, "older", 1, b"1")
    async with process(states) as server:
        (told,) = await server.run()
    assert told == (
        "The variables of the earlier cells are gone (another version of the sandbox saved them): "
        "run again what you need."
    )


async def test_a_full_disk_is_told_once_and_the_cells_run(tmp_path: Path) -> None:
    (tmp_path / "repls").write_bytes(b"in the way")
    async with process(FileReplStates(tmp_path / "repls")) as server:
        first, second = await server.run(), await server.run()
    assert second == ()
    assert first == ("The variables cannot be saved (File exists): they last as long as this server keeps them.",)


async def test_removing_a_context_deletes_what_was_kept_of_it_also_where_nothing_is_kept(tmp_path: Path) -> None:
    def opened(*, keeps_repls: bool) -> AbstractAsyncContextManager[Workspace]:
        async def choose(root: str | None, sub: str | None) -> RunModels:
            return RunModels(root=ScriptedModel([]), sub=ScriptedModel([]))

        settings = Settings(data_dir=tmp_path, cache_dir=tmp_path, sub_call_cache=False)
        opener = ScriptedOpener([CellResult(code="")] * 9)
        return open_workspace(settings, choose=choose, open_repl=opener, keeps_repls=keeps_repls)

    async with opened(keeps_repls=True) as server:
        for name in ("a", "b"):
            text = await server.contexts.register(text=name, name=name)
            await server.repls.run_code(text, "1", seconds=1)
    kept = FileReplStates(tmp_path / "repls")
    assert len(kept.context_ids()) == 2
    async with opened(keeps_repls=False) as other:
        assert (await other.repls.run_code(text, "1", seconds=1)).notes == ()
        await other.remove_context("a")
        await run_in_thread(other.contexts.store.remove, "b")  # as an older version does
        await other.collect_garbage()
    assert [path.name for path in (tmp_path / "repls").iterdir()] == ["lock"]


async def test_variables_of_the_real_sandbox_come_back_in_another_process(sandbox_cache: Path, tmp_path: Path) -> None:
    states = FileReplStates(tmp_path / "repls")

    @asynccontextmanager
    async def server(store: Store) -> AsyncIterator[InspectRepls]:
        async with open_sandbox(sandbox_cache) as sandbox, anyio.create_task_group() as tasks:
            repls = InspectRepls(partial(sandbox.open_repl, store), states=states, tasks=tasks)
            yield repls
            await repls.close_all()

    with Store(tmp_path / "data") as store, anyio.fail_after(60):
        text = store.register_text("some text", name="t")
        async with server(store) as repls:
            await repls.run_code(text, "found = {'here': len(context)}\ndef double(x): return 2 * x", seconds=20)
        async with server(store) as repls:
            cell = await repls.run_code(text, "double(found['here']), context[:4]", seconds=20)
    assert (cell.value, cell.notes) == ("(18, 'some')", (RESTORED,))

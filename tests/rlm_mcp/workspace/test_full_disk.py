"""A full disk: every operation is one sentence, and leaves nothing half-written behind."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from rlm_mcp.contexts.types import Context
from rlm_mcp.errors import RlmError, StoreFull
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.repl.scripted import ScriptedOpener
from rlm_mcp.repl.types import CellResult
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.launch import RunModels, SolveRequest
from rlm_mcp.workspace.workspace import Workspace, open_workspace
from tests.peers.small_disk import CannotMount, SmallDisk, small_disk

pytestmark = pytest.mark.anyio


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        with small_disk(tmp_path / "disk") as mounted:
            yield mounted
    except CannotMount:
        pytest.skip("no disk can be mounted here")


def opened(disk: SmallDisk) -> AbstractAsyncContextManager[Workspace]:
    async def choose(root: str | None, sub: str | None) -> RunModels:
        return RunModels(root=ScriptedModel([]), sub=ScriptedModel([]))

    settings = Settings(data_dir=disk.data, cache_dir=disk.data, sub_call_cache=False)
    opener = ScriptedOpener([CellResult(code="", value=str(number)) for number in range(9)])
    return open_workspace(settings, choose=choose, open_repl=opener, keeps_repls=True)


@pytest.mark.parametrize("leave", [0, 8 << 10, 64 << 10])
async def test_a_store_that_does_not_fit_says_so_and_opens_once_there_is_space(disk: SmallDisk, leave: int) -> None:
    disk.fill(leave=leave)
    with pytest.raises(StoreFull, match=r"^the disk that holds .* is full: free some space or set RLM_MCP_DATA_DIR"):
        async with opened(disk):
            pass
    disk.free()
    async with opened(disk) as workspace:
        assert (await workspace.contexts.register(text="some text", name="t")).lines == 1


async def test_what_needs_space_is_refused_in_one_sentence_and_leaves_nothing(disk: SmallDisk, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>some text")
    async with opened(disk) as workspace:
        context = await workspace.contexts.register(text="some text", name="t")
        before = disk.files()
        disk.fill()
        request = SolveRequest(query="q", contexts=("t",))
        attempts: list[Callable[[], Awaitable[object]]] = [
            partial(workspace.contexts.register, text="another", name="u"),
            partial(workspace.contexts.register, source=str(tmp_path / "page.html")),
            partial(workspace.runs.start, request),
            partial(workspace.remove_context, "t"),
        ]
        for attempt in attempts:
            with pytest.raises(RlmError, match=r"free some space") as raised:
                await attempt()
            assert "\n" not in str(raised.value)
        assert await notes_of(workspace, context) == (
            "The variables cannot be saved (No space left on device): they last as long as this server keeps them.",
        )
        assert {name for name in disk.files() - before if disk.data.joinpath(name).stat().st_size} == set()
        disk.free()
        await workspace.contexts.register(text="another", name="u")
        assert await notes_of(workspace, context) == ()
    assert any(name.endswith(".state") for name in disk.files())


async def notes_of(workspace: Workspace, context: Context) -> tuple[str, ...]:
    return (await workspace.repls.run_code(context, "1", seconds=1)).notes

"""A full disk: every operation is one sentence, and leaves nothing half-written behind."""

import shutil
import subprocess
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

pytestmark = pytest.mark.anyio

PAGE = b"x" * 4096


class SmallDisk:
    """A disk of 2 MiB."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self._filler = directory / "filler"

    def fill(self, *, leave: int = 0) -> None:
        """Fills the disk, except for `leave` bytes."""
        with self._filler.open("wb", buffering=0) as file:
            try:
                while file.write(PAGE) == len(PAGE):
                    pass
            except OSError:
                file.truncate(max(0, file.tell() - leave))

    def free(self) -> None:
        """Frees what `fill` took."""
        self._filler.unlink()

    def files(self) -> set[str]:
        """The files in the data directory but for what is only there while a process is."""
        found = {str(path.relative_to(self.data)) for path in self.data.rglob("*") if path.is_file()}
        return {name for name in found if "/holders/" not in name and not name.endswith(("-wal", "-shm"))}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    where = tmp_path / "disk"
    where.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(  # noqa: S603 - a fixed command
            [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(where)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no disk can be mounted here")
    yield SmallDisk(where)
    subprocess.run(["umount", "-l", str(where)], check=True)  # noqa: S603, S607 - a fixed command


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

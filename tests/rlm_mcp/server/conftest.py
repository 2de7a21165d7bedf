"""A workspace over a temporary directory, and a client in either protocol era.

The models and the REPL are scripted, the store, the runs and the loop are real.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import anyio
import pytest
from mcp import Client
from mcp_types import CallToolResult, TextContent

from rlm_mcp.models.base import Attempts, Completion, Message, Profile, Usage
from rlm_mcp.repl.scripted import ScriptedOpener
from rlm_mcp.repl.types import CellResult, Final, GuestCalls
from rlm_mcp.server.server import build_server
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.launch import RunModels
from rlm_mcp.workspace.workspace import Workspace, open_workspace

LOG = "".join(
    f"2026-11-22 10:00:{i:02d} {'ERROR' if i % 3 == 0 else 'INFO'} worker-{i % 4} did thing {i}\n" for i in range(60)
)


class HeldModel:
    """A model that looks at the context first, and gives the answer once `go` is set."""

    name = "held"
    provider = "test"
    profile = Profile()

    def __init__(self) -> None:
        self.go = anyio.Event()
        self.waiting = anyio.Event()
        self.cancelled = anyio.Event()
        self.asked = 0
        self.answer = "42"

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        schema: Mapping[str, object] | None = None,
        logprobs: bool = False,
        stop: Sequence[str] = (),
        attempts: Attempts | None = None,
    ) -> Completion:
        self.asked += 1
        if self.asked == 1:
            return Completion(text="```repl\nlen(context)\n```", usage=Usage(prompt_tokens=10, completion_tokens=5))
        if attempts is not None:
            attempts.is_under_way = True
        self.waiting.set()
        try:
            await self.go.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.set()
            raise
        return Completion(text="```repl\nFINAL(result)\n```", usage=Usage(prompt_tokens=20, completion_tokens=5))


@pytest.fixture
def model() -> HeldModel:
    return HeldModel()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache", roots=(tmp_path,))


@pytest.fixture
async def workspace(settings: Settings, model: HeldModel) -> AsyncIterator[Workspace]:
    async def choose(root: str | None, sub: str | None) -> RunModels:
        return RunModels(root=model, sub=model)

    async def run_cell(code: str, calls: GuestCalls) -> CellResult:
        if "FINAL" in code:
            return CellResult(code=code, final=Final(value=model.answer))
        return CellResult(code=code, stdout=f"ran {code}\n", value=str(len(code)))

    async with open_workspace(settings, choose=choose, open_repl=ScriptedOpener(run_cell)) as workspace:
        yield workspace


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    path = tmp_path / "worker.log"
    path.write_text(LOG)
    return path


@pytest.fixture(params=["auto", "legacy"])
def era(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(workspace: Workspace, era: str) -> AsyncIterator[Client]:
    async with Client(build_server(workspace), mode=era) as client:
        yield client


def text_of(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text

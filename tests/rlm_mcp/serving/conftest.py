"""A workspace over a temporary directory, and a client in either protocol era."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from rlm_mcp.cells import CellResult, GuestCalls
from rlm_mcp.contexts.context import Context
from rlm_mcp.contexts.store import Store
from rlm_mcp.runs import Run, Runs
from rlm_mcp.scripted_repl import ScriptedOpener
from rlm_mcp.server import build_server
from rlm_mcp.engine import Event
from rlm_mcp.workspace import SolveRequest, Workspace

LOG = "".join(
    f"2026-11-22 10:00:{i:02d} {'ERROR' if i % 3 == 0 else 'INFO'} worker-{i % 4} did thing {i}\n" for i in range(60)
)


class Play:
    """A run that the test drives: it takes two turns, then waits for `go` and ends with `answer`."""

    def __init__(self, answer: Any = "42") -> None:
        self.answer = answer
        self.go = anyio.Event()
        self.started = 0
        self.cancelled = anyio.Event()

    def prepare(self, request: SolveRequest, contexts: Sequence[Context]) -> "Play":
        self.started += 1
        self.facts: Mapping[str, Any] = {
            "query": request.query,
            "contexts": [{"context_id": c.context_id, "name": c.name} for c in contexts],
        }
        return self

    async def play(self, run: Run, on_event: Callable[[Event], None]) -> None:
        for turn in (1, 2):
            event = {"event": "root_reply", "path": "", "turn": turn, "text": "…", "spent": {"sub_calls": turn * 3}}
            run.append(event)
            on_event(event)
        try:
            await self.go.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.set()
            raise
        chars = len(self.answer) if isinstance(self.answer, str) else 0
        ended = {
            "event": "run_ended",
            "status": "completed",
            "answer": self.answer,
            "answer_chars": chars,
            "stopped_by": "final",
            "iterations": 2,
        }
        run.append(ended)
        on_event(ended)


async def echo_cell(code: str, calls: GuestCalls) -> CellResult:
    """Stands for the sandbox where the sandbox is not what is tested: prints the code, its value is its length."""
    return CellResult(code=code, stdout=f"ran {code}\n", value=str(len(code)))


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    path = tmp_path / "worker.log"
    path.write_text(LOG)
    return path


@pytest.fixture
def play() -> Play:
    return Play()


@pytest.fixture
async def workspace(tmp_path: Path, play: Play) -> AsyncIterator[Workspace]:
    with Store(tmp_path / "data") as store:
        async with anyio.create_task_group() as tasks:
            workspace = Workspace(
                store=store,
                runs=Runs(tmp_path / "data"),
                prepare=play.prepare,
                open_repl=ScriptedOpener(echo_cell),
                tasks=tasks,
            )
            tasks.start_soon(workspace.announce_changes)
            yield workspace
            await workspace.close()


@pytest.fixture(params=["auto", "legacy"])
def era(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(workspace: Workspace, era: str) -> AsyncIterator[Client]:
    async with Client(build_server(workspace), mode=era) as client:
        yield client

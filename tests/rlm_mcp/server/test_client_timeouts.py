from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from rlm_mcp.errors import SearchRefused
from rlm_mcp.records.types import RunState
from rlm_mcp.server.client_timeouts import longest_wait, with_heartbeat
from rlm_mcp.server.presenters import running_message
from rlm_mcp.workspace.progress import IngestProgress, Progress


@pytest.mark.parametrize(
    ("client", "seconds"),
    [
        ("claude-code", 100),
        ("Claude Desktop", 55),
        ("codex-mcp-client", 55),
        ("GitHub Copilot JetBrains", 25),
        (None, 55),
    ],
)
def test_a_wait_ends_below_the_limit_of_its_client(client: str | None, seconds: float) -> None:
    params = None if client is None else SimpleNamespace(client_info=SimpleNamespace(name=client))
    assert longest_wait(SimpleNamespace(session=SimpleNamespace(client_params=params))) == seconds  # type: ignore[arg-type] # a stand-in, or wrong on purpose


def test_a_running_run_tells_the_next_call_and_a_guess_of_the_time() -> None:
    state = RunState(run_id="run-1", status="running", query="q", contexts=(), created_at="")
    progress = Progress(iteration=2, sub_calls=7, seconds=20, seconds_left=100, doing="asking the root model")
    assert running_message(state, progress) == (
        "Still running: turn 2 · 7 sub-calls · 20 s · asking the root model; usually done in 20-80 s more, at most "
        "100 s. Call rlm_result(run_id='run-1') to wait on; do not start it again."
    )


def test_a_client_that_bears_long_waits_is_told_of_them() -> None:
    state = RunState(run_id="run-1", status="running", query="q", contexts=(), created_at="")
    assert running_message(state, Progress(), 290.0).endswith(
        "Call rlm_result(run_id='run-1', wait_seconds=290) to wait on; do not start it again."
    )


class Listener:
    """A request whose client hears progress."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, str]] = []
        self.twice = anyio.Event()

    async def report_progress(self, progress: float, total: float | None, message: str) -> None:
        self.heard.append((progress, message))
        if len(self.heard) == 2:
            self.twice.set()


@pytest.mark.anyio
async def test_long_work_tells_how_far_it_is_again_and_again() -> None:
    listener: Any = Listener()
    progress = IngestProgress()

    async def work() -> str:
        progress.add(3, 2_500_000)
        await listener.twice.wait()
        return "done"

    with anyio.fail_after(60):
        assert await with_heartbeat(listener, lambda: str(progress), work, every_seconds=0.01) == "done"
    assert listener.heard == [(1, "3 files, 2.5 MB taken in · 0 s"), (2, "3 files, 2.5 MB taken in · 0 s")]


@pytest.mark.anyio
async def test_what_the_work_raises_arrives_unwrapped() -> None:
    async def work() -> str:
        raise SearchRefused("no such pattern")

    with pytest.raises(SearchRefused, match="no such pattern"):
        await with_heartbeat(Listener(), lambda: "", work)  # type: ignore[arg-type] # a stand-in

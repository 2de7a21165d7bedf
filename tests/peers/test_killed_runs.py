"""A process that is killed in the middle of a run, and another one that resumes it; benchmarks/kill.py kills 100."""

from pathlib import Path

import pytest

from benchmarks.kill import killed_and_resumed
from wasm_runtime import Runtime

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def compiled(sandbox_cache: Path) -> None:
    """Compiles the sandbox first, so that no process is killed while it does."""
    Runtime(sandbox_cache).close()


@pytest.mark.parametrize("events", [1, 9, 22, 40, 57])
async def test_a_killed_run_goes_on_and_asks_nothing_again(tmp_path: Path, sandbox_cache: Path, events: int) -> None:
    killed = await killed_and_resumed(tmp_path, events, 0.0, sandbox_cache)
    if killed is None:
        pytest.skip("the run was over before it was killed")
    assert (killed.repeated, killed.is_right) == (0, True), killed

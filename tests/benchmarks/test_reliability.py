"""A try of the figures of reliability: one seed, one run, and how its row reads."""

from pathlib import Path

import pytest

from benchmarks.figures import cell
from benchmarks.reliability import row, run_on_a_full_disk, run_under_faults
from tests.peers.small_disk import CannotMount
from wasm_runtime import Runtime

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def compiled(sandbox_cache: Path) -> None:
    """Compiles the sandbox first: it is not what fails here."""
    Runtime(sandbox_cache).close()


async def test_a_run_under_faults_has_the_right_answer_and_the_tokens_that_were_served(sandbox_cache: Path) -> None:
    assert await run_under_faults(3, sandbox_cache) == (True, True)


async def test_a_run_on_a_full_disk_says_so_and_is_right_once_there_is_space(sandbox_cache: Path) -> None:
    try:
        assert await run_on_a_full_disk(2, sandbox_cache) == (True, True)
    except CannotMount:
        pytest.skip("no disk can be mounted here")


def test_a_row_tells_how_many_survived_and_the_seeds_of_the_others() -> None:
    assert cell(row("kills", {5: True, 6: False, 7: False})) == "1 of 3 (seeds 6, 7)"
    assert cell(row("kills", {5: True})) == "1 of 1"

"""A try of the figures of reliability: one seed, one run, and how its row reads."""

from pathlib import Path

import pytest

from benchmarks.figures import cell
from benchmarks.reliability import row, run_on_a_full_disk, run_under_faults
from benchmarks.soak import Report, report_growth
from benchmarks.soak_processes import Sample
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


def samples(seconds: int, grows_by: float) -> list[Sample]:
    """A sample each 5 s of a server that grows by so many MB each time."""
    return [
        Sample(
            at=float(at), rss_mb=100 + at // 5 * grows_by, pss_mb=90, anonymous_mb=80, files=9, threads=5, processes=3
        )
        for at in range(0, seconds, 5)
    ]


def test_growth_of_clients_is_judged_after_the_warm_up_and_not_in_a_shorter_test() -> None:
    verdicts = {}
    for seconds, grows_by in [(10, 50.0), (25, 50.0), (60, 0.0), (60, 50.0)]:
        report = Report()
        report_growth(report, samples(seconds, grows_by), seconds / 60)
        verdicts[seconds, grows_by] = report.bad
    assert verdicts == {(10, 50.0): 0, (25, 50.0): 0, (60, 0.0): 0, (60, 50.0): 1}

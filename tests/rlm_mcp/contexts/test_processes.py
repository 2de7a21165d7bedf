"""Subprocesses end with the operation for which they were started, and with this process."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from rlm_mcp.contexts.processes import NoMoreProcesses, OutputTooLong, Process, Processes
from rlm_mcp.contexts.timeout import Timeout

ENDLESS = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"]
LONG = 2_000_000


def late() -> Timeout:
    """So late that no test reaches it. It begins when it is made."""
    return Timeout(600)


class Enough(Exception):
    """Raised when the output is no longer wanted."""


def wanted() -> None:
    """The output is still wanted."""


@pytest.fixture
def processes() -> Processes:
    return Processes()


def has_ended(process: Process) -> bool:
    return process.returncode is not None


def test_what_still_runs_at_the_end_of_the_block_is_killed(processes: Processes) -> None:
    with processes.running(ENDLESS, env={}, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
    assert has_ended(process)
    assert repr(processes) == "<Processes 0 running>"


def test_a_program_that_ended_before_it_read_what_was_written_is_no_error(processes: Processes) -> None:
    deaf = [sys.executable, "-c", "import os; os.close(0); print('begun', flush=True)"]
    with processes.running(deaf, env={}, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.stdin.write(b"nobody reads this")
    assert has_ended(process)


def test_output_that_is_no_longer_wanted_ends_the_program(processes: Processes) -> None:
    looks = 0

    def enough() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise Enough

    with pytest.raises(Enough):
        processes.read_output(ENDLESS, env={}, timeout=Timeout(600), check_cancelled=enough, most_bytes=LONG)
    assert repr(processes) == "<Processes 0 running>"


def test_output_is_whole_or_none(processes: Processes) -> None:
    long = [sys.executable, "-c", "print('x' * 1_000_000)"]
    assert (
        processes.read_output(long, env={}, timeout=late(), check_cancelled=wanted, most_bytes=LONG)
        == b"x" * 1_000_000 + b"\n"
    )
    failing = [sys.executable, "-c", "print('x'); raise SystemExit(1)"]
    assert processes.read_output(failing, env={}, timeout=late(), check_cancelled=wanted, most_bytes=LONG) is None
    assert processes.read_output(ENDLESS, env={}, timeout=Timeout(0.1), check_cancelled=wanted, most_bytes=LONG) is None


def test_kill_all_ends_the_running_programs_and_lets_none_start(processes: Processes) -> None:
    with ThreadPoolExecutor() as threads:
        printing = threads.submit(
            processes.read_output, ENDLESS, env={}, timeout=late(), check_cancelled=wanted, most_bytes=LONG
        )
        while "1 running" not in repr(processes):
            continue
        processes.kill_all()
        with pytest.raises(NoMoreProcesses, match="shutting down"):
            printing.result(timeout=60)
        with pytest.raises(NoMoreProcesses):
            processes.read_output(ENDLESS, env={}, timeout=late(), check_cancelled=wanted, most_bytes=LONG)


def test_output_beyond_its_bound_ends_the_program(processes: Processes) -> None:
    endless = [sys.executable, "-c", "while True: print('x' * 1000)"]
    with pytest.raises(OutputTooLong, match="printed more than 5,000 bytes"):
        processes.read_output(endless, env={}, timeout=Timeout(600), check_cancelled=wanted, most_bytes=5_000)
    assert repr(processes) == "<Processes 0 running>"

"""Programs end with the work that they were started for, and with the process."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from rlm_mcp.contexts.deadline import Deadline
from rlm_mcp.contexts.processes import Child, Children, NoMoreChildren

ENDLESS = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"]


class Enough(Exception):
    """The output is not wanted any more."""


def wanted() -> None:
    """The output is."""


@pytest.fixture
def children() -> Children:
    return Children()


def has_ended(child: Child) -> bool:
    return child.returncode is not None


def test_what_still_runs_at_the_end_of_the_block_is_killed(children: Children) -> None:
    with children.started(ENDLESS, env={}, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
    assert has_ended(child)
    assert repr(children) == "<Children 0 running>"


def test_output_that_is_not_wanted_any_more_is_broken_off(children: Children) -> None:
    looks = 0

    def enough() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise Enough

    with pytest.raises(Enough):
        children.output(ENDLESS, env={}, deadline=Deadline(600), look=enough)
    assert repr(children) == "<Children 0 running>"


def test_output_is_whole_or_none(children: Children) -> None:
    long = [sys.executable, "-c", "print('x' * 1_000_000)"]
    assert children.output(long, env={}, deadline=Deadline(600), look=wanted) == b"x" * 1_000_000 + b"\n"
    failing = [sys.executable, "-c", "print('x'); raise SystemExit(1)"]
    assert children.output(failing, env={}, deadline=Deadline(600), look=wanted) is None
    assert children.output(ENDLESS, env={}, deadline=Deadline(0.1), look=wanted) is None


def test_a_process_that_ends_stops_them_all_and_starts_none_any_more(children: Children) -> None:
    with ThreadPoolExecutor() as threads:
        printing = threads.submit(children.output, ENDLESS, env={}, deadline=Deadline(600), look=wanted)
        while "1 running" not in repr(children):
            continue
        children.stop()
        with pytest.raises(NoMoreChildren, match="about to end"):
            printing.result(timeout=10)
        with pytest.raises(NoMoreChildren):
            children.output(ENDLESS, env={}, deadline=Deadline(600), look=wanted)

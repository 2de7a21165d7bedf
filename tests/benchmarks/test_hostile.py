"""The scores of hostile snippets: what gets out of a subprocess is seen, and what a sandbox contains is, too."""

import sys
from collections.abc import Iterator

import pytest

from benchmarks.figures import cell
from benchmarks.hostile import SNIPPETS, Host, Score, rows, score, traps

OUT = ("reads a file", "reads the environment", "writes a file", "connects to a port", "starts a program", "forks")
IN = (*OUT, "exits", "recurses in C")


@pytest.fixture
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """The driver of the sandbox that a test names."""
    started = Host((sys.executable, "-m", f"benchmarks.contenders.{request.param}", "cells"))
    yield started
    started.end()


@pytest.mark.parametrize("host", ["native"], indirect=True)
def test_what_a_subprocess_lets_out_is_seen_and_its_end_loses_the_variables(host: Host) -> None:
    with traps() as set_up:
        found = {name: score(host, SNIPPETS[name], set_up) for name in OUT}
        ended = score(host, SNIPPETS["exits"], set_up)
    assert [name for name, one in found.items() if one.contained] == []
    assert ended == Score(contained=True, state_kept=False, host_alive=True)


@pytest.mark.parametrize("host", ["own"], indirect=True)
def test_the_sandbox_contains_and_keeps_its_variables(host: Host) -> None:
    good = Score(contained=True, state_kept=True, host_alive=True)
    with traps() as set_up:
        assert {name: score(host, SNIPPETS[name], set_up) for name in IN} == dict.fromkeys(IN, good)


def test_the_rows_have_sums_first_and_then_each_snippet() -> None:
    found = rows({"a": {"forks": Score(contained=True, state_kept=False, host_alive=True)}})
    assert [(row["name"], cell(row)) for row in found] == [
        ("contained", "**1 of 1**"),
        ("variables kept", "**0 of 1**"),
        ("host alive", "**1 of 1**"),
        ("forks", "yes / **no** / yes"),
    ]

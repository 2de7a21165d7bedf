"""Arguments of servers and workers that make no sense are refused before anything is opened."""

import subprocess
from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--runs", "0"], "--runs 0 has no meaning here: only a server of a cluster"),
        (["serve", "--http", "127.0.0.1:0", "--runs", "5"], "--runs 5 has no meaning here: only a server of a cluster"),
        (["serve", "--http", "127.0.0.1:0", "--workers", "999"], "--workers 999 is not possible: give a number from 0"),
        (["worker", "--runs", "0"], "--runs 0 is not possible: give a number from 1"),
        (["worker"], "RLM_MCP_STORE and RLM_MCP_BLOBS are not set"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(
    run: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str], says: str
) -> None:
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_arguments_it_serves_until_stdin_ends(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    ended = run()
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "Traceback" not in ended.stderr

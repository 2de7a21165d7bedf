"""Commands whose standard streams are closed, full, read no longer, or of an encoding that lacks a character."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rlm_mcp.cli.commands.streams import is_reader_gone
from tests.peers.forking import forked_command

Shell = Callable[..., tuple[int, str, str]]

START = (sys.executable, "-m", "rlm_mcp.cli")
"""Python makes its streams when it starts, of what it is given."""


@pytest.fixture
def shell(tmp_path: Path, compiled_cache: Path) -> Shell:
    """Runs a command with redirections of the shell; its exit status and what stdout and stderr of the shell got."""
    (tmp_path / "a.txt").write_text("one → two\n", encoding="utf-8")
    config_paths = {"RLM_MCP_DATA_DIR": str(tmp_path / "data"), "RLM_MCP_CACHE_DIR": str(compiled_cache)}

    def running(
        arguments: str, redirections: str, command: Sequence[str] = START, **environment: str
    ) -> tuple[int, str, str]:
        ended = subprocess.run(  # noqa: S603 - our own command
            ["/bin/bash", "-c", f"set -o pipefail; {shlex.join(command)} {arguments} {redirections}"],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4]), **config_paths, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=240,
            check=False,
        )
        return ended.returncode, ended.stdout, ended.stderr

    return running


def test_an_error_does_not_go_to_stdout_if_stderr_is_closed(shell: Shell) -> None:
    assert shell("inspect nothing.txt", "2>&-") == (1, "", "")


def test_files_do_not_get_the_numbers_of_closed_streams(shell: Shell) -> None:
    assert shell("inspect a.txt --lines 1-1 --json", "0<&- 1>&- 2>&-") == (0, "", "")
    status, out, _ = shell("inspect a.txt --lines 1-1 --json", "0<&- 2>&-")
    assert (status, out.startswith("{")) == (0, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize("command", ["inspect a.txt --lines 1-1", "demo"])
def test_output_that_cannot_be_written_is_one_sentence(shell: Shell, command: str) -> None:
    status, _, error = shell(command, ">/dev/full", forked_command())
    assert status == 1
    assert error == (
        "rlm-mcp: the output cannot be written (No space left on device): the answers of runs are on record, see "
        "`rlm-mcp runs list`\n"
    )


def test_a_reader_that_has_enough_of_the_demo_ends_it_quietly(shell: Shell) -> None:
    status, out, error = shell("demo", "| head -1", forked_command())
    assert (status, len(out.splitlines()), error) == (0, 1, "")


def test_a_pipe_is_known_to_have_lost_its_reader() -> None:
    read, write = os.pipe()
    try:
        assert not is_reader_gone((write,))
        os.close(read)
        assert is_reader_gone((write,))
    finally:
        os.close(write)


def test_characters_that_an_encoding_lacks_are_shown_as_escapes(shell: Shell) -> None:
    status, out, _ = shell("inspect a.txt --lines 1-1", "", PYTHONIOENCODING="ascii")
    assert status == 0
    assert "one \\u2192 two" in out

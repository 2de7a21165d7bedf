"""`rlm-mcp solve` on a real terminal, and where there is none."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_mcp.records.store import Runs
from tests.peers.forking import forked_command, process_of
from tests.peers.openai_server import Fault, OpenAIServer, Request
from tests.peers.places import COMMAND
from tests.rlm_mcp.cli.console.conftest import OpenTerminal

QUESTION = "How many errors?"


def is_first(request: Request) -> bool:
    return all(message["role"] != "assistant" for message in request.messages)


@pytest.fixture
def endpoint() -> Iterator[OpenAIServer]:
    def reply(request: Request) -> str:
        return (
            "I count.\n```repl\nn = context.count('ERROR')\nn\n```" if is_first(request) else "```repl\nFINAL(n)\n```"
        )

    with OpenAIServer(reply).run_in_thread() as server:
        yield server


@pytest.fixture
def slow_endpoint() -> Iterator[OpenAIServer]:
    """Replies once, and to everything else not before the test is over."""

    def reply(request: Request) -> str | Fault:
        return "```repl\nn = context.count('ERROR')\nn\n```" if is_first(request) else Fault(latency=600)

    with OpenAIServer(reply).run_in_thread() as server:
        yield server


def solve(endpoint: OpenAIServer, log_file: Path, *more: str) -> list[str]:
    return [
        "solve",
        QUESTION,
        str(log_file),
        "--mode",
        "rlm",
        "--base-url",
        endpoint.base_url,
        "--model",
        "scripted",
        *more,
    ]


def test_a_run_is_drawn_and_its_answer_alone_is_on_stdout(
    terminal: OpenTerminal, endpoint: OpenAIServer, log_file: Path
) -> None:
    opened = terminal(*solve(endpoint, log_file), splits=True)
    assert opened.status() == 0
    assert opened.stdout() == "100\n"
    for part in (
        QUESTION,
        "── turn 1 ──",
        "I count.",
        "│ n = context.count('ERROR')",
        "→ 100",
        "✓ answered",
        "runs view",
    ):
        assert part in opened.text
    assert "\x1b[3" in opened.written  # colours
    assert opened.written.count("\x1b[?25l") == opened.written.count("\x1b[?25h") == 1  # the cursor is back


def test_without_colours_where_none_are_wanted(terminal: OpenTerminal, endpoint: OpenAIServer, log_file: Path) -> None:
    opened = terminal(*solve(endpoint, log_file), NO_COLOR="1")
    assert opened.status() == 0
    assert "── turn 1 ──" in opened.text
    assert re.findall(r"\x1b\[[\d;]*[34]\d[\d;]*m", opened.written) == []


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    terminal: OpenTerminal, endpoint: OpenAIServer, log_file: Path
) -> None:
    opened = terminal(*solve(endpoint, log_file), TERM="dumb")
    assert opened.status() == 0
    assert "\x1b" not in opened.written
    assert "run-" in opened.text.splitlines()[0]
    assert "100" in opened.text


def test_quiet_shows_the_answer_and_nothing_else(
    terminal: OpenTerminal, endpoint: OpenAIServer, log_file: Path
) -> None:
    opened = terminal(*solve(endpoint, log_file, "--quiet"))
    assert (opened.status(), opened.text) == (0, "100\n")


def test_ctrl_c_stops_a_run_with_what_it_has_and_says_how_to_resume_it(
    terminal: OpenTerminal, slow_endpoint: OpenAIServer, log_file: Path, tmp_path: Path
) -> None:
    opened = terminal(*solve(slow_endpoint, log_file), command=COMMAND)
    opened.until("turn 2 of")
    opened.type("\x03")
    assert opened.status() == 1
    (run,) = Runs(tmp_path / "data").list().runs
    assert (run.status, run.stopped_by, run.answer) == ("cancelled", "cancelled", "100")
    tail = opened.text.rpartition("Ctrl-C stops")[2]
    assert "100\n\n✗ stopped, with the best answer so far" in tail
    assert f"rlm-mcp runs resume {run.run_id}" in tail


def test_ctrl_c_at_a_run_of_another_process_leaves_it_alone(
    terminal: OpenTerminal, slow_endpoint: OpenAIServer, log_file: Path, tmp_path: Path
) -> None:
    runs = terminal(*solve(slow_endpoint, log_file))
    runs.until("turn 2 of")
    watches = terminal(*solve(slow_endpoint, log_file))
    watches.until("── turn 1 ──")
    watches.type("\x03")
    assert watches.status() == 1
    assert "running in another process" in watches.text
    assert Runs(tmp_path / "data").list().runs[0].status == "running"


def test_a_reader_of_stderr_that_goes_away_does_not_end_the_run(
    endpoint: OpenAIServer, log_file: Path, tmp_path: Path, sandbox_cache: Path
) -> None:
    command = [*forked_command(), *solve(endpoint, log_file, "--data-dir", str(tmp_path / "data"))]
    with subprocess.Popen(  # noqa: S603 - our own command
        [*command, "--cache-dir", str(sandbox_cache)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        process.stderr.close()
        assert process.stdout.read() == "100\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what another process writes")
def test_a_full_disk_ends_a_run_in_one_sentence_and_it_can_be_resumed(
    log_file: Path, tmp_path: Path, sandbox_cache: Path
) -> None:
    import resource

    processes: list[subprocess.Popen[str]] = []
    room = 400_000  # for the catalogue of contexts, and not for what the block prints

    def reply(request: Request) -> str:
        if not is_first(request):
            return "```repl\nFINAL(n)\n```"
        resource.prlimit(process_of(processes[-1].pid), resource.RLIMIT_FSIZE, (room, room))
        return f"```repl\nn = context.count('ERROR')\nprint('x' * {room})\n```"

    with OpenAIServer(reply).run_in_thread() as endpoint:
        places = ["--data-dir", str(tmp_path / "data"), "--cache-dir", str(sandbox_cache)]
        command = [*forked_command(), *solve(endpoint, log_file), *places]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))  # noqa: S603 - our own command
        out, error = processes[0].communicate(timeout=240)
        (run,) = Runs(tmp_path / "data").list().runs
        assert (processes[0].returncode, out) == (1, "")
        assert (
            f"message: the record of {run.run_id} cannot be written (File too large): free some space on the disk"
            in error
        )
        assert "Traceback" not in error

        resume = [*forked_command(), "runs", "resume", run.run_id, *places, "--quiet"]
        served = ["--base-url", endpoint.base_url, "--model", "scripted"]
        resumed = subprocess.run([*resume, *served], capture_output=True, text=True, timeout=240, check=False)  # noqa: S603 - our own command
        assert (resumed.returncode, resumed.stdout, resumed.stderr) == (0, "100\n", "")


STUBBORN = """
import anyio, time
from functools import partial
from rlm_mcp.cli.console.interrupts import end_at_once, interrupts

async def main():
    with interrupts(partial(print, "kindly", flush=True), partial(end_at_once, "at once", 1, is_drawn=False)):
        print("ready", flush=True)
        await anyio.sleep(0.2)
        time.sleep(60)

anyio.run(main)
"""


def test_the_second_ctrl_c_ends_the_process_whatever_it_is_doing() -> None:
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "kindly\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 1
        assert process.stderr.read() == "\nat once\n"

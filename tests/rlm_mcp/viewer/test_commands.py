"""`rlm-mcp runs view` and `rlm-mcp runs compare`."""

import json
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_mcp.cli.main import main
from rlm_mcp.records.events import RunStarted, event_from_json
from rlm_mcp.records.run import Run
from rlm_mcp.records.store import Runs
from tests.peers.forking import forked_command
from tests.peers.places import COMMAND
from tests.rlm_mcp.viewer.records import cell, ended, reply

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def command(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def running(*arguments: str) -> tuple[int, str, str]:
        status = main([*arguments, "--data-dir", str(data_dir), "--cache-dir", str(tmp_path / "cache")])
        said = capsys.readouterr()
        return status, said.out, said.err

    return running


def recorded(data_dir: Path, answer: str) -> Run:
    run = Runs(data_dir).create(RunStarted(query="How many regions?"))
    for event in (reply("", 1, "```repl\nlook()\n```", 1.0), cell("", 1, "look()", 1.1), ended(answer, 1.2)):
        run.append(event_from_json(event))
    run.close()
    return run


def test_view_writes_the_page_next_to_the_record_and_prints_where(command: Command, data_dir: Path) -> None:
    run = recorded(data_dir, "five")
    status, out, _ = command("runs", "view", run.run_id)
    assert (status, out) == (0, f"{run.directory / 'page.html'}\n")
    assert (run.directory / "page.html").read_text().startswith("<!doctype html>")


def test_view_takes_part_of_an_id_and_another_place(command: Command, data_dir: Path, tmp_path: Path) -> None:
    run = recorded(data_dir, "five")
    out = tmp_path / "shown.html"
    assert command("runs", "view", run.run_id[4:9], "--out", str(out), "--json")[:2] == (
        0,
        json.dumps({"page": str(out)}, indent=1) + "\n",
    )
    assert out.is_file()


def test_view_without_an_id_writes_the_index_and_the_page_of_the_newest_run(command: Command, data_dir: Path) -> None:
    index = data_dir / "index.html"
    assert command("runs", "view") == (0, f"{index}\n", "")
    older, newest = recorded(data_dir, "five"), recorded(data_dir, "six")
    assert command("runs", "view")[1] == f"{index}\n"
    assert newest.run_id in index.read_text()
    assert [(run.directory / "page.html").is_file() for run in (older, newest)] == [False, True]


def test_view_of_a_run_that_does_not_exist_says_so(command: Command, data_dir: Path) -> None:
    recorded(data_dir, "five")
    status, out, err = command("runs", "view", "run-nowhere")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("rlm-mcp: there is no run 'run-nowhere'")


def test_view_of_a_page_that_cannot_be_written_says_where(command: Command, data_dir: Path, tmp_path: Path) -> None:
    run = recorded(data_dir, "five")
    status, _, err = command("runs", "view", run.run_id, "--out", str(tmp_path / "no" / "page.html"))
    assert (status, err.count("\n")) == (1, 1)
    assert "cannot be written" in err


def test_compare_writes_one_page_of_two_runs(command: Command, data_dir: Path) -> None:
    first, second = recorded(data_dir, "five of nine"), recorded(data_dir, "six of nine")
    status, out, _ = command("runs", "compare", first.run_id, second.run_id)
    assert (status, out) == (0, f"{first.directory / f'compare-{second.run_id}.html'}\n")


def test_compare_tells_its_facts_as_json(command: Command, data_dir: Path) -> None:
    first, second = recorded(data_dir, "five of nine"), recorded(data_dir, "six of nine")
    status, out, _ = command("runs", "compare", first.run_id, second.run_id, "--json")
    facts = json.loads(out)
    assert status == 0
    assert facts["same"] == {"query": True, "contexts": True, "answer": False}
    assert facts["answer"] == [["first", "five"], ["second", "six"], ["both", " of nine"]]
    assert facts["turns"] == [{"first": 1, "second": 1, "same_code": True}]


@pytest.mark.parametrize("with_id", [True, False])
def test_view_serves_a_run_or_the_index_until_it_is_interrupted(
    data_dir: Path, tmp_path: Path, *, with_id: bool
) -> None:
    run = recorded(data_dir, "five")
    places = ["--data-dir", str(data_dir), "--cache-dir", str(tmp_path / "cache")]
    which = [run.run_id] if with_id else []
    command = forked_command() if with_id else COMMAND
    line = [*command, "runs", "view", *which, "--serve", "--quiet", *places]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - a fixed command
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        page = address if with_id else f"{address}runs/{run.run_id}/"
        for shown in (address, page):
            with urllib.request.urlopen(shown, timeout=60) as answer:  # noqa: S310 - an address of 127.0.0.1
                assert run.run_id in answer.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0

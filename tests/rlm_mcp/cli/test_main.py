import argparse
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest

from rlm_mcp.cli.commands.output import COMMAND_OF_TOOL
from rlm_mcp.cli.demo import DEMOS
from rlm_mcp.cli.main import command_parser, main
from tests.peers.forking import forked_command
from tests.peers.openai_server import OpenAIServer, Request
from tests.peers.places import COMMAND
from tests.rlm_mcp.conftest import LOG

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, sandbox_cache: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; its exit status, stdout and stderr."""

    def running(*arguments: str) -> tuple[int, str, str]:
        config_paths = ["--data-dir", str(tmp_path / "data"), "--cache-dir", str(sandbox_cache)]
        try:
            status = main([*arguments, *config_paths])
        except SystemExit as error:
            status = int(str(error.code))
        said = capsys.readouterr()
        return status, said.out, said.err

    return running


@pytest.fixture
def endpoint() -> Iterator[OpenAIServer]:
    def reply(request: Request) -> str:
        if all(message["role"] != "assistant" for message in request.messages):
            return "```repl\nn = context.count('ERROR')\nn\n```"
        if "How long" in request.text:
            return "```repl\nprint(len(context))\n```"
        return "```repl\nFINAL(n)\n```"

    with OpenAIServer(reply).run_in_thread() as server:
        yield server


def test_files_named_like_credentials_are_added_only_when_that_is_asked_for(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "home" / ".env"
    secret.parent.mkdir()
    secret.write_text("KEY=1\n")
    status, _, error = run("contexts", "add", str(secret))
    assert status != 0
    assert "--include-secrets" in error
    assert run("contexts", "add", str(secret), "--include-secrets")[0] == 0


def test_contexts_are_added_listed_and_removed(run: Run, log_file: Path) -> None:
    assert run("contexts", "add", str(log_file), "--name", "a")[0] == 0
    status, out, _ = run("contexts", "list", "--json")
    assert (status, [context["name"] for context in json.loads(out)]) == (0, ["a"])
    assert "a" in run("contexts")[1]
    assert run("contexts", "rm", "a")[0] == 0
    assert json.loads(run("contexts", "list", "--json")[1]) == []


def test_a_demo_that_does_not_exist_is_refused_with_the_names_of_those_that_do(run: Run) -> None:
    status, out, error = run("demo", "big")
    assert (status, out) == (2, "")
    assert "invalid choice: 'big' (choose from" in error
    assert all(name in error for name in DEMOS)


def test_every_command_that_a_text_names_exists(run: Run) -> None:
    root = Path(__file__).parents[3]
    texts = [*(root / "rlm_mcp").rglob("*.py"), *(root / "docs").glob("*.md"), root / "README.md"]
    command = re.compile(r"`(?:rlm-mcp )?((?:contexts|runs) [a-z]+)")
    named = {name for file in texts for name in command.findall(file.read_text("utf-8"))}
    assert named >= {"contexts refresh", "contexts gc", "contexts rm"}
    assert {name: run(*name.split(), "--help")[0] for name in named} == dict.fromkeys(named, 0)


def test_every_argument_of_every_command_has_a_help_text() -> None:
    def without_help(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for command, below in action.choices.items():
                    yield from without_help(below, f"{name} {command}")
            elif not action.help:
                yield f"{name} {action.dest}"

    assert list(without_help(command_parser(), "rlm-mcp")) == []


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_a_reader_that_has_enough_ends_a_command_quietly(log_file: Path, tmp_path: Path, json_flag: list[str]) -> None:
    log_file.write_text(LOG * 50)
    inspect = [*forked_command(), "inspect", str(log_file), "--search", "line", "--max", "500"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(  # noqa: S603 - our own command
            [*inspect, "--data-dir", str(tmp_path / "data"), *json_flag],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_notes_version_and_skipped_files_are_told_when_adding_and_in_the_overview(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "a.txt").write_bytes(b"one \xff two\n")
    (source / "b.bin").write_bytes(bytes(range(256)))
    (source / ".env").write_text("KEY=1")
    added = json.loads(run("contexts", "add", str(source), "--json")[1])
    assert (added["version"], added["files"], added["skipped"]) == (1, 1, 2)
    assert added["notes"]
    (source / "c.txt").write_text("new\n")
    overview = json.loads(run("inspect", str(source), "--json")[1])
    assert (overview["version"], overview["skipped"], overview["notes"]) == (2, 2, added["notes"])
    assert "skipped: 2\n" in run("inspect", "src")[1]


def test_a_changed_source_is_refreshed_to_its_next_version_and_old_ones_are_collected(run: Run, log_file: Path) -> None:
    first = json.loads(run("contexts", "add", str(log_file), "--json")[1])
    assert json.loads(run("contexts", "refresh", "app.log", "--json")[1]) == first
    log_file.write_text("new\n")
    status, out, _ = run("contexts", "refresh", "app.log", "--json")
    assert (status, json.loads(out)["chars"]) == (0, 4)
    assert run("contexts", "refresh", "nothing")[0] == 1

    status, out, _ = run("contexts", "gc", "--json")
    assert (status, json.loads(out)) == (0, {"blobs": 1, "bytes": len(LOG), "versions": 1})
    assert run("inspect", first["context_id"])[0] == 1
    assert run("inspect", "app.log")[0] == 0


def test_a_version_that_a_run_is_about_is_not_collected(run: Run, endpoint: OpenAIServer, log_file: Path) -> None:
    first = json.loads(run("contexts", "add", str(log_file), "--json")[1])
    asked(run, endpoint, "How many errors?", "app.log", "--mode", "rlm")
    log_file.write_text("new\n")
    run("contexts", "refresh", "app.log")
    assert json.loads(run("contexts", "gc", "--json")[1])["versions"] == 0
    assert run("inspect", first["context_id"])[0] == 0


@pytest.fixture
def watching(log_file: Path, tmp_path: Path) -> list[str]:
    return ["--data-dir", str(tmp_path / "data"), "contexts", "add", str(log_file), "--watch"]


def test_a_watched_source_is_registered_again_until_interrupted(watching: list[str], log_file: Path) -> None:
    with subprocess.Popen(  # noqa: S603 - our own command
        [*forked_command(), *watching], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "watching" in process.stderr.readline()
        versions: Queue[str] = Queue()
        lines = process.stdout

        def listen() -> None:
            for line in lines:
                if "version" in line:
                    versions.put(line)

        threading.Thread(target=listen).start()
        assert versions.get(timeout=60) == "version: 1\n"
        seen = ""
        for n in range(1, 21):  # the watch may only be starting: write until it notices
            log_file.write_text("new\n" * n)
            with suppress(Empty):
                seen = versions.get(timeout=1)
                break
        assert seen == "version: 2\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_watching_without_its_extra_is_one_sentence(watching: list[str], tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "watchfiles.py").write_text("raise ImportError\n")
    ended = subprocess.run(  # noqa: S603 - our own command
        [*COMMAND, *watching],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "without")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "`pip install 'rlm-mcp[watch]'`" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_user_may_name_any_path_unless_roots_are_set(run: Run, log_file: Path, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    status, _, error = run("contexts", "add", str(log_file), "--roots", str(tmp_path / "open"))
    assert status == 1
    assert "outside the directories that may be registered" in error
    assert run("contexts", "add", str(log_file))[0] == 0


def test_the_quota_of_the_settings_bounds_the_store(run: Run, log_file: Path) -> None:
    status, _, error = run("contexts", "add", str(log_file), "--quota-bytes", "1000")
    assert status == 1
    assert "exceed the quota" in error


def test_inspect_shows_overview_lines_matches_and_code(run: Run, log_file: Path) -> None:
    overview = json.loads(run("inspect", str(log_file), "--json")[1])
    assert (overview["lines"], overview["view"]) == (300, "overview")
    assert json.loads(run("inspect", "app.log", "--lines", "2-3", "--json")[1])["text"] == "line 1 INFO\nline 2 INFO\n"
    assert json.loads(run("inspect", "app.log", "--search", "line 29[67] ", "--json")[1])["total"] == 2
    for lines, text in {"3": "line 2 INFO\n", "300-": "line 299 INFO\n"}.items():
        assert json.loads(run("inspect", "app.log", "--lines", lines, "--json")[1])["text"] == text
    status, out, _ = run("inspect", "app.log", "--code", "len(context)", "--json")
    assert (status, json.loads(out)["value"]) == (0, str(len(LOG)))
    status, out, _ = run("inspect", "app.log", "--code", "1/0")
    assert status == 1
    assert "ZeroDivisionError" in out
    _, out, _ = run("inspect", "app.log", "--code", "llm_query('x')")
    assert "`rlm-mcp inspect SOURCE` has no sub-model: print the passages and judge them, or use `rlm-mcp solve`" in out


def test_the_source_and_the_code_of_inspect_cannot_both_be_stdin(run: Run) -> None:
    status, out, error = run("inspect", "-", "--code", "-")
    assert (status, out) == (2, "")
    assert "the source and --code cannot both be read from stdin" in error


def test_flags_before_a_command_do_the_same_as_behind_it(run: Run, log_file: Path) -> None:
    behind = run("inspect", str(log_file), "--lines", "2-3", "--json")
    assert run("--json", "inspect", str(log_file), "--lines", "2-3") == behind
    assert json.loads(behind[1])["start_line"] == 2
    assert run("--json", "contexts", "list") == run("contexts", "--json", "list") == run("contexts", "list", "--json")
    assert run("--quiet", "solve", "q", str(log_file), "--base-url", "http://127.0.0.1:1/v1")[2].count("\n") == 1


def test_blanks_that_break_no_line_are_shown_as_they_are(run: Run, tmp_path: Path) -> None:
    (tmp_path / "blanks.log").write_text("10\u00a0000\u3000km\n", "utf-8")
    _, out, _ = run("inspect", str(tmp_path / "blanks.log"), "--lines", "1")
    assert "10\u00a0000\u3000km" in out


def test_terminal_control_sequences_of_a_context_are_shown_as_escapes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "evil.log").write_text("a\x1b[2Jb\u202ec\n")
    _, out, _ = run("inspect", str(tmp_path / "evil.log"), "--lines", "1-1")
    assert "a\\x1b[2Jb\\u202ec" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["inspect", "nothing.log"], 1, "nothing.log"),
        (["runs", "show", "run-0"], 1, "run-0"),
        (["contexts", "rm", "nothing"], 1, "nothing"),
        (["solve", "question"], 2, "source"),
        (["no-such-command"], 2, "no-such-command"),
        (["serve", "--http", "somewhere"], 2, "--http"),
        (["serve", "--http", "127.0.0.1:0", "--token-file", "nothing"], 2, "nothing"),
    ],
)
def test_mistakes_are_one_sentence_and_a_status(run: Run, arguments: list[str], status: int, says: str) -> None:
    ended, out, error = run(*arguments)
    assert ended == status
    assert says in error
    assert "Traceback" not in error
    assert not [tool for tool in COMMAND_OF_TOOL if tool in error]
    assert out == ""


def asked(run: Run, endpoint: OpenAIServer, *arguments: str) -> tuple[int, Any, str]:
    status, out, error = run("solve", *arguments, "--json", "--base-url", endpoint.base_url, "--model", "scripted")
    return status, json.loads(out), error


def test_solve_answers_and_its_run_is_shown_exported_and_replayed(
    run: Run, endpoint: OpenAIServer, log_file: Path
) -> None:
    status, answered, progress = asked(run, endpoint, "How many errors?", str(log_file), "--mode", "rlm")
    assert (status, answered["answer"], answered["stopped_by"]) == (0, "100", "final")
    assert answered["run_id"] in progress
    assert json.loads(run("runs", "--json")[1])[0]["run_id"] == answered["run_id"]
    shown = run("runs", "show", answered["run_id"])
    assert (shown[0], shown[1]) == (0, "100\n")
    exported = [json.loads(line) for line in run("runs", "export", answered["run_id"])[1].splitlines()]
    assert (exported[0]["event"], exported[-1]["event"]) == ("run_started", "run_ended")
    status, out, _ = run("runs", "replay", answered["run_id"], "--json")
    assert (status, json.loads(out)) == (0, {"answer": "100", "status": "completed", "difference": None})


def test_an_estimate_is_printed_and_nothing_started(run: Run, endpoint: OpenAIServer, log_file: Path) -> None:
    where = ("--base-url", endpoint.base_url, "--model", "scripted")
    status, out, _ = run(
        "solve", "How many errors?", str(log_file), "--estimate", "--prices", '{"scripted": [1, 2]}', *where
    )
    assert status == 0
    assert "model calls" in out
    assert "$0." in out
    guess = json.loads(run("solve", "How many errors?", str(log_file), "--estimate", "--json", *where)[1])
    assert guess["calls"][0] <= guess["calls"][1]
    assert guess["cost_usd"] is None
    assert json.loads(run("runs", "--json")[1]) == []


def test_a_limit_that_stops_a_run_is_status_three(run: Run, endpoint: OpenAIServer, log_file: Path) -> None:
    limits = ["--mode", "rlm", "--max-iterations", "2"]
    status, answered, _ = asked(run, endpoint, "How long is it?", str(log_file), *limits)
    assert (status, answered["stopped_by"]) == (3, "iterations")
    assert answered["answer"] is not None


def test_a_token_is_shown_once_and_its_hash_is_what_the_file_gets(run: Run, tmp_path: Path) -> None:
    status, line, token = run("token", "ann")
    assert status == 0
    (tmp_path / "tokens").write_text(line)
    assert line.split()[0] == "ann"
    assert token.split()[-1] not in line

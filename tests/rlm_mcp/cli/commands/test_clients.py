"""`install` and `uninstall` as a user runs them, on a made-up home directory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_a_change_is_shown_and_written_only_with_yes_where_nobody_can_be_asked(run: Run, home: Path) -> None:
    shown = run("install", "cursor")
    assert shown.returncode == 1
    assert '+    "rlm-mcp": {' in shown.stdout
    assert f"{home}/.cursor does not exist yet: is Cursor installed?" in shown.stderr
    assert "add --yes to write it" in shown.stderr
    assert list(home.iterdir()) == []
    assert run("install", "cursor", "--yes").returncode == 0
    entry = json.loads((home / ".cursor/mcp.json").read_text())["mcpServers"]["rlm-mcp"]
    assert Path(entry["command"]).is_absolute()
    assert run("install", "cursor").stderr == f"Cursor is already current: {home}/.cursor/mcp.json\n"


def test_the_command_that_is_written_starts_a_server_without_any_environment(run: Run, home: Path) -> None:
    run("install", "claude-desktop", "--yes")
    config = json.loads((home / ".config/Claude/claude_desktop_config.json").read_text())
    entry = config["mcpServers"]["rlm-mcp"]
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }
    ended = subprocess.run(  # noqa: S603 - what a client would start
        [entry["command"], *entry["args"]],
        input=json.dumps(hello) + "\n",
        env={"HOME": str(home)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert json.loads(ended.stdout.splitlines()[0])["result"]["serverInfo"]["name"] == "rlm-mcp"


@pytest.mark.parametrize(("answer", "status"), [(b"y\n", 0), (b"\n", 1), (b"n\n", 1), (b"\x04", 1)])
def test_a_terminal_is_asked(home: Path, answer: bytes, status: int) -> None:
    ours, theirs = pytest.importorskip("pty", reason="Windows has no pseudo-terminals").openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "rlm_mcp.cli", "install", "codex"],
            env={name: os.environ[name] for name in ("PATH",)} | {"HOME": str(home)},
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            os.write(ours, answer)
            out, error = process.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "+[mcp_servers.rlm-mcp]" in out
    assert "Write it? [y/N]" in error
    assert (process.returncode, (home / ".codex/config.toml").exists()) == (status, status == 0)


def test_a_server_that_is_started_on_a_terminal_says_what_it_waits_for(home: Path) -> None:
    ours, theirs = pytest.importorskip("pty", reason="Windows has no pseudo-terminals").openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "rlm_mcp.cli"],
            env={name: os.environ[name] for name in ("PATH",)} | {"HOME": str(home)},
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            told = process.stderr.readline()
            process.terminate()
            out, _ = process.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert told.startswith("rlm-mcp serves MCP on stdin and stdout and now waits for a client")
    assert out == ""


def test_installing_and_uninstalling_as_json(run: Run, home: Path) -> None:
    (home / ".gemini").mkdir()
    (home / ".gemini/settings.json").write_text('{"theme": "dark"}')
    done = json.loads(run("install", "gemini", "--yes", "--json").stdout)
    path = f"{home}/.gemini/settings.json"
    assert (done["client"], done["path"], done["change"], done["written"]) == ("gemini-cli", path, "add", True)
    assert done["backup"] == path + ".before-rlm-mcp"
    done = json.loads(run("uninstall", "gemini", "--yes", "--json").stdout)
    assert (done["change"], done["written"], done["backup"]) == ("remove", True, None)
    assert (home / ".gemini/settings.json").read_text() == '{"theme": "dark"}'
    done = json.loads(run("uninstall", "gemini", "--json").stdout)
    assert (done["change"], done["written"]) == ("none", False)


def test_a_variable_is_written_only_where_it_is_asked_for(run: Run, home: Path) -> None:
    told = run("install", "cursor", "--yes", RLM_MCP_API_KEY="sk-12345678", RLM_MCP_MODEL="m")
    assert "RLM_MCP_API_KEY, RLM_MCP_MODEL are set in this shell only" in told.stderr
    file = home / ".cursor/mcp.json"
    assert "sk-12345678" not in file.read_text() + told.stdout + told.stderr
    told = run("install", "cursor", "--yes", "--env", "RLM_MCP_API_KEY", "--model", "n", RLM_MCP_API_KEY="sk-12345678")
    assert "sk-12345678" not in told.stdout + told.stderr
    env = json.loads(file.read_text())["mcpServers"]["rlm-mcp"]["env"]
    assert env == {"RLM_MCP_MODEL": "n", "RLM_MCP_API_KEY": "sk-12345678"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["install", "cursr"], "rlm-mcp does not know the client 'cursr': did you mean cursor?"),
        (
            ["install", "cursor", "--env", "RLM_MCP_MODLE=x"],
            "RLM_MCP_MODLE is not a setting: did you mean RLM_MCP_MODEL",
        ),
        (["install", "cursor", "--env", "NOT_SET"], "--env NOT_SET: this variable is not set here"),
        (["install", "cursor", "--env", "A B=x"], "--env 'A B' is not the name of a variable"),
        (["install", "cursor", "--env", "RLM_MCP_MAX_USD=much"], "RLM_MCP_MAX_USD is 'much': write a number"),
        (["install", "cursor", "--token", "t"], "--token is for a server over HTTP: give its --url too"),
        (["install", "cursor", "--url", "rlm.example"], "--url 'rlm.example' is not the URL of a server"),
        (["install", "cursor", "--url", "http://[::1/mcp"], "--url 'http://[::1/mcp' is not the URL of a server"),
        (["install", "cursor", "--url", "http://a:b/mcp"], "--url 'http://a:b/mcp' is not the URL of a server"),
        (["install", "cursor", "--url", "http://h/mcp", "--model", "m"], "leave out --env and the flags of settings"),
        (["install", "goose", "--project"], "Goose has no configuration for a single project"),
        (["install", "cursor", "--project", "/nowhere"], "--project /nowhere is not a directory"),
    ],
)
def test_mistakes_are_one_sentence_and_a_status(run: Run, home: Path, arguments: list[str], says: str) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert (ended.stdout, list(home.iterdir())) == ("", [])


def test_a_configuration_that_is_not_json_is_one_sentence_and_stays(run: Run, home: Path) -> None:
    file = home / ".claude.json"
    file.write_text('{"a": 1,}')
    ended = run("install", "claude-code", "--yes")
    assert (ended.returncode, ended.stdout, file.read_text()) == (1, "", '{"a": 1,}')
    assert ended.stderr.startswith(f"rlm-mcp: {file} is not JSON (")
    assert ended.stderr.count("\n") == 1


def test_a_project_or_any_file_can_be_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert run("install", "vscode", "--project", str(tmp_path / "p"), "--yes").returncode == 0
    servers = json.loads((tmp_path / "p/.vscode/mcp.json").read_text())["servers"]
    assert servers["rlm-mcp"]["type"] == "stdio"
    assert run("install", "zed", "--config", str(tmp_path / "z.json"), "--yes").returncode == 0
    assert "context_servers" in json.loads((tmp_path / "z.json").read_text())


def test_a_server_over_http_is_installed_with_its_token_which_is_not_shown(run: Run, home: Path) -> None:
    url = "https://rlm.example/mcp"
    shown = run("install", "copilot", "--url", url, "--token", "secret-token-1234567890", "--yes")
    entry = json.loads((home / ".copilot/mcp-config.json").read_text())["mcpServers"]["rlm-mcp"]
    assert entry["headers"] == {"Authorization": "Bearer secret-token-1234567890"}
    assert (entry["type"], entry["url"], "command" in entry) == ("http", url, False)
    assert "secret-token" not in shown.stdout + shown.stderr
    states = {row["client"]: row["detail"] for row in json.loads(run("install", "--json").stdout)}
    assert states["copilot-cli"] == f"connects to {url}"


def test_a_client_whose_limit_is_raised_is_told_how_long_calls_may_wait(run: Run, home: Path) -> None:
    run("install", "opencode", "--yes")
    entry = json.loads((home / ".config/opencode/opencode.json").read_text())["mcp"]["rlm-mcp"]
    assert (entry["timeout"], entry["environment"]) == (300_000, {"RLM_MCP_LONGEST_WAIT": "290"})
    (home / ".qwen").mkdir()
    (home / ".qwen/settings.json").write_text('{"mcpServers": {"rlm-mcp": {"command": "/old", "timeout": 5000}}}')
    run("install", "qwen-code", "--yes")
    assert "RLM_MCP_LONGEST_WAIT" not in (home / ".qwen/settings.json").read_text()


def test_what_a_project_still_needs_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert "codex exec --trust" in run("install", "codex", "--project", str(tmp_path / "p"), "--yes").stderr
    assert "codex exec --trust" not in run("install", "codex", "--yes").stderr


def test_what_to_add_elsewhere_is_printed(run: Run, home: Path) -> None:
    printed = json.loads(run("install", "--print").stdout)
    assert Path(printed["mcpServers"]["rlm-mcp"]["command"]).is_absolute()
    assert run("install", "codex", "--print").stdout.startswith("[mcp_servers.rlm-mcp]\ncommand = ")
    assert list(home.iterdir()) == []


def test_clients_are_listed_with_their_state(run: Run, home: Path) -> None:
    run("install", "zed", "--yes")
    (home / ".cursor").mkdir()
    states = {row["client"]: row["state"] for row in json.loads(run("install", "--json").stdout)}
    assert (states["zed"], states["cursor"], states["goose"]) == ("current", "found", "not found")
    assert "zed              current" in run("install").stdout

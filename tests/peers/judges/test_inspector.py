"""The MCP Inspector's command line: every list and a call over both transports, its lint of schemas, its load."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import Counts, run

ERAS = ["legacy", "auto", "modern"]


@pytest.fixture(params=["http", "stdio"])
def target(request: pytest.FixtureRequest, environ: dict[str, str]) -> list[str]:
    """How the Inspector reaches the server. It gives a process only the variables that it is told."""
    if request.param == "http":
        url: str = request.getfixturevalue("server")
        return ["--server-url", url]
    own = {name: value for name, value in environ.items() if name.startswith("RLM_MCP_")}
    return [
        *(part for name, value in own.items() for part in ("-e", f"{name}={value}")),
        sys.executable,
        "-m",
        "rlm_mcp.cli",
    ]


def asked(
    target: list[str], era: str, method: list[str], environ: dict[str, str], cwd: Path
) -> tuple[dict[str, Any], str]:
    """The result and what the Inspector says of it."""
    command = ["mcp-inspector", "--cli", *target, "--protocol-era", era, "--format", "json", "--method", *method]
    done = run(command, environ, cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer["result"], done.stderr


@pytest.mark.parametrize("era", ERAS)
def test_schemas_have_neither_errors_nor_warnings(
    era: str, target: list[str], environ: dict[str, str], tmp_path: Path, counts: Counts
) -> None:
    result, said = asked(target, era, ["tools/list", "--strict"], environ, tmp_path)
    assert len(result["tools"]) == 7
    assert "Warning:" not in said
    assert "Error:" not in said
    counts.add(strict_lists=1, errors=0, warnings=0)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("method", ["prompts/list", "resources/list", "resources/templates/list"])
def test_lists_are_understood(
    method: str, era: str, target: list[str], environ: dict[str, str], tmp_path: Path, counts: Counts
) -> None:
    result, _ = asked(target, era, [method], environ, tmp_path)
    assert all(entry["name"] for entries in result.values() if isinstance(entries, list) for entry in entries)
    counts.add(other_lists=1)


@pytest.mark.parametrize("era", ERAS)
def test_a_call_is_understood(
    era: str, target: list[str], environ: dict[str, str], tmp_path: Path, counts: Counts
) -> None:
    arguments = json.dumps({"text": "a b c", "name": "abc"})
    method = ["tools/call", "--tool-name", "register_context", "--tool-args-json", arguments]
    result, _ = asked(target, era, method, environ, tmp_path)
    assert result["structuredContent"]["name"] == "abc"
    counts.add(calls=1)


def test_calls_under_load_all_succeed(server: str, environ: dict[str, str], tmp_path: Path, counts: Counts) -> None:
    load = ["--load", "--load-requests", "100", "--load-concurrency", "10", "--load-rate", "15"]
    command = ["mcp-inspector", "--cli", "--server-url", server, "--protocol-era", "modern", "--format", "json"]
    done = run([*command, "--method", "tools/call", "--tool-name", "list_contexts", *load], environ, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    counts.add(calls_under_load=100)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("tool", "uri"), [("rlm_solve", "ui://rlm-mcp/run"), ("inspect_context", "ui://rlm-mcp/ctx")])
def test_the_page_of_a_tool_is_found_and_loads_nothing(
    tool: str, uri: str, era: str, target: list[str], environ: dict[str, str], tmp_path: Path, counts: Counts
) -> None:
    command = ["mcp-inspector", "--cli", *target, "--protocol-era", era, "--format", "json", "--app-info"]
    done = run([*command, "--method", "tools/call", "--tool-name", tool], environ, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    about = json.loads(done.stdout)["appInfo"]
    assert (about["resourceUri"], about["resourceMimeType"], about["csp"]) == (uri, "text/html;profile=mcp-app", {})
    counts.add(pages=1)

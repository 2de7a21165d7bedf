"""The server as clients start it, a process on stdio, in both protocol eras; and all ways in which it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp_types import CallToolResult

from rlm_mcp.server.transports.message_limit import MOST_BYTES
from tests.peers.forking import forked_command

COMMAND = [sys.executable, "-m", "rlm_mcp.cli"]
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


@pytest.fixture
def environ(tmp_path: Path, sandbox_cache: Path) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return inherited | {"RLM_MCP_DATA_DIR": str(tmp_path / "data"), "RLM_MCP_CACHE_DIR": str(sandbox_cache)}


@pytest.fixture
def server(environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server that has answered `initialize`."""
    with subprocess.Popen(  # noqa: S603 - our own command
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "rlm-mcp"
        yield process
        process.kill()


async def called(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    fields: dict[str, Any] = result.structured_content
    return fields


@pytest.mark.anyio
@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_the_sdk_client_registers_inspects_with_code_and_removes(era: str, environ: dict[str, str]) -> None:
    parameters = StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=environ)
    with anyio.fail_after(60):
        async with Client(parameters, mode=era) as client:
            assert len((await client.list_tools()).tools) == 7
            context = await called(client, "register_context", text="a b c\n" * 1_000, name="abc")
            cell = await called(client, "inspect_context", context="abc", code="words = context.split()\nlen(words)")
            assert (cell["value"], cell["error"]) == ("3000", None)
            kept = await called(client, "inspect_context", context="abc", code="words[:2]")
            assert kept["value"] == "['a', 'b']"
            refused = await client.call_tool("rlm_solve", {"query": "q", "contexts": ["abc"]})
            assert isinstance(refused, CallToolResult)
            assert refused.is_error
            assert "be_the_root" in refused.content[0].text  # type: ignore[union-attr] # the test fails where it is another kind
            assert (await called(client, "remove_context", context="abc")) == context


@pytest.mark.anyio
@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_message_over_the_bound_is_one_error_and_the_session_goes_on(era: str, environ: dict[str, str]) -> None:
    command, *arguments = forked_command()
    parameters = StdioServerParameters(command=command, args=arguments, env=environ)
    with anyio.fail_after(60):
        async with Client(parameters, mode=era) as client:
            with pytest.raises(MCPError, match=r"a message of 67,\d{3},\d{3} bytes is too long, at most 67,108,864"):
                await client.call_tool("register_context", {"text": "x" * MOST_BYTES})
            context = await called(client, "register_context", text="x" * (MOST_BYTES // 8), name="long")
            assert context["chars"] == MOST_BYTES // 8


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(server: "subprocess.Popen[bytes]", sent: signal.Signals) -> None:
    server.send_signal(sent)
    assert server.wait(timeout=60) == 0


def test_end_of_file_ends_it_cleanly(server: "subprocess.Popen[bytes]") -> None:
    assert server.stdin is not None
    server.stdin.close()
    assert server.wait(timeout=60) == 0


def test_a_closed_stdout_ends_it_cleanly(server: "subprocess.Popen[bytes]") -> None:
    assert server.stdout is not None
    server.stdout.close()
    assert server.wait(timeout=60) == 0


@pytest.mark.anyio
async def test_paths_outside_home_and_working_directory_are_refused_unless_roots_are_named(
    environ: dict[str, str], tmp_path: Path
) -> None:
    for name in ("home", "work", "else"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name)
    (tmp_path / "home" / "link.txt").symlink_to(tmp_path / "else" / "else.txt")

    async def refused(**environment: str) -> list[str]:
        command, *arguments = forked_command()
        parameters = StdioServerParameters(
            command=command, args=arguments, env=environ | environment, cwd=tmp_path / "work"
        )
        async with Client(parameters) as client:
            paths = [tmp_path / path for path in ("home/home.txt", "work/work.txt", "else/else.txt", "home/link.txt")]
            results = [await client.call_tool("register_context", {"source": str(path)}) for path in paths]
            return [path.name for path, result in zip(paths, results, strict=True) if result.is_error]

    with anyio.fail_after(60):
        assert await refused(HOME=str(tmp_path / "home")) == ["else.txt", "link.txt"]
        assert await refused(HOME=str(tmp_path / "home"), RLM_MCP_ROOTS=str(tmp_path / "else")) == [
            "home.txt",
            "work.txt",
        ]


def test_the_death_of_its_parent_ends_it(environ: dict[str, str], tmp_path: Path) -> None:
    """A parent starts the server with pipes that another process keeps open, and dies."""
    starter = (
        "import os, subprocess, sys, time\n"
        f"server = subprocess.Popen({COMMAND!r}, stdin=0, stdout=1)\n"
        "sys.stderr.write(f'{server.pid}\\n'); sys.stderr.flush()\n"
        "sys.stdin.buffer.raw  # never read: the server does\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", starter],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stderr is not None
        parent.stderr.readline()
        parent.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
        parent.stdin.flush()
        assert json.loads(parent.stdout.readline())["id"] == 1
        parent.kill()
        # End of file on stdout: nobody holds its writing end any more, the server is gone.
        assert parent.stdout.read() == b""


def test_two_servers_of_one_user_work_side_by_side(server: "subprocess.Popen[bytes]", environ: dict[str, str]) -> None:
    second = subprocess.run(  # noqa: S603 - our own command
        [*forked_command(), "contexts", "list", "--json"], env=environ, capture_output=True, timeout=60, check=True
    )
    assert json.loads(second.stdout) == []
    assert server.poll() is None

"""A stdio server that ends in the middle of work ends soon and leaves nothing behind, for whichever reason it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlm_mcp.records.events import RunLeft
from rlm_mcp.records.run import Run
from tests.peers.forking import forked_command
from tests.peers.openai_server import OpenAIServer
from tests.peers.places import endless_repository, processes_about

SERVER = [sys.executable, "-m", "rlm_mcp.cli"]
PARENT = f"import subprocess, sys; subprocess.Popen({SERVER!r}).wait()"
SPIN = "while True: pass"
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


class Server:
    """A server process and the client's end of its pipes. `started` is the server, or its parent where there is one."""

    def __init__(self, started: "subprocess.Popen[bytes]", environ: dict[str, str]) -> None:
        assert started.stdin is not None
        assert started.stdout is not None
        self.started, self.stdin, self.stdout = started, started.stdin, started.stdout
        self.environ = environ
        self._number = 0
        self.ask("initialize", HELLO)
        self.say({"method": "notifications/initialized"})

    def say(self, message: dict[str, Any]) -> None:
        self.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.stdin.flush()

    def send(self, method: str, params: dict[str, Any]) -> int:
        self._number += 1
        self.say({"id": self._number, "method": method, "params": params})
        return self._number

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = self.send(method, params)
        while (message := json.loads(self.stdout.readline())).get("id") != number:
            continue
        result: dict[str, Any] = message["result"]
        return result

    def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        fields: dict[str, Any] = self.ask("tools/call", {"name": tool, "arguments": arguments})["structuredContent"]
        return fields


def spinning_cell(server: Server) -> None:
    server.call("inspect_context", context="abc", code="1")
    server.send("tools/call", {"name": "inspect_context", "arguments": {"context": "abc", "code": SPIN}})
    server.ask("tools/list", {})  # taken up after the call before it


def spinning_run(server: Server) -> None:
    run = server.call("rlm_solve", query="Loop for ever?", contexts=["abc"], mode="rlm", wait_seconds=0)
    while not run["iterations"]:
        run = server.call("rlm_result", run_id=run["run_id"], wait_seconds=0.1)


def endless_listing(server: Server) -> None:
    home = Path(server.environ["HOME"])
    server.send("tools/call", {"name": "register_context", "arguments": {"source": endless_repository(home)}})
    while not any("ls-files" in command for command in processes_about(home)):
        continue


def end_of_file(server: Server) -> None:
    server.stdin.close()


def term(server: Server) -> None:
    server.started.terminate()


def interrupt(server: Server) -> None:
    server.started.send_signal(signal.SIGINT)


def closed_stdout(server: Server) -> None:
    server.stdout.close()


def death_of_the_parent(server: Server) -> None:
    server.started.kill()


@pytest.fixture
def environ(tmp_path: Path, sandbox_cache: Path) -> Iterator[dict[str, str]]:
    with OpenAIServer(lambda _: f"```repl\n{SPIN}\n```").run_in_thread() as endpoint:
        yield {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "RLM_MCP_DATA_DIR": str(tmp_path / "data"),
            "RLM_MCP_CACHE_DIR": str(sandbox_cache),
            "RLM_MCP_BASE_URL": endpoint.base_url,
            "RLM_MCP_MODEL": "scripted",
        }


@contextmanager
def serving(command: Sequence[str], environ: dict[str, str]) -> Iterator[Server]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as started:  # noqa: S603 - our own command
        try:
            yield Server(started, environ)
        finally:
            started.kill()


@pytest.mark.parametrize("work", [spinning_cell, spinning_run, endless_listing])
@pytest.mark.parametrize("end", [end_of_file, term, interrupt, closed_stdout, death_of_the_parent])
def test_a_server_at_work_ends_and_leaves_nothing_behind(
    work: Callable[[Server], None], end: Callable[[Server], None], environ: dict[str, str], tmp_path: Path
) -> None:
    command = (sys.executable, "-c", PARENT) if end is death_of_the_parent else forked_command()
    with serving(command, environ) as server:
        server.call("register_context", text="a b c", name="abc")
        work(server)
        end(server)
        if end is death_of_the_parent:
            assert server.stdout.read() is not None  # to its end: the server is gone
        else:
            assert server.started.wait(timeout=60) == 0
    ends = time.monotonic() + 60
    while processes_about(tmp_path) and time.monotonic() < ends:  # what was killed is gone a moment later
        time.sleep(0.05)
    assert processes_about(tmp_path) == []
    assert list((tmp_path / "data" / "contexts" / "holders").iterdir()) == []
    for entry in (tmp_path / "data").glob("runs/*"):
        run = Run(entry)
        assert not run.is_live()
        assert isinstance(list(run.events())[-1], RunLeft)


@pytest.mark.parametrize("warnings", ["error", "always"])
def test_only_the_protocol_is_on_stdout_whatever_warns(environ: dict[str, str], warnings: str) -> None:
    with serving(SERVER, environ | {"PYTHONWARNINGS": warnings}) as server:
        server.call("register_context", text="a b c", name="abc")
        assert (
            server.call("inspect_context", context="abc", code="import warnings; print(context)")["stdout"] == "a b c\n"
        )
        server.stdin.close()
        for line in server.stdout:
            assert json.loads(line)["jsonrpc"] == "2.0"


def test_two_servers_of_one_user_share_contexts_and_end_one_by_one(environ: dict[str, str]) -> None:
    with serving(forked_command(), environ) as one, serving(forked_command(), environ) as other:
        context = one.call("register_context", text="a b c", name="abc")
        assert other.call("inspect_context", context="abc", code="len(context)")["value"] == "5"
        end_of_file(one)
        assert one.started.wait(timeout=60) == 0
        assert other.call("list_contexts")["contexts"][0]["context_id"] == context["context_id"]

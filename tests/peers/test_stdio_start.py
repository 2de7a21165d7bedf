"""A stdio server whose import of the SDK takes as long as the test wants.

A package that stands in front of the real `mcp` says through one named pipe that it is being imported, and goes on when
the test lets it through another.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_mcp.server.answer_preparation import prepare_answers
from rlm_mcp.server.early_answers import Prepared
from rlm_mcp.server.prepared_answers import code_fingerprint, places, save_prepared

HELD_SDK = """
import os, pathlib, sys
here = pathlib.Path(__file__).parent
here.joinpath("importing").open("w").close()
here.joinpath("go").open().close()
sys.path.remove(str(here.parent))
del sys.modules["mcp"]
import mcp
"""
META = "io.modelcontextprotocol/"
INFO = {"name": "test", "version": "1"}
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": INFO}
ENVELOPE = {
    "_meta": {META + "protocolVersion": "2026-07-28", META + "clientInfo": INFO, META + "clientCapabilities": {}}
}
ERAS: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "legacy": ("initialize", HELLO, {}),
    "modern": ("server/discover", ENVELOPE, ENVELOPE),
}


class HeldServer:
    """A server that was asked for the tools, and imports the SDK as soon as it needs it, until `go`."""

    def __init__(self, process: "subprocess.Popen[bytes]", sdk: Path, era: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.stdin, self.stdout = process, process.stdin, process.stdout
        self._sdk = sdk
        method, params, self.meta = ERAS[era]
        self.ask(method, params, "opening")
        self.say(method="notifications/initialized")
        assert len(self.ask("tools/list", self.meta, "tools")["tools"]) == 7

    def say(self, **message: object) -> None:
        self.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.stdin.flush()

    def ask(self, method: str, params: object, identity: str) -> dict[str, Any]:
        self.say(id=identity, method=method, params=params)
        return self.answer_to(identity)

    def answer_to(self, identity: str) -> dict[str, Any]:
        """The result of the next answer, which must be the one to this request.

        Notifications are passed over, and an answer that was sent before its request was cancelled.
        """
        while (message := json.loads(self.stdout.readline())).get("id", "cancelled") == "cancelled":
            continue
        assert message["id"] == identity
        result: dict[str, Any] = message["result"]
        return result

    def call(self, tool: str, identity: str, **arguments: object) -> None:
        self.say(id=identity, method="tools/call", params={"name": tool, "arguments": arguments} | self.meta)

    def is_importing(self) -> None:
        """Returns once the SDK is being imported."""
        (self._sdk / "importing").open().close()

    def go(self) -> None:
        (self._sdk / "go").open("w").close()


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return anyio.run(prepare_answers)


@pytest.fixture(params=ERAS)
def server(request: pytest.FixtureRequest, tmp_path: Path, prepared: Prepared) -> Iterator[HeldServer]:
    sdk = tmp_path / "held" / "mcp"
    sdk.mkdir(parents=True)
    (sdk / "__init__.py").write_text(HELD_SDK)
    for name in ("importing", "go"):
        os.mkfifo(sdk / name)
    assert save_prepared(prepared, places(tmp_path / "cache")[1:], code_fingerprint(), beside_bytecode=True)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "RLM_MCP_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(sdk.parent),
    }
    command = [sys.executable, "-m", "rlm_mcp.cli"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:  # noqa: S603 - our own command
        try:
            yield HeldServer(process, sdk, request.param)
        finally:
            process.kill()


def test_nothing_that_a_client_sends_during_the_import_is_lost(server: HeldServer) -> None:
    server.call("register_context", "first", text="a b c", name="abc")
    server.is_importing()
    server.stdin.write(b"no message\n")
    server.call("rlm_solve", "cancelled", query="How many?", contexts=["abc"])
    server.say(method="notifications/cancelled", params={"requestId": "cancelled"})
    assert len(server.ask("prompts/list", server.meta, "prompts")["prompts"]) == 2
    server.go()
    assert server.answer_to("first")["structuredContent"]["name"] == "abc"
    server.call("list_contexts", "second")
    assert [context["name"] for context in server.answer_to("second")["structuredContent"]["contexts"]] == ["abc"]
    assert len(server.ask("tools/list", server.meta, "tools again")["tools"]) == 7
    server.stdin.close()
    assert server.process.wait(timeout=60) == 0


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_import_ends_the_process(sent: signal.Signals, server: HeldServer) -> None:
    server.call("list_contexts", "never answered")
    server.is_importing()
    server.process.send_signal(sent)
    assert server.process.wait(timeout=60) == 0


def test_the_end_of_a_client_that_waits_for_nothing_ends_the_process_during_the_import(server: HeldServer) -> None:
    server.is_importing()  # although nothing needs it: a second after the start
    server.stdin.close()
    assert server.process.wait(timeout=60) == 0


def test_a_client_that_leaves_while_it_waits_ends_the_process_after_the_import(server: HeldServer) -> None:
    server.call("list_contexts", "never read")
    server.is_importing()
    server.stdin.close()
    server.go()
    assert server.process.wait(timeout=60) == 0

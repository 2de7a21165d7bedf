"""How clients open, line by line: Claude Code with server/discover, Codex with initialize 2025-06-18.

That a process which has just been started is opened likewise, before it has imported the SDK, is in test_stdio_start.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlm_mcp
from tests.peers.forking import forked_command

from .raw_lines import META, Wire, speaking

TASKS = f"{META}/tasks"


@pytest.fixture
def wire(tmp_path: Path, sandbox_cache: Path) -> Iterator[Wire]:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RLM_MCP_CACHE_DIR": str(sandbox_cache)}
    with speaking(forked_command(), environ) as wire:
        yield wire


def modern(**params: Any) -> dict[str, Any]:
    """What every request of a 2026-07-28 client carries."""
    return params | {
        "_meta": {
            f"{META}/protocolVersion": "2026-07-28",
            f"{META}/clientInfo": {"name": "claude-code", "version": "2.1.340"},
            f"{META}/clientCapabilities": {"elicitation": {}, "extensions": {TASKS: {}}},
        }
    }


def test_a_client_that_opens_with_discover_lists_and_calls(wire: Wire) -> None:
    found = wire.ask("server/discover", modern())["result"]
    assert "2026-07-28" in found["supportedVersions"]
    assert found["capabilities"]["extensions"] == {TASKS: {}, f"{META}/skills": {}, f"{META}/ui": {}}
    assert found["instructions"].startswith("rlm-mcp answers questions over inputs far larger")
    assert found["_meta"][f"{META}/serverInfo"]["version"] == rlm_mcp.__version__
    assert len(wire.ask("tools/list", modern())["result"]["tools"]) == 7
    assert len(wire.ask("prompts/list", modern())["result"]["prompts"]) == 2
    assert wire.ask("resources/list", modern())["result"]["resources"] == []
    call = modern(name="register_context", arguments={"text": "a b c", "name": "abc"})
    called = wire.ask("tools/call", call)["result"]
    assert (called["resultType"], called["structuredContent"]["name"]) == ("complete", "abc")
    refused = wire.ask("tools/call", modern(name="rlm_solve", arguments={"query": "q", "contexts": ["no"]}))["result"]
    assert (refused["isError"], refused["resultType"]) == (True, "complete")


def test_a_client_that_opens_with_initialize_lists_and_calls(wire: Wire) -> None:
    client = {"name": "codex-mcp-client", "title": "Codex", "version": "0.130.0"}
    hello = {"protocolVersion": "2025-06-18", "capabilities": {"elicitation": {}}, "clientInfo": client}
    opened = wire.ask("initialize", hello)["result"]
    assert opened["protocolVersion"] == "2025-06-18"
    assert opened["serverInfo"]["version"] == rlm_mcp.__version__
    assert opened["instructions"]
    wire.notify("notifications/initialized")
    assert len(wire.ask("tools/list")["result"]["tools"]) == 7
    assert wire.ask("resources/list")["result"]["resources"] == []
    assert len(wire.ask("resources/templates/list")["result"]["resourceTemplates"]) == 6
    call = {"name": "register_context", "arguments": {"text": "a b c"}, "_meta": {"progressToken": 0}}
    called = wire.ask("tools/call", call)["result"]
    assert (called["isError"], called["structuredContent"]["chars"]) == (False, 5)
    assert "resultType" not in called
    assert {notice["method"] for notice in wire.notifications} <= {"notifications/resources/list_changed"}
    assert wire.ask("ping")["result"] == {}


NO_REQUESTS = [
    b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b'{"jsonrpc": "2.0"}', b'{"jsonrpc": "1.0", "id": 1}',
    b'{"jsonrpc": "2.0", "method": "notifications/nothing"}', b'{"jsonrpc": "2.0", "id": 7, "result": {}}',
    b"[" * 100_000, b'{"a":' * 2_000 + b"1" + b"}" * 2_000, b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "x"}',
]  # fmt: skip


def test_lines_that_are_no_requests_do_not_end_the_server(wire: Wire) -> None:
    discover = {"jsonrpc": "2.0", "method": "server/discover", "params": modern()}
    for number, line in enumerate(NO_REQUESTS):
        wire.send(line)
        wire.send(json.dumps(discover | {"id": f"after {number}"}).encode())
        while (message := wire.read()).get("id") != f"after {number}":
            assert "error" in message
        assert message["result"]["supportedVersions"]

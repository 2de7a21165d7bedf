"""What a worker is told over a private socket."""

import pickle
from dataclasses import replace
from pathlib import Path

from rlm_mcp.server.workers.worker_start import WorkerStart, plain, restored
from rlm_mcp.settings import load_settings

TOOLS = '{"search": {"command": ["search"], "allow": ["find"], "env": {"KEY": "tool-secret"}}}'


def test_a_worker_gets_the_settings_with_their_keys_and_without_those_of_tool_servers(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "RLM_MCP_API_KEY": "model-secret", "RLM_MCP_TOOLS": TOOLS}
    settings = load_settings(environ=environ)
    assert settings.tools
    passed = pickle.dumps(plain(settings))
    assert b"tool-secret" not in passed
    assert restored(pickle.loads(passed)) == replace(settings, tools={})  # noqa: S301 - it is ours


def test_what_a_worker_is_told_is_never_shown() -> None:
    start = WorkerStart(number=1, settings={"api_key": "model-secret"}, key="front-secret", state_key=b"", count=2)
    assert "secret" not in repr(start)

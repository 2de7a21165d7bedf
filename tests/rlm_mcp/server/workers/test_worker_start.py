"""What a worker is told over a private socket."""

import multiprocessing
import pickle
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlm_mcp.server.workers.process import run_worker
from rlm_mcp.server.workers.worker_start import WorkerEnds, WorkerStart, plain, restored
from rlm_mcp.settings import load_settings
from rlm_mcp.version import __version__


def started(*, version: str = __version__, settings: Mapping[str, Any], key: str = "") -> WorkerStart:
    return WorkerStart(version=version, number=1, settings=settings, key=key, state_key=b"", count=2)


TOOLS = '{"search": {"command": ["search"], "allow": ["find"], "env": {"KEY": "tool-secret"}}}'


def test_a_worker_gets_the_settings_with_their_keys_and_without_those_of_tool_servers(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "RLM_MCP_API_KEY": "model-secret", "RLM_MCP_TOOLS": TOOLS}
    settings = load_settings(environ=environ)
    assert settings.tools
    passed = pickle.dumps(plain(settings))
    assert b"tool-secret" not in passed
    assert restored(pickle.loads(passed)) == replace(settings, tools={})  # noqa: S301 - it is ours


def test_what_a_worker_is_told_is_never_shown() -> None:
    start = started(settings={"api_key": "model-secret"}, key="front-secret")
    assert "secret" not in repr(start)


def test_a_worker_of_another_version_than_its_server_ends_with_a_sentence(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    start = started(version="0.0.9", settings=plain(load_settings(environ={"HOME": str(tmp_path)})))
    here, there = socket.socketpair()
    ours, theirs = multiprocessing.Pipe()
    with here, there, ours, theirs, pytest.raises(SystemExit) as ended:
        run_worker(start, WorkerEnds(listener=there, lifeline=theirs, egress=None))
    assert ended.value.code == 1
    assert "upgraded from 0.0.9 to " in caplog.text
    assert "restart the server, which goes on with all runs" in caplog.text

"""cisco-ai-mcp-scanner with its YARA rules, offline: tools, prompts, instructions and a resource hold no threat."""

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Counts, run


@pytest.mark.parametrize(("what", "number"), [("remote", 7), ("prompts", 2), ("instructions", 1)])
def test_nothing_that_the_server_says_is_a_threat(
    what: str, number: int, server: str, environ: dict[str, str], tmp_path: Path, counts: Counts
) -> None:
    command = ["mcp-scanner", "--analyzers", "yara", "--raw", what, "--server-url", server]
    done = run(command, environ, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout[done.stdout.index("[") :])
    assert [row for row in rows if row["status"] != "completed" or not row["is_safe"]] == []
    assert len(rows) == number
    counts.add(scanned=number, threats=0)

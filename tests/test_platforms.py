"""What can be tested here of systems without POSIX: see without_posix.py for how they are imitated."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult

from tests.without_posix import POSIX_MODULES

TESTS = Path(__file__).parent
LINUX_PROGRAMS = {"confined.py", "forked.py"}
"""Run by tests, and only on Linux."""

SESSION = """
import json, os, sys
from pathlib import Path
from without_posix import hide_posix
hide_posix("wasm_runtime")
from wasm_runtime import Runtime
from wasm_runtime.machine.mapped_pages import page_map_available
found = {"page map": page_map_available(), "getuid": hasattr(os, "getuid")}
with Runtime(Path(sys.argv[1])) as runtime:
    calls = {"double": lambda n: 2 * n}
    files = {"/context/a.txt": Path(sys.argv[2])}
    with runtime.session(files=files, calls=calls) as session:
        session.exec("from host import call; x = call('double', 21); text = open('/context/a.txt').read()")
        found["values"] = session.exec("x, text").value
        ended = session.exec("x = 0\\nimport os\\nos._exit(1)")
        found["undone"] = [ended.stopped_by, ended.undone, session.exec("x").value]
        endless = session.exec("while True: pass", seconds=0.2)
        found["stopped"] = [endless.stopped_by, endless.undone]
        saved = session.checkpoint()
        with session.fork() as copy:
            found["copy"] = copy.exec("x += 1; x").value
    with runtime.session(calls=calls, files=files, template=runtime.template(saved)) as later:
        found["template"] = later.exec("x, text").value
print(json.dumps(found))
"""

SERVER = """
import json, sys
from pathlib import Path
from without_posix import hide_posix, import_all
hide_posix("wasm_runtime", "rlm_mcp")
names = import_all("wasm_runtime", "rlm_mcp")
from wasm_runtime.machine import mapped_pages
Path(sys.argv[1]).write_text(json.dumps({"names": names, "fcntl": mapped_pages.fcntl is not None}))
from rlm_mcp.cli.main import main
sys.exit(main([]))
"""


def run_without_posix(program: str, *arguments: Path) -> dict[str, Any]:
    """Run a program in a process of its own; -> the JSON that it prints."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)  # noqa: S603 - our own
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_a_session_runs_stops_undoes_and_copies_where_there_is_no_posix(compiled_cache: Path, tmp_path: Path) -> None:
    context = tmp_path / "a.txt"
    context.write_text("mounted")
    assert run_without_posix(SESSION, compiled_cache, context) == {
        "page map": False,
        "getuid": False,
        "values": "(42, 'mounted')",
        "undone": ["exit", True, "42"],
        "stopped": ["deadline", False],
        "copy": "43",
        "template": "(42, 'mounted')",
    }


@pytest.fixture(scope="module")
def served(compiled_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], CallToolResult]:
    """What a server where there is no POSIX has imported, and the result of its code."""
    directory = tmp_path_factory.mktemp("without-posix")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {
        "PYTHONPATH": str(TESTS),
        "RLM_MCP_CACHE_DIR": str(compiled_cache),
        "RLM_MCP_DATA_DIR": str(directory / "data"),
    }
    told = directory / "imported"
    server = StdioServerParameters(command=sys.executable, args=["-c", SERVER, str(told)], env=environment)

    async def answer() -> CallToolResult:
        with anyio.fail_after(120):
            async with Client(server) as client:
                await client.call_tool("register_context", {"text": "a b c\n" * 1_000, "name": "abc"})
                code = {"context": "abc", "code": "len(context.split())"}
                result = await client.call_tool("inspect_context", code)
        assert isinstance(result, CallToolResult)
        return result

    result = anyio.run(answer)
    return json.loads(told.read_text()), result


def test_every_module_can_be_imported_where_there_is_no_posix(served: tuple[dict[str, Any], CallToolResult]) -> None:
    found, _ = served
    assert {"wasm_runtime.machine.mapped_pages", "rlm_mcp.cli.main", "rlm_mcp.files"} <= set(found["names"])
    assert not found["fcntl"]


def test_the_server_runs_code_over_a_context_where_there_is_no_posix(
    served: tuple[dict[str, Any], CallToolResult],
) -> None:
    _, result = served
    assert result.structured_content is not None
    assert result.structured_content["value"] == "3000"


def test_tests_are_collected_where_there_is_no_posix() -> None:
    for file in TESTS.rglob("*.py"):
        for node in ast.parse(file.read_text("utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if file.name not in LINUX_PROGRAMS:
                assert not POSIX_MODULES & set(names), f"{file.name}:{node.lineno}: import it in a function"

"""Where the judges are: `.ci/judges` installs them into a directory and names it in JUDGES. Without it nothing runs.

Each judge tells what it counted; the sums stand at the end of the run.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

if "JUDGES" not in os.environ:
    collect_ignore_glob = ["test_*.py"]

COUNTS = pytest.StashKey[dict[str, dict[str, int]]]()
SERVER = [sys.executable, "-m", "rlm_mcp.cli"]


class Counts:
    """What one judge has counted."""

    def __init__(self, rows: dict[str, int]) -> None:
        self._rows = rows

    def add(self, **more: int) -> None:
        """Adds to the sums."""
        for name, number in more.items():
            self._rows[name] = self._rows.get(name, 0) + number


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COUNTS] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for judge, rows in config.stash[COUNTS].items():
        terminalreporter.line(
            f"{judge}: " + ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in rows.items())
        )


@pytest.fixture
def counts(request: pytest.FixtureRequest) -> Counts:
    judge = request.path.stem.removeprefix("test_")
    return Counts(request.config.stash[COUNTS].setdefault(judge, {}))


@pytest.fixture(scope="session")
def judges() -> Path:
    return Path(os.environ["JUDGES"])


@pytest.fixture(scope="session")
def environ(judges: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What judges and servers run with: the installed tools first, a home and stores of their own."""
    home = tmp_path_factory.mktemp("home")
    path = os.pathsep.join([str(judges / "node_modules" / ".bin"), str(judges / "venv" / "bin"), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RLM_MCP_", "OPENAI_"))}
    return kept | {
        "PATH": path,
        "HOME": str(home),
        "RLM_MCP_DATA_DIR": str(home / "data"),
        "RLM_MCP_CACHE_DIR": str(judges / "cache"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else the scanner asks the network for prices
        "NO_COLOR": "1",
    }


def run(
    command: list[str], environ: dict[str, str], cwd: Path, seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """A judge's verdict: its exit status and what it wrote."""
    return subprocess.run(  # noqa: S603 - the judges that .ci/judges installed
        command, env=environ, cwd=cwd, capture_output=True, text=True, timeout=seconds, check=False
    )


@contextmanager
def listening(command: list[str], port: int, environ: dict[str, str]) -> Iterator[str]:
    """A server process, and its MCP endpoint once it answers."""
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as process:  # noqa: S603 - our own command
        try:
            with httpx2.Client() as http:
                while True:
                    try:
                        http.get(f"http://127.0.0.1:{port}/mcp")
                        break
                    except httpx2.ConnectError:
                        assert process.poll() is None, f"{command} ended with {process.returncode}"
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def server(environ: dict[str, str]) -> Iterator[str]:
    """The real server over HTTP, with one context, so that there is a resource to read."""
    register = [*SERVER, "contexts", "add", __file__, "--json"]
    subprocess.run(register, env=environ, check=True, capture_output=True, timeout=60)  # noqa: S603 - our own command
    port = free_port()
    with listening([*SERVER, "serve", "--http", f"127.0.0.1:{port}"], port, environ) as url:
        yield url


@pytest.fixture(scope="session")
def tasks_server(environ: dict[str, str]) -> Iterator[str]:
    """Our Tasks extension over the tools that the conformance suite calls."""
    port = free_port()
    with listening([sys.executable, "-m", "tests.peers.tasks_server", str(port)], port, environ) as url:
        yield url


@pytest.fixture(scope="session")
def suite_server(environ: dict[str, str]) -> Iterator[str]:
    """Our notices over the tools, prompts and resources that the conformance suite asks for."""
    port = free_port()
    with listening([sys.executable, "-m", "tests.peers.suite_server", str(port)], port, environ) as url:
        yield url

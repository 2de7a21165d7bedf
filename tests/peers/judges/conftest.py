"""Where the judges are: `.ci/judges` installs them into a directory and names it in JUDGES. Without it nothing runs.

Each judge tells what it counted; the sums stand at the end of the run.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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
def listening(command: list[str], environ: dict[str, str]) -> Iterator[str]:
    """A server process, and its MCP endpoint, which it logs once it listens at a port that the system chose."""
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, env=environ, stderr=log) as process,  # noqa: S603 - our own command
    ):
        try:
            while (address := re.search(rb"http://127\.0\.0\.1:[0-9]+", _written(log))) is None:
                assert process.poll() is None, f"{command} ended with {process.returncode}: {_written(log)!r}"
            yield f"{address[0].decode()}/mcp"
        finally:
            process.terminate()


def _written(log: IO[bytes]) -> bytes:
    return os.pread(log.fileno(), 1 << 20, 0)


@pytest.fixture(scope="session")
def server(environ: dict[str, str]) -> Iterator[str]:
    """The real server over HTTP, with one context, so that there is a resource to read."""
    register = [*SERVER, "contexts", "add", __file__, "--json"]
    subprocess.run(register, env=environ, check=True, capture_output=True, timeout=60)  # noqa: S603 - our own command
    with listening([*SERVER, "serve", "--http", "127.0.0.1:0"], environ) as url:
        yield url


@pytest.fixture(scope="session")
def tasks_server(environ: dict[str, str]) -> Iterator[str]:
    """Our Tasks extension over the tools that the conformance suite calls."""
    with listening([sys.executable, "-m", "tests.peers.tasks_server"], environ) as url:
        yield url


@pytest.fixture(scope="session")
def suite_server(environ: dict[str, str]) -> Iterator[str]:
    """Our notifications over the tools, prompts and resources that the conformance suite asks for."""
    with listening([sys.executable, "-m", "tests.peers.suite_server"], environ) as url:
        yield url

"""A made-up home directory, and our own command run in it."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.forking import forked_command


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "u").mkdir()
    return tmp_path / "u"


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "PYTHONPATH", "LANG", "VIRTUAL_ENV"}}
    return kept | {"HOME": str(home)} | more


@pytest.fixture
def run(home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def running(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own command
            [*forked_command(), *arguments],
            env=environment(home, **environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return running

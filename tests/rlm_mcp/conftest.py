"""What many tests begin with: an empty store, and a log to put into it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_mcp.contexts.store.store import Store

LOG = "".join(f"line {i} {'ERROR' if i % 3 == 0 else 'INFO'}\n" for i in range(300))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of this test's own."""
    with Store(tmp_path / "data") as store:
        yield store


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    """300 lines, a hundred of them errors."""
    path = tmp_path / "app.log"
    path.write_text(LOG)
    return path

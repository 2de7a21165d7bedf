"""A store of its own for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_mcp.contexts.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "data") as store:
        yield store


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory to put sources in, apart from the store."""
    directory = tmp_path / "files"
    directory.mkdir()
    return directory

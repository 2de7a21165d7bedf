"""A directory for the sources of every test."""

from pathlib import Path

import pytest


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory to put sources in, apart from the stores."""
    directory = tmp_path / "files"
    directory.mkdir()
    return directory

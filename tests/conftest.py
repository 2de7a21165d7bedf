"""Fixtures shared by all tests."""

from pathlib import Path

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def sandbox_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the compiled sandbox is kept for this session: compiling it takes 10 s, loading it milliseconds."""
    return tmp_path_factory.mktemp("compiled")

"""Images with packages, baked once for all tests from wheels that are downloaded."""

from pathlib import Path

import pytest

from rlm_mcp.packages.library import PackageLibrary

SMALL = ["msgspec", "jiter", "pydantic-core", "python-calamine"]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory, sandbox_cache: Path) -> PackageLibrary:
    """A library to which the wheels were added that the package index has under the sandbox's tag."""
    library = PackageLibrary(tmp_path_factory.mktemp("packages"))
    library.add(SMALL, cache_dir=sandbox_cache, report=print)
    return library

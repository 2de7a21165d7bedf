"""Images with packages, baked once for all tests from wheels that are downloaded."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_mcp.packages.library import PackageLibrary
from wasm_runtime import Runtime, Session

SMALL = ["msgspec", "jiter", "pydantic-core", "python-calamine"]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory, sandbox_cache: Path) -> PackageLibrary:
    """A library to which the wheels were added that the package index has under the sandbox's tag."""
    library = PackageLibrary(tmp_path_factory.mktemp("packages"))
    library.add(SMALL, cache_dir=sandbox_cache, report=print)
    return library


@pytest.fixture
def session(request: pytest.FixtureRequest, runtime: Runtime) -> Iterator[Session]:
    """A session of the test file's `runtime`, with its LIMITS, in which its SETUP has run."""
    with runtime.session(limits=request.module.LIMITS) as session:
        assert session.exec(request.module.SETUP).error is None
        yield session

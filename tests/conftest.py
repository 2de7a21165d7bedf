"""Fixtures shared by all tests."""

import gc
import os
import sys
from pathlib import Path

import hypothesis
import pytest

# Collecting tests makes a million objects and hardly any garbage; looking for it would take a sixth of that time, and
# later as much again whenever all objects are visited.
gc.disable()

# Rewriting the asserts of all tests takes as long as the rest of collecting them, in every worker. Bytecode is kept in
# containers too, which often set PYTHONDONTWRITEBYTECODE.
sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


# The deadline of an example would be an assertion about the clock, which a machine under load fails.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--image", type=Path, help="run the tests of the sandbox on the image with packages in this folder"
    )
    parser.addoption("--wheels", type=Path, help="a folder with wheels of Pyodide's release, for tests of packages")


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> Path | None:
    """The image that the tests of the sandbox run on; None is the one without packages."""
    folder: Path | None = request.config.getoption("--image")
    return folder


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def sandbox_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory of this session with the compiled sandbox, copied from the user's cache.

    Compiling takes 10 s of both cores, and the tests of `wasm_runtime` do it in the user's cache if it is not there.
    The workers of pytest-xdist have base directories side by side and share one copy.
    """
    from wasm_runtime import Runtime, compile_cache

    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    directory.mkdir(exist_ok=True)
    with Runtime():
        pass
    compile_cache.copy_compiled(compile_cache.load_image(), compile_cache.default_cache_dir(), directory)
    return directory


@pytest.fixture(scope="session")
def compiled_cache(sandbox_cache: Path) -> Path:
    """The same, for processes that are killed before they could have compiled it."""
    return sandbox_cache

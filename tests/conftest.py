"""Fixtures shared by all tests."""

import gc
import os
from pathlib import Path

import hypothesis
import pytest

# Collecting tests makes a million objects and hardly any garbage; looking for it would take a sixth of that time, and
# later as much again whenever all objects are visited.
gc.disable()


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
    """Where the compiled sandbox is kept for this session: compiling it takes 10 s, loading it milliseconds.

    The workers of pytest-xdist have base directories side by side; the sandbox is compiled once for all of them.
    """
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.fixture(scope="session")
def compiled_cache(sandbox_cache: Path) -> Path:
    """The same with the sandbox compiled, for processes that are killed before they could have done it."""
    from wasm_runtime import Runtime

    with Runtime(sandbox_cache) as runtime, runtime.session() as session:
        session.exec("1")
    return sandbox_cache

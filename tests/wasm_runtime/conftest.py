"""Sessions for the tests of the public interface, with and without the page map of the kernel."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from wasm_runtime import Limits, Runtime, Session
from wasm_runtime.machine.mapped_pages import page_map_available

LIMITS = Limits(memory_bytes=128 << 20, cell_seconds=5)
ways = [pytest.param(True, marks=pytest.mark.skipif(not page_map_available(), reason="no page map here")), False]


@pytest.fixture(scope="module", params=ways, ids=["page map", "comparing"])
def runtime(request: pytest.FixtureRequest, image: Path | None) -> Iterator[Runtime]:
    with Runtime(image=image, page_map=request.param) as runtime:
        yield runtime


@pytest.fixture
def session(runtime: Runtime) -> Iterator[Session]:
    with runtime.session(limits=LIMITS) as session:
        yield session

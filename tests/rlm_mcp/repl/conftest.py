"""The sandbox, and REPLs that are closed at the end of a test."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.repl.sandbox import Sandbox, open_sandbox
from tests.rlm_mcp.repl.opener import Opener


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for the tests of a module, which share their sandbox."""
    return "asyncio"


@pytest.fixture(scope="module")
async def sandbox(sandbox_cache: Path) -> AsyncIterator[Sandbox]:
    """One for the tests of a module: its first REPL takes longer than most tests."""
    async with open_sandbox(sandbox_cache) as sandbox:
        yield sandbox


@pytest.fixture
async def opened(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Opener]:
    with Store(tmp_path / "data") as store:
        async with AsyncExitStack() as stack:
            yield Opener(sandbox, store, stack)

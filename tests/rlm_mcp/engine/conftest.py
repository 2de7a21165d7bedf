"""The world of the tests of the loop."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_mcp.records.run import Run

from .loop_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    if isinstance(world.record, Run):
        world.record.close()
    world.store.close()

"""Searches as processes: they end with the process that started them."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlm_mcp.contexts.deadline import Deadline
from rlm_mcp.contexts.ripgrep import Pattern, count_lines, stop_searches


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_searches_under_way_can_be_stopped(tmp_path: Path) -> None:
    endless = tmp_path / "endless.txt"
    os.mkfifo(endless)
    with ThreadPoolExecutor() as threads:
        counting = threads.submit(count_lines, Pattern(text="x"), {endless: False}, Deadline(600))
        with endless.open("wb"):  # waits until the search has opened it
            stop_searches()
            assert counting.result(timeout=10) == {}

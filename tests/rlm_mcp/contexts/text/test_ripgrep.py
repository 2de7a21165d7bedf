"""Searches as subprocesses, which end when their time is over."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlm_mcp.contexts.text.ripgrep import Pattern, count_lines
from rlm_mcp.contexts.timeout import Timeout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_a_search_ends_with_its_time(tmp_path: Path) -> None:
    endless = tmp_path / "endless.txt"
    os.mkfifo(endless)
    with ThreadPoolExecutor() as threads:
        counting = threads.submit(count_lines, Pattern(text="x"), {endless: False}, Timeout(0.2))
        with endless.open("wb"):  # waits until the search has opened it
            assert counting.result(timeout=60) == {}

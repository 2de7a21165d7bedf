"""What the fork server imports before the first workers are forked, and what after them."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="nothing is preloaded where there is no fork server")

IN_A_PROCESS_OF_ITS_OWN = """
import gc, signal, sys
from rlm_mcp.server.workers import preloaded
print("openai" in sys.modules, "wasm_runtime.runtime" in sys.modules, gc.isenabled(), gc.get_freeze_count() > 100_000)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.1)
while "rlm_mcp.models.sender" not in sys.modules:
    signal.pause()
signal.setitimer(signal.ITIMER_REAL, 0)
print("openai" in sys.modules)
"""


def test_what_only_runs_need_is_imported_later_in_the_thread_that_forks() -> None:
    command = [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)  # noqa: S603 - our own
    assert done.stdout == "False True True True\nTrue\n"

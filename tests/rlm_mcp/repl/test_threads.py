"""The threads of sandbox sessions."""

import asyncio
import os
import sys

import pytest

from rlm_mcp.repl.threads import SandboxThreads
from wasm_runtime.priority import NICENESS

pytestmark = pytest.mark.anyio


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
async def test_they_give_way_to_the_event_loop() -> None:
    threads = SandboxThreads(asyncio.get_running_loop().call_soon_threadsafe)
    of_loop = os.getpriority(os.PRIO_PROCESS, 0)
    assert await threads.run(os.getpriority, os.PRIO_PROCESS, 0) == min(19, of_loop + NICENESS)
    assert os.getpriority(os.PRIO_PROCESS, 0) == of_loop
    threads.shutdown()

"""A worker that is at the bound of its memory, or beyond it."""

import json
import mmap
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlm_mcp.server.workers.memory import memory_of, most_mapped, most_memory
from rlm_mcp.server.workers.worker import WorkerFailed, WorkerProcess

if sys.platform != "linux":
    pytest.skip("Linux bounds workers", allow_module_level=True)

AT_THE_BOUND = """
import json, sys
from pathlib import Path
from rlm_mcp.server.workers.privileges import drop_privileges
from wasm_runtime import OutOfMemoryBudget, Runtime
drop_privileges(parent=None, memory_bytes=400 << 20)
found = {}
with Runtime(Path(sys.argv[1])) as runtime:
    first = runtime.session()
    found["a large value"] = first.exec("x = bytearray(350 << 20)").error.type
    sessions = [first]
    try:
        while len(sessions) < 30:
            sessions.append(runtime.session())
    except OutOfMemoryBudget as error:
        found["one session more"] = str(error)
    found["the first goes on"] = first.exec("6 * 7").value
    for session in sessions:
        session.close()
    with runtime.session() as session:
        found["another afterwards"] = session.exec("6 * 7").value
print(json.dumps(found))
"""


def test_a_worker_at_its_bound_fails_one_cell_or_one_new_session(sandbox_cache: Path) -> None:
    command = [sys.executable, "-c", AT_THE_BOUND, str(sandbox_cache)]
    printed = subprocess.check_output(command)  # noqa: S603 - our own script
    assert json.loads(printed) == {
        "a large value": "MemoryError",
        "one session more": "no session can be opened (Cannot allocate memory (os error 12)): close others, or try"
        " again later",
        "the first goes on": "42",
        "another afterwards": "42",
    }


def test_what_is_written_to_is_counted_and_what_is_only_mapped_is_not() -> None:
    # From the system, because the allocator may give what an earlier test has written to and freed.
    with mmap.mmap(-1, 65 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapped:
        before = memory_of(os.getpid())
        assert mapped[0] == 0
        assert memory_of(os.getpid()) - before < 16 << 20
        for page in range(0, len(mapped), mmap.PAGESIZE):
            mapped[page] = 1
        assert 64 << 20 <= memory_of(os.getpid()) - before < 80 << 20
    assert memory_of(2**22 + 1) == 0  # no process has this number


def test_a_worker_may_have_half_as_much_as_its_sessions_besides() -> None:
    gigabyte = 1 << 30
    assert [most_memory(share) for share in (None, gigabyte // 4, 4 * gigabyte)] == [None, gigabyte, 6 * gigabyte]
    assert [most_mapped(share) for share in (None, 4 * gigabyte)] == [None, 14 * gigabyte]


@pytest.mark.anyio
async def test_a_worker_with_too_much_memory_has_failed(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=[600], daemon=True)
    process.start()
    receiving, lifeline = multiprocessing.Pipe()
    with receiving:
        worker = WorkerProcess(process, lifeline, tmp_path / "worker", most_memory_bytes=0)
        with pytest.raises(WorkerFailed, match=r"uses \d+ MB of memory and may use 0"):
            await worker.status()
        await worker.close()

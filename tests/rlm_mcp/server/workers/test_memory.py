"""Sessions of a worker that is at the bound of its memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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

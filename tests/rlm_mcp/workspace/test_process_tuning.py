"""Few malloc arenas for many threads. Runs in a process of its own, because the setting is per process."""

import subprocess
import sys

import pytest

COUNT = """
import ctypes, re, sys, threading
from rlm_mcp.workspace.process_tuning import limit_malloc_arenas

if sys.argv[1] == "limited" and not limit_malloc_arenas():
    sys.exit("no such setting")
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
all_there = threading.Barrier(12)

def allocate():
    libc.malloc(1000)
    all_there.wait()

threads = [threading.Thread(target=allocate) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
print(len(re.findall("<heap nr=", open(sys.argv[2]).read())))
"""


def count_arenas(mode: str, report: str) -> int:
    command = [sys.executable, "-c", COUNT, mode, report]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 # our own script
    if "no such setting" in done.stderr:
        pytest.skip("the C library here has no such setting")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_threads_of_the_server_share_few_malloc_arenas(tmp_path: object) -> None:
    report = f"{tmp_path}/malloc.xml"
    assert count_arenas("limited", report) <= 2 < count_arenas("unlimited", report)

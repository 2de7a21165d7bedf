"""Few heaps for many threads, in a process of its own: the setting is the process's."""

import subprocess
import sys

import pytest

COUNT = """
import ctypes, re, sys, threading
from rlm_mcp.workspace.process_tuning import few_heaps

if sys.argv[1] == "few" and not few_heaps():
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


def heaps(mode: str, report: str) -> int:
    command = [sys.executable, "-c", COUNT, mode, report]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 # our own script
    if "no such setting" in done.stderr:
        pytest.skip("the C library here has no such setting")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_threads_of_the_server_share_few_heaps(tmp_path: object) -> None:
    report = f"{tmp_path}/malloc.xml"
    assert heaps("few", report) <= 2 < heaps("many", report)

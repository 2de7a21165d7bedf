"""Few malloc arenas for many threads, and short turns of those that compute. Each setting is that of a process."""

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


TURNS = """
import sys, threading
from rlm_mcp.workspace.process_tuning import switch_threads_often

if sys.argv[1] == "often":
    switch_threads_often()
turns, last = 0, None
both = threading.Barrier(2)

def compute():
    global turns, last
    mine = threading.get_ident()
    both.wait()
    for _ in range(3_000_000):
        if last != mine:
            last = mine
            turns += 1

threads = [threading.Thread(target=compute) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(turns)
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


def count_turns(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", TURNS, mode], capture_output=True, text=True, check=True)  # noqa: S603 # our own script
    return int(done.stdout)


def test_a_thread_that_computes_gives_way_more_often_than_by_default() -> None:
    # Ten times as often on an idle machine, twice as often where other processes take the cores.
    assert any(count_turns("often") > 1.5 * count_turns("usual") for _ in range(12))

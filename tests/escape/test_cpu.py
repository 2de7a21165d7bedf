"""Time: every cell ends at its deadline, and no variable is lost."""

import threading

import pytest

from wasm_runtime import ExecResult, GuestCallError, Limits, Runtime, Session

SECONDS = 0.2

# These react to KeyboardInterrupt, so the effects of the cell up to then are kept.
HEEDING = {
    "empty loop": "while True: pass",
    "loop with calls": "while True: len('abc')",
    "generator": "def forever():\n    while True: yield\nfor _ in forever(): pass",
    "list of lists": "while True: sorted([3, 1, 2])",
    "backtracking regex": "import re; re.match(r'(a+)+$', 'a' * 30 + 'b')",
    "backtracking search": "import re; re.search(r'(x+x+)+y', 'x' * 40)",
    "huge power": "9 ** (10 ** 8)",
    "huge factorial": "import math; math.factorial(10 ** 7)",
    "sleep": "import time; time.sleep(3600)",
    "sleep for ever": "import time; time.sleep(float('1e300'))",
    "sleeping coroutine": "import asyncio; await asyncio.sleep(3600)",
    "asyncio.run": "import asyncio; asyncio.run(asyncio.sleep(3600))",
    "coroutine that never yields": "async def spin():\n    while True: pass\nawait spin()",
    "tasks that wake each other": "import asyncio\nwhile True: await asyncio.sleep(0)",
    "event never set": (
        "import asyncio; e = asyncio.Event(); t = asyncio.create_task(asyncio.sleep(999))\nawait e.wait()"
    ),
    "repr that loops": "class Slow:\n    def __repr__(self):\n        while True: pass\nSlow()",
    "print without end": "while True: print('x')",
    "hash collisions": "class K:\n    def __hash__(self): return 1\nd = {K(): 1 for _ in range(10**6)}",
}

# C code that never polls for signals, or Python that swallows the exception: these cells are trapped, then undone.
UNHEEDING = {
    "swallowed": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "swallowed in finally": (
        "def f():\n    while True:\n        try:\n            while True: pass\n        finally: continue\nf()"
    ),
    "signal ignored": "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
    "handler that loops": (
        "import signal\ndef h(*_):\n    while True: pass\nsignal.signal(signal.SIGINT, h)\nwhile True: pass"
    ),
    "str of an error that loops": (
        "class Slow(Exception):\n    def __str__(self):\n        while True: pass\nraise Slow"
    ),
    "sum of a range": "sum(range(10 ** 12))",
    "product": "import itertools, collections; collections.deque(itertools.product(range(9999), repeat=3), maxlen=0)",
    "membership in a count": "import itertools; -1 in itertools.count()",
    "any of a repeat": "import itertools; any(itertools.repeat(False))",
    "length of a chain": "import collections, itertools; collections.deque(itertools.cycle([1]), maxlen=0)",
    "max of a range": "max(range(10 ** 12))",
    "repr in C": "[0] * 10 ** 7 < [0] * 10 ** 7 and 0 or sum(map(abs, range(10 ** 12)))",
    "sqlite without end": (
        "import sqlite3; sqlite3.connect(':memory:').execute("
        "'with recursive n(x) as (select 1 union all select x+1 from n) select count(*) from n').fetchall()"
    ),
    "in a destructor": (
        "class D:\n    def __del__(self):\n        while True:\n            try:\n                while True: pass\n"
        "            except BaseException: pass\nD()"
    ),
}


@pytest.mark.parametrize("code", HEEDING.values(), ids=HEEDING)
def test_code_that_heeds_an_interrupt_is_stopped_and_keeps_what_it_did(session: Session, code: str) -> None:
    result = session.exec("done = 1\n" + code, seconds=SECONDS)
    assert result.error is not None
    assert (result.error.type, result.stopped_by, result.undone) == ("TimeoutError", "deadline", False)
    assert session.exec("done").value == "1"


@pytest.mark.parametrize("code", UNHEEDING.values(), ids=UNHEEDING)
def test_code_that_does_not_heed_an_interrupt_is_trapped_and_undone(session: Session, code: str) -> None:
    result = session.exec("print('begun')\nkept.append('lost')\n" + code, seconds=SECONDS)
    assert result.error is not None
    assert (result.error.type, result.stopped_by) == ("TimeoutError", "deadline")
    assert result.stdout == "begun\n"
    assert result.undone


def test_an_interrupt_swallowed_once_does_not_buy_more_than_the_grace(session: Session) -> None:
    code = "try:\n    while True: pass\nexcept KeyboardInterrupt: caught = True\nkept.append('lost')\nwhile True: pass"
    result = session.exec(code, seconds=SECONDS)
    assert result.stopped_by == "deadline"
    if not result.undone:
        session.exec("kept.remove('lost')")


def test_interrupts_one_after_the_other_do_not_postpone_the_trap(session: Session) -> None:
    results: list[ExecResult] = []
    code = UNHEEDING["swallowed"]
    running = threading.Thread(target=lambda: results.append(session.exec(code, seconds=600)))
    running.start()
    for _ in range(1_000):
        running.join(0.02)
        session.interrupt()
        if not running.is_alive():
            break
    assert [(result.stopped_by, result.undone) for result in results] == [("interrupt", True)]


def test_cleaning_up_at_the_deadline_is_given_the_grace(session: Session) -> None:
    result = session.exec("try:\n    while True: pass\nfinally: cleaned = True", seconds=SECONDS)
    assert (result.stopped_by, result.undone) == ("deadline", False)
    assert session.exec("cleaned").value == "True"


def test_a_stop_that_comes_late_does_not_hit_the_next_cell(session: Session) -> None:
    for _ in range(5):
        assert session.exec("while True: pass", seconds=0.02).stopped_by == "deadline"
        assert session.exec("sum(range(1000))").value == "499500"


def test_a_signal_handler_set_by_a_cell_ends_with_reset(runtime: Runtime) -> None:
    with runtime.session(limits=Limits(memory_bytes=128 << 20)) as session:
        session.exec("import signal; _ = signal.signal(signal.SIGINT, signal.SIG_IGN)")
        session.reset()
        result = session.exec("done = 1\nwhile True: pass", seconds=SECONDS)
        assert (result.stopped_by, result.undone) == ("deadline", False)


def test_a_call_of_a_guest_function_has_the_same_deadline(runtime: Runtime) -> None:
    with runtime.session(limits=Limits(memory_bytes=128 << 20)) as session:
        session.install("spinner", "def spin():\n    while True: pass")
        with pytest.raises(GuestCallError, match=r"TimeoutError: the cell was stopped after 0\.2 s"):
            session.call("spinner:spin", seconds=SECONDS)
        assert session.exec("1 + 1").value == "2"


def test_one_read_into_many_buffers_of_a_sparse_file_ends_by_itself(session: Session) -> None:
    code = (
        "import os\nwith open('/tmp/sparse', 'wb') as f: f.truncate(1 << 39)\n"
        "fd = os.open('/tmp/sparse', os.O_RDONLY); target = bytearray(40 << 20)\n"
        "read = os.readv(fd, [target] * 1000)\nos.close(fd)\nread <= 1 << 30"
    )
    assert session.exec(code, seconds=20).value == "True"


def test_one_write_of_many_buffers_to_stdout_ends_by_itself(session: Session) -> None:
    code = "import os\nsource = bytes(40 << 20)\nos.writev(1, [source] * 1000) <= 1 << 30"
    result = session.exec(code, seconds=20)
    assert (result.value, result.truncated) == ("True", True)

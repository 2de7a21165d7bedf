"""Memory: beyond its limit a guest gets an exception and no memory, and loses nothing."""

from pathlib import Path

import pytest

from wasm_runtime import Limits, OutOfMemoryBudget, Runtime, Session

# On a loaded machine, filling 90 MiB takes longer than the time limit of cells here.
FILLING_SECONDS = 20.0


@pytest.mark.parametrize(
    "code",
    [
        "bytearray(2**30)",
        "b'a' * (2**30)",
        "'a' * (2**30)",
        "'\\U0001f600' * (2**26)",
        "[0] * 10**9",
        "list(range(10**8))",
        "1 << 10**10",
        "' '.join(['word' * 1000] * 10**5)",
        "'x'.ljust(2**30)",
        "'a'.replace('a', 'b' * 10**4).replace('b', 'c' * 10**5)",
        "bytes(10**6).hex().encode() * 1000",
        "import struct; struct.pack('1000000000x')",
        "import itertools; tuple(itertools.repeat(None))",
        "{i: str(i) for i in range(10**8)}",
        "'%1000000000d' % 1",
        "f'{1:1000000000}'",
        "import re; re.sub('', 'x' * 1000, 'a' * 10**6)",
        "import io; io.BytesIO().write(bytes(2**20) * 1000)",
        "import array; array.array('d', bytes(8)) * 10**9",
    ],
)
def test_what_does_not_fit_is_a_memory_error(session: Session, code: str) -> None:
    result = session.exec(code, seconds=FILLING_SECONDS)
    assert result.error is not None
    assert (result.error.type, result.stopped_by, result.undone) == ("MemoryError", None, False)


@pytest.mark.parametrize("code", ["'a' * 10**10", "bytearray(2**31)", "[None] * 2**40"])
def test_a_size_beyond_32_bits_is_refused_before_anything_is_allocated(session: Session, code: str) -> None:
    result = session.exec(code)
    assert result.error is not None
    assert result.error.type in {"OverflowError", "MemoryError"}
    assert result.memory_bytes < 64 << 20


def test_a_heap_filled_to_its_cap_is_as_good_as_new_once_it_is_dropped(session: Session) -> None:
    full = session.exec("hoard = []\nwhile True: hoard.append('x' * 10_000 + str(len(hoard)))", seconds=FILLING_SECONDS)
    assert full.error is not None
    assert full.error.type == "MemoryError"
    assert session.exec("len(hoard) > 1000; hoard = None").error is None
    again = session.exec("len([str(i) * 10_000 for i in range(1000)])", seconds=FILLING_SECONDS)
    assert (again.error, again.value) == (None, "1000")


def test_holding_a_full_heap_leaves_room_for_small_cells(session: Session) -> None:
    session.exec("hoard = []\nwhile True: hoard.append('x' * 10_000 + str(len(hoard)))", seconds=FILLING_SECONDS)
    assert session.exec("hoard = hoard[:-200]").error is None
    assert session.exec("import json; json.loads(json.dumps(list(range(100))))[-1]").value == "99"


def test_a_fragmented_heap_still_serves(session: Session) -> None:
    code = "blocks = [bytes(i % 500 + 1) for i in range(100_000)]\nblocks = blocks[::2]\nlarge = bytes(10 << 20)"
    assert session.exec(code, seconds=FILLING_SECONDS).error is None
    assert session.exec("blocks = large = None; sum(len(bytes(i)) for i in range(1000))").value == "499500"


def test_a_memory_error_inside_a_memory_error_is_one_too(session: Session) -> None:
    code = """
hoard = []
try:
    while True: hoard.append(bytes(100_000))
except MemoryError:
    while True: hoard.append(bytes(100))
"""
    result = session.exec(code, seconds=FILLING_SECONDS)
    assert result.error is not None
    assert result.error.type in {"MemoryError", "TimeoutError"}
    session.exec("hoard = None")


def test_the_heap_never_passes_its_limit(session: Session) -> None:
    result = session.exec("hoard = []\nwhile True: hoard.append(bytes(1 << 20))", seconds=FILLING_SECONDS)
    assert result.memory_bytes <= session.limits.memory_bytes
    session.exec("hoard = None")


def test_a_cell_that_fills_the_heap_and_then_traps_leaves_the_heap_to_the_next(session: Session) -> None:
    code = "hoard = [bytes(1 << 20) for _ in range(60)]\nimport os; os._exit(1)"
    assert session.exec(code, seconds=FILLING_SECONDS).undone
    assert session.exec("len([bytes(1 << 20) for _ in range(60)])", seconds=FILLING_SECONDS).value == "60"


def test_files_and_heap_share_one_limit(session: Session) -> None:
    write = "for n in range(50):\n    with open(f'/tmp/{n}', 'wb') as file: file.write(bytes(1 << 20))"
    assert session.exec(write, seconds=FILLING_SECONDS).error is None
    refused = session.exec("bytearray(60 << 20)", seconds=FILLING_SECONDS)
    assert refused.error is not None
    assert refused.error.type == "MemoryError"
    assert session.exec("import os\nfor n in range(50): os.unlink(f'/tmp/{n}')").error is None
    assert session.exec("len(bytearray(60 << 20))", seconds=FILLING_SECONDS).value == str(60 << 20)


def test_filling_tmp_ends_in_no_space_left(session: Session) -> None:
    code = """
import errno
with open('/tmp/endless', 'wb') as file:
    try:
        while True: file.write(bytes(1 << 20))
    except OSError as error:
        caught = errno.errorcode[error.errno]
"""
    result = session.exec(code, seconds=FILLING_SECONDS)
    assert session.exec("caught").value == "'ENOSPC'", result
    session.exec("import os; os.unlink('/tmp/endless')")


def test_directories_without_end_end_in_no_space_left(runtime: Runtime) -> None:
    code = "import os, itertools\nfor n in itertools.count(): os.mkdir(f'/tmp/{n}')"
    with runtime.session(limits=Limits(memory_bytes=64 << 20)) as session:
        result = session.exec(code, seconds=FILLING_SECONDS)
        assert result.error is not None
        assert result.error.message.startswith("[Errno 51] No space left on device")
        assert session.exec("n").error is None


def test_sessions_together_never_pass_the_budget_of_the_process() -> None:
    budget = 48 << 20
    with Runtime(memory_budget_bytes=budget) as runtime:
        sessions = [runtime.session(limits=Limits(memory_bytes=128 << 20)) for _ in range(50)]
        outcomes = []
        for session in sessions:
            session.exec("kept = 1")
            outcomes.append(session.exec("hoard = bytes(3 << 20)").error)
        refused = [error.type for error in outcomes if error is not None]
        assert 0 < len(refused) < 50
        assert set(refused) == {"MemoryError"}
        assert [session.exec("kept").value for session in sessions] == ["1"] * 50
        assert sum(s.exec("1").memory_bytes - runtime.image.memory_bytes for s in sessions) <= budget
        for session in sessions:
            session.close()
        assert runtime.budget.available() == budget


def test_a_fork_that_the_budget_refuses_says_so_and_costs_nothing() -> None:
    with Runtime(memory_budget_bytes=40 << 20) as runtime, runtime.session() as session:
        session.exec("hoard = bytes(25 << 20)")
        before = runtime.budget.available()
        with pytest.raises(OutOfMemoryBudget, match="MiB more are needed"):
            session.fork()
        assert runtime.budget.available() == before
        assert session.exec("len(hoard)").value == str(25 << 20)


def test_a_fork_whose_files_the_budget_refuses_says_so_and_costs_nothing() -> None:
    with Runtime(memory_budget_bytes=40 << 20) as runtime, runtime.session() as session:
        session.exec("for n in range(25): open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))")
        before = runtime.budget.available()
        with pytest.raises(OutOfMemoryBudget):
            session.fork()
        assert runtime.budget.available() == before


def test_a_checkpoint_too_large_for_the_session_is_refused_and_the_session_kept(runtime: Runtime) -> None:
    with runtime.session(limits=Limits(memory_bytes=128 << 20)) as large:
        large.exec("hoard = bytes(60 << 20)", seconds=FILLING_SECONDS)
        saved = large.checkpoint()
    with runtime.session(limits=Limits(memory_bytes=64 << 20)) as small:
        small.exec("kept = 1")
        with pytest.raises(OutOfMemoryBudget):
            small.restore(saved)
        assert small.exec("kept").value == "1"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell resident memory")
def test_closing_a_session_gives_its_pages_back_to_the_system(runtime: Runtime) -> None:
    def anonymous_kib() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    before = anonymous_kib()
    with runtime.session(limits=Limits(memory_bytes=128 << 20)) as session:
        session.exec("hoard = bytearray(b'x' * (40 << 20))", seconds=FILLING_SECONDS)
        assert anonymous_kib() - before > 40 << 10
    assert anonymous_kib() - before < 24 << 10

"""Wasm: limits hold below Python too, stores survive traps, and closed sessions leave nothing behind."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wasm_runtime import Limits, Runtime, Session
from wasm_runtime.compile_cache import load_image, module_bytes

LIMITS = Limits(memory_bytes=128 << 20, cell_seconds=2)


GROWING_DATABASE = """
import sqlite3
c = sqlite3.connect(':memory:')
c.execute('create table t(x)')
while True: c.execute('insert into t values (zeroblob(1000000))')
"""


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("\n")


def test_a_thousand_sessions_opened_and_closed_leave_nothing(runtime: Runtime) -> None:
    def open_and_close(count: int) -> tuple[int, int, int]:
        for number in range(count):
            with runtime.session(limits=LIMITS) as session:
                if number % 10 == 0:
                    session.exec("1")
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), mappings()

    threads, descriptors, maps = open_and_close(20)
    after = open_and_close(1000)
    assert after[0] == threads
    assert after[1] <= descriptors
    assert after[2] <= maps + 20
    assert repr(runtime).startswith("<Runtime 0 sessions")


def test_a_hundred_sessions_at_once_are_independent(runtime: Runtime) -> None:
    sessions = [runtime.session(limits=LIMITS) for _ in range(100)]
    for number, session in enumerate(sessions):
        session.exec(f"mine = {number}")
    assert [session.exec("mine").value for session in sessions] == [str(n) for n in range(100)]
    for session in sessions:
        session.close()


def test_sessions_on_many_threads_do_not_meet(runtime: Runtime) -> None:
    def work(number: int) -> list[str | None]:
        with runtime.session(limits=LIMITS, calls={"mine": lambda: number}) as session:
            session.exec(f"x = {number}")
            error = session.exec("raise KeyError(x)").error
            return [session.exec("x").value, session.exec("mine()").value, error.message if error else None]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(60))) == [[str(n)] * 3 for n in range(60)]


def test_traps_on_many_threads_do_not_meet(runtime: Runtime) -> None:
    def work(number: int) -> tuple[bool, str | None]:
        with runtime.session(limits=LIMITS) as session:
            session.exec(f"x = {number}")
            undone = session.exec("import os; os._exit(x)").undone
            return undone, session.exec("x").value

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(40))) == [(True, str(n)) for n in range(40)]


def test_a_trap_inside_a_host_call_leaves_the_next_one_whole(session: Session) -> None:
    for _ in range(20):
        assert session.exec("import os; echo('x' * 100_000); os._exit(1)").undone
        assert session.exec("echo('y')").value == "'y'"


def test_hundreds_of_traps_in_one_session_leave_nothing(session: Session) -> None:
    before = session.exec("1").memory_bytes
    for _ in range(300):
        assert session.exec("import os; os._exit(1)").undone
    assert session.exec("1").memory_bytes == before


def test_memory_never_grows_past_its_limit_whoever_asks(runtime: Runtime) -> None:
    with runtime.session(limits=Limits(memory_bytes=64 << 20)) as session:
        for code in ["bytearray(60 << 20)", "[bytearray(1 << 20) for _ in range(100)]", GROWING_DATABASE]:
            result = session.exec(code, seconds=10)
            assert result.error is not None
            assert result.memory_bytes <= 64 << 20


def test_a_closed_session_can_be_interrupted_and_closed_again(runtime: Runtime) -> None:
    session = runtime.session(limits=LIMITS)
    session.exec("1")
    session.close()
    session.interrupt()
    session.close()
    assert repr(session).startswith("<Session CLOSED")


def test_closing_a_session_that_runs_stops_it(runtime: Runtime) -> None:
    begun = threading.Event()
    session = runtime.session(limits=Limits(memory_bytes=128 << 20), calls={"begun": begun.set})
    with ThreadPoolExecutor(1) as other:
        running = other.submit(session.exec, "begun()\nwhile True: pass")
        assert begun.wait(10)
        session.close()
        assert running.result(10).stopped_by == "interrupt"


def test_the_image_is_the_one_that_its_manifest_names() -> None:
    assert hashlib.sha256(module_bytes()).hexdigest() == load_image().sha256

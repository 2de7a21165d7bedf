"""Sessions, through the public interface of the package."""

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

import pytest

from wasm_runtime import (
    ExecError,
    GuestCallError,
    Limits,
    OutOfMemoryBudget,
    Runtime,
    RuntimeFailure,
    Session,
    SessionBusy,
    SessionClosed,
)
from wasm_runtime.priority import processor_count

LIMITS = Limits(memory_bytes=128 << 20, cell_seconds=5)


# results of cells


@pytest.mark.parametrize(
    ("code", "value", "stdout"),
    [
        ("1 + 1", "2", ""),
        ("x = 1", None, ""),
        ("None", None, ""),
        ("print('a'); 'b'", "'b'", "a\n"),
        ("for i in range(2): i", None, ""),
        ("def f(): return 1", None, ""),
        ("'a\\nb'", "'a\\nb'", ""),
        ("1;", "1", ""),
        ("", None, ""),
        ("# nothing", None, ""),
        ("import asyncio\nawait asyncio.sleep(0, 'slept')", "'slept'", ""),
        ("[await c for c in [__import__('asyncio').sleep(0, n) for n in (1, 2)]]", "[1, 2]", ""),
        ("import asyncio; asyncio.run(asyncio.sleep(0, 5))", "5", ""),
        ("async def f(): return 3\nawait f()", "3", ""),
        ("import asyncio\nt = asyncio.create_task(asyncio.sleep(0, 4))\nawait t", "4", ""),
        ("print('é', end='')", None, "é"),
    ],
)
def test_a_cell_gives_its_last_expression_and_what_it_printed(
    session: Session, code: str, value: str | None, stdout: str
) -> None:
    result = session.exec(code)
    assert (result.error, result.value, result.stdout) == (None, value, stdout)
    assert (result.stopped_by, result.undone, result.truncated) == (None, False, False)
    assert result.stdout_chars == len(stdout)


@pytest.mark.parametrize(
    ("code", "kind", "message", "line"),
    [
        ("1 / 0", "ZeroDivisionError", "division by zero", 1),
        ("x = 1\ny = [\n  x,\n  unknown,\n]", "NameError", "name 'unknown' is not defined", 4),
        ("def f():\n    raise KeyError('k')\n\nf()", "KeyError", "'k'", 2),
        ("x = (", "SyntaxError", "'(' was never closed (<cell 1>, line 1)", 1),
        ("raise SystemExit(3)", "SystemExit", "3", 1),
        ("import json\njson.loads('{')", "JSONDecodeError", "Expecting property name", 2),
        ("await missing", "NameError", "name 'missing' is not defined", 1),
        ("assert 1 == 2, 'no'", "AssertionError", "no", 1),
    ],
)
def test_an_exception_is_a_result_that_names_the_line(
    session: Session, code: str, kind: str, message: str, line: int
) -> None:
    error = session.exec(code).error
    assert error is not None
    assert (error.type, error.line) == (kind, line)
    assert error.message.startswith(message)


def test_a_closed_session_leaves_nothing_behind_for_the_garbage_collector(runtime: Runtime) -> None:
    gone = []
    gc.disable()
    for _ in range(20):
        with runtime.session(limits=LIMITS, calls={"double": lambda x: 2 * x}) as session:
            assert session.exec("double(21)").value == "42"
        gone.append(weakref.ref(session))
    del session
    left = [session() for session in gone]
    gc.enable()
    assert left == [None] * 20


def test_a_traceback_shows_the_cells_own_lines_and_none_of_ours(session: Session) -> None:
    session.exec("def half(n):\n    return 1 / n")
    error = session.exec("half(0)").error
    assert error == ExecError(
        type="ZeroDivisionError",
        message="division by zero",
        line=1,
        traceback=(
            "Traceback (most recent call last):\n"
            '  File "<cell 2>", line 1, in <module>\n    half(0)\n    ~~~~^^^\n'
            '  File "<cell 1>", line 2, in half\n    return 1 / n\n           ~~^~~\n'
            "ZeroDivisionError: division by zero\n"
        ),
    )


def test_standard_error_is_apart(session: Session) -> None:
    result = session.exec("import sys, warnings; print('out'); print('err', file=sys.stderr)")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


def test_variables_survive_exceptions_deadlines_and_traps(session: Session) -> None:
    session.exec("x = [1]")
    session.exec("x.append(2); 1 / 0")
    assert session.exec("x.append(3)\nwhile True: pass", seconds=0.1).stopped_by == "deadline"
    assert session.exec("x.append(4); import os; os._exit(1)").undone
    assert session.exec("x").value == "[1, 2, 3]"


# the state table


def test_a_first_cell_that_is_undone_leaves_the_functions_of_the_host(runtime: Runtime) -> None:
    with runtime.session(limits=LIMITS, calls={"double": lambda n: 2 * n}) as session:
        assert session.exec("import os; os._exit(1)").undone
        assert session.exec("double(2)").value == "4"
        first = session.exec("import random; random.random()").value
    with runtime.session(limits=LIMITS) as other:
        other.exec("import os; os._exit(1)")
        assert other.exec("import random; random.random()").value != first


PREPARING = """
def swap(code):
    seen.append(code)
    return code.replace('before', 'after')
def fail(code): 1 / 0
def number(code): return 1
def leave(code):
    import os; os._exit(1)
seen = []
"""


def test_a_cell_can_be_prepared_by_the_guest(session: Session) -> None:
    session.install("preparing", PREPARING)
    assert session.exec("'before'", prepare="preparing:swap").value == "'after'"
    assert session.exec("import preparing; preparing.seen").value == "[\"'before'\"]"


def test_an_interrupt_of_the_preparation_interrupts_the_cell(runtime: Runtime) -> None:
    opened: list[Session] = []
    with runtime.session(limits=LIMITS, calls={"stop": lambda: opened.pop().interrupt()}) as session:
        opened.append(session)
        session.install("preparing", "import host\ndef stop(code):\n    host.call('stop')\n    while True: pass")
        result = session.exec("while True: pass", seconds=30, prepare="preparing:stop")
        assert (result.stopped_by, result.undone) == ("interrupt", False)
        assert session.exec("1 + 1").value == "2"


@pytest.mark.parametrize("function", ["fail", "number", "leave", "missing"])
def test_a_cell_that_cannot_be_prepared_is_run_as_it_is(session: Session, function: str) -> None:
    session.install("preparing", PREPARING)
    session.exec("kept = 1")
    assert session.exec("'before', kept", prepare=f"preparing:{function}").value == "('before', 1)"


def test_preparing_is_undone_with_the_cell_that_is_undone(session: Session) -> None:
    session.install("preparing", PREPARING)
    assert session.exec("import os; os._exit(1)", prepare="preparing:swap").undone
    assert session.exec("import preparing; preparing.seen").value == "[]"


def test_a_session_tells_its_state(runtime: Runtime) -> None:
    session = runtime.session(limits=LIMITS)
    assert repr(session).startswith("<Session NEW, 0 execs, ")
    session.exec("1")
    session.exec("2")
    assert repr(session).startswith("<Session READY, 2 execs, ")
    session.close()
    assert repr(session) == "<Session CLOSED, 2 execs>"


def test_a_closed_session_refuses_everything_but_closing(runtime: Runtime) -> None:
    session = runtime.session(limits=LIMITS)
    session.exec("1")
    saved = session.checkpoint()
    session.close()
    session.close()
    session.interrupt()
    actions: list[Callable[[], object]] = [
        lambda: session.exec("1"),
        lambda: session.call("m:f"),
        lambda: session.install("m", ""),
        session.checkpoint,
        lambda: session.restore(saved),
        session.fork,
        session.reset,
    ]
    for action in actions:
        with pytest.raises(SessionClosed, match="make a new session"):
            action()


def test_a_session_that_runs_on_another_thread_is_busy(runtime: Runtime) -> None:
    begun, answer = threading.Event(), Future[int]()

    def wait() -> Future[int]:
        begun.set()
        return answer

    with runtime.session(limits=LIMITS, calls={"wait": wait}) as session, ThreadPoolExecutor(1) as other:
        running = other.submit(session.exec, "wait()")
        assert begun.wait(10)
        with pytest.raises(SessionBusy, match="is running a cell on another thread"):
            session.exec("1")
        answer.set_result(5)
        assert running.result(10).value == "5"
        assert session.exec("1").value == "1"


def test_a_closed_runtime_makes_no_sessions_and_has_closed_those_it_made() -> None:
    with Runtime() as runtime:
        session = runtime.session()
    assert repr(session).startswith("<Session CLOSED")
    with pytest.raises(RuntimeFailure, match="was closed"):
        runtime.session()


@pytest.mark.parametrize(
    "change",
    [{"memory_bytes": 1 << 20}, {"memory_bytes": 1 << 40}, {"cell_seconds": 0}, {"cell_seconds": float("nan")},
     {"cell_seconds": 10**6}, {"output_bytes": 10}, {"output_bytes": 1 << 40}],
)  # fmt: skip
def test_limits_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} is .*: give"):
        Limits(**change)  # type: ignore[arg-type] # a stand-in, or wrong on purpose


# interrupts


def test_an_interrupt_from_another_thread_keeps_what_the_cell_did(runtime: Runtime) -> None:
    begun = threading.Event()
    with runtime.session(limits=LIMITS, calls={"begun": begun.set}) as session, ThreadPoolExecutor(1) as other:
        running = other.submit(session.exec, "x = 1\nbegun()\nwhile True: x += 1")
        assert begun.wait(10)
        session.interrupt()
        result = running.result(10)
        assert result.error is not None
        assert (result.error.type, result.stopped_by, result.undone) == ("KeyboardInterrupt", "interrupt", False)
        assert result.error.message == "the cell was interrupted; variables are kept"
        assert session.exec("x > 0").value == "True"


def test_an_interrupt_while_nothing_runs_does_nothing(session: Session) -> None:
    session.interrupt()
    assert session.exec("sum(range(100_000))").error is None


def test_the_deadline_says_how_long_the_cell_had(session: Session) -> None:
    error = session.exec("while True: pass", seconds=0.1).error
    assert error is not None
    assert (error.type, error.message) == ("TimeoutError", "the cell was stopped after 0.1 s; variables are kept")


def test_waiting_for_the_host_does_not_count(runtime: Runtime) -> None:
    answer = Future[int]()
    timer = threading.Timer(0.5, answer.set_result, [7])
    with runtime.session(limits=LIMITS, calls={"ask": lambda: answer}) as session:
        timer.start()
        assert session.exec("ask()", seconds=0.2).value == "7"
        timer.join()


def test_cells_that_sleep_let_others_compute(runtime: Runtime) -> None:
    """Each sleeps until all have begun, which are more than compute at once."""
    many = 80
    begun: set[int] = set()

    def all_begun(number: int) -> bool:
        begun.add(number)
        return len(begun) == many

    with ExitStack() as stack:
        sessions = [stack.enter_context(runtime.session(calls={"all_begun": all_begun})) for _ in range(many)]
        threads = stack.enter_context(ThreadPoolExecutor(many))
        cells = [
            threads.submit(session.exec, f"import time\nwhile not all_begun({number}): time.sleep(0.05)")
            for number, session in enumerate(sessions)
        ]
        assert [cell.result().error for cell in cells] == [None] * many


def test_cells_that_compute_for_ever_let_others_begin(runtime: Runtime) -> None:
    """They are more than the cells that begin at once."""
    many = processor_count() + 3
    with ExitStack() as stack:
        sessions = [stack.enter_context(runtime.session(limits=LIMITS)) for _ in range(many)]
        other = stack.enter_context(runtime.session(limits=LIMITS))
        threads = stack.enter_context(ThreadPoolExecutor(many))
        cells = [threads.submit(session.exec, "while True: pass", seconds=1000) for session in sessions]
        assert other.exec("1 + 1").value == "2"
        while not all(cell.done() for cell in cells):
            for session in sessions:
                session.interrupt()
            wait(cells, timeout=0.1)
        assert {cell.result().stopped_by for cell in cells} == {"interrupt"}


# modules and calls into the guest


def test_an_installed_module_is_importable_and_not_in_the_namespace(session: Session) -> None:
    session.install("tools", "import math\nroot = math.sqrt\ndef twice(n, *, plus=0): return 2 * n + plus")
    assert session.exec("'tools' in dir(), __import__('tools').twice(4)").value == "(False, 8)"
    assert session.call("tools:twice", 21) == 42
    assert session.call("tools:root", 16) == 4.0


def test_a_module_that_fails_says_so_and_is_not_there(session: Session) -> None:
    with pytest.raises(GuestCallError, match="ZeroDivisionError: division by zero"):
        session.install("broken", "1 / 0")
    with pytest.raises(GuestCallError, match="SyntaxError"):
        session.install("broken", "def")
    assert session.exec("import broken").error is not None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("tools:fail", "ValueError: no"),
        ("tools:missing", "AttributeError"),
        ("missing:f", "KeyError"),
        ("tools", "AttributeError"),
        ("tools:thing", "TypeError"),
    ],
)
def test_a_guest_function_that_raises_is_a_guest_call_error(session: Session, function: str, message: str) -> None:
    session.install("tools", "def fail(): raise ValueError('no')\ndef thing(): return object()")
    with pytest.raises(GuestCallError, match=message):
        session.call(function)


def test_installed_modules_may_put_names_into_the_namespace(session: Session) -> None:
    session.install("prelude", "import __main__\n__main__.answer = {'ready': False}")
    assert session.exec("answer['ready']").value == "False"


# files


def test_files_are_mounted_from_bytes_text_and_paths(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "on disk").write_text("from the disk")
    files: dict[str, bytes | str | Path] = {
        "/context/a/b": b"\xff\xfe",
        "/context/text": "héllo",
        "/context/disk": tmp_path / "on disk",
    }
    with runtime.session(limits=LIMITS, files=files) as session:
        code = "[open(f'/context/{n}', 'rb').read() for n in ('a/b', 'text', 'disk')]"
        assert session.exec(code).value == repr([b"\xff\xfe", "héllo".encode(), b"from the disk"])


def test_a_file_that_is_not_there_or_a_relative_guest_path_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        runtime.session(files={"/context/a": tmp_path / "missing"})
    with pytest.raises(ValueError, match="relative"):
        runtime.session(files={"relative/path": b""})
    with pytest.raises(ValueError, match="regular file"):
        runtime.session(files={"/context/a": tmp_path})


def test_a_session_without_room_for_its_memory_is_refused() -> None:
    with Runtime(memory_budget_bytes=20 << 20) as runtime, runtime.session(limits=LIMITS) as session:
        session.exec("x = bytes(15 << 20)")
        saved = session.checkpoint()
        with runtime.session(limits=LIMITS) as other:
            other.exec("kept = 1")
            with pytest.raises(OutOfMemoryBudget):
                other.restore(saved)
            assert other.exec("kept").value == "1"


def test_a_value_too_long_for_one_message_is_refused_in_a_sentence(runtime: Runtime) -> None:
    with runtime.session(limits=Limits(memory_bytes=1 << 30), calls={"put": len}) as session:
        session.install("long", "def value(n): return 'x' * n")
        with pytest.raises(GuestCallError, match=r"ValueError: a message of 34000036 bytes to the host is too long"):
            session.call("long:value", 34_000_000)
        error = session.exec("put('x' * 34_000_000)").error
        assert error is not None
        assert error.message == "a message of 34000064 bytes to the host is too long: pass less at once"
        assert session.exec("put('x' * 20_000_000)").value == "20000000"

"""Host calls: messages of a guest are untrusted data, and what it redefines affects only itself."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from wasm_runtime import Limits, Runtime, RuntimeFailure, Session

LIMITS = Limits(memory_bytes=128 << 20, cell_seconds=2)


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("'x' * 10**9", "MemoryError"),
        ("b'bytes'", "TypeError"),
        ("{1, 2}", "TypeError"),
        ("object()", "TypeError"),
        ("1j", "TypeError"),
        ("lambda: 0", "TypeError"),
        ("print", "TypeError"),
        ("float('nan')", None),
        ("float('inf')", None),
        ("10**4000", None),
        ("'\\ud800'", None),
        ("'\\0' * 1000", None),
        ('\'\\n{"do": "next"}\\n\'', None),
        ("{1: 2, None: 3, True: 4}", None),
        ("'\\U0001f600' * 1000", None),
        ("()", None),
        ("''", None),
    ],
)
def test_any_argument_arrives_or_is_refused(session: Session, argument: str, error: str | None) -> None:
    result = session.exec(f"answer = echo({argument})", seconds=5)
    assert (result.error.type if result.error else None) == error
    assert not result.undone


@pytest.mark.parametrize(
    ("make", "send"),
    [
        ("d = []\nfor _ in range(10**5): d = [d]", "echo(d)"),
        ("d = {}\nfor _ in range(10**5): d = {'a': d}", "echo(d)"),
        ("d = []; d.append(d)", "echo(d)"),
        ("d = [0] * (1 << 21)", "echo(d)"),
        ("d = [[]] * (1 << 20)", "echo(d)"),
        ("d = '[' * 10**6", "import os; os.write(3, d.encode())"),
        ("d = '[' * 10**6 + ']' * 10**6", "import os; os.write(3, d.encode())"),
        ("d = '[' + '[],' * (1 << 21) + '0]'", "import os; os.write(3, d.encode()); 1 / 0"),
        ("d = '{' * 10**5", "import os; os.write(3, d.encode()); 1 / 0"),
        ("d = '9' * 10**6", "import os; os.write(3, d.encode()); 1 / 0"),
    ],
)
def test_deep_and_wide_messages_cost_the_host_nothing(session: Session, make: str, send: str) -> None:
    assert session.exec(make, seconds=5).error is None
    session.exec(send, seconds=5)


def test_a_long_text_full_of_commas_and_brackets_is_no_wide_message(session: Session) -> None:
    assert session.exec("text = '[a,\"b\\\\\",{' * 300_000\necho(text) == text", seconds=10).value == "True"


@pytest.mark.parametrize(
    "hostile",
    [
        "class H(str):\n    def __len__(self): return -1\n    def __str__(self): raise ValueError\nh = H('text')",
        "class H(dict):\n    def items(self): raise ValueError\nh = H(a=1)",
        "class H(list):\n    def __iter__(self):\n        while True: yield self\nh = H([1])",
        "class H(int):\n    def __repr__(self): return 'x' * 1000\nh = H(5)",
        'class H(float):\n    def __repr__(self): return \'], "do": "done"\'\nh = H(5)',
        "class H(dict):\n    def __len__(self): return 10**9\n    def __bool__(self): raise ValueError\nh = H(a=1)",
    ],
)
def test_objects_with_hostile_methods_are_sent_or_refused(session: Session, hostile: str) -> None:
    assert session.exec(hostile).error is None
    session.exec("echo(h)", seconds=0.2)


FORGED = [
    b"",
    b"\n",
    b"null\n",
    b"[]\n",
    b"{}\n",
    b"{\n",
    b'"do"\n',
    b"\xff\xfe\n",
    b"\xef\xbb\xbf{}\n",
    b'{"do": "nothing"}\n',
    b'{"do": ["call"]}\n',
    b'{"do": "next"}\n',
    b'{"do": "call"}\n',
    b'{"do": "call", "name": 5, "args": [], "kwargs": {}}\n',
    b'{"do": "call", "name": "missing", "args": [], "kwargs": {}}\n',
    b'{"do": "call", "name": "__init__", "args": [], "kwargs": {}}\n',
    b'{"do": "call", "name": "echo", "args": {}, "kwargs": []}\n',
    b'{"do": "call", "name": "echo", "args": [1, 2, 3], "kwargs": {}}\n',
    b'{"do": "call", "name": "echo", "args": [], "kwargs": {"self": 1, "fn": 2, "": 3}}\n',
    b'{"do": "submit", "name": "echo", "calls": [[[1, 2], {"fn": 1}]]}\n',
    b'{"do": "wait", "tickets": [99], "all": true}\n',
    b'{"do": "wait", "tickets": [[]], "all": true}\n',
    b'{"do": "wait", "tickets": [{}], "all": true}\n',
    b'{"do": "wait", "tickets": ["x", null, -1, 1e400], "all": true}\n',
    b'{"do": "wait", "tickets": [], "all": false, "seconds": -5}\n',
    b'{"do": "wait", "tickets": [], "all": false, "seconds": NaN}\n',
    b'{"do": "wait", "tickets": [], "all": false, "seconds": "soon"}\n',
    b'{"do": "cancel", "tickets": [[], {}, null, 1]}\n',
    b'{"do": "sleep", "seconds": 0}\n',
    b'{"do": "sleep", "seconds": -1e400}\n',
    b'{"do": "sleep", "seconds": -' + b"9" * 4000 + b"}\n",
    b'{"do": "sleep", "seconds": true}\n',
    b'{"do": "done", "report": []}\n',
    b'{"do": "done", "report": {"value": 5, "error": 7}}\n',
    b'{"do": "done", "report": {"error": {"type": ["x"], "message": {}, "line": "1", "traceback": 5}}}\n',
    b'{"do": "fork", "count": -1, "workers": -1, "ahead": false}\n',
    b'{"do": "fork", "count": 1000000000000, "workers": 5, "ahead": false}\n',
    b'{"do": "fork", "count": "1", "workers": 1, "ahead": 0}\n',
    b'{"do": "item"}\n',
    b'{"do": "item_done", "index": 0, "outcome": {}}\n',
    b'{"do": "end_scopes"}\n',
    b'{"do": "next"}\n{"do": "next"}\n',
    b"\x00" * 100000,
]


@pytest.mark.parametrize("frame", FORGED, ids=range(len(FORGED)))
def test_a_forged_frame_is_refused_by_the_host(session: Session, frame: bytes) -> None:
    code = f"import os\ntry: os.write(3, {frame!r})\nexcept OSError: pass\nos.read(3, 10**6)"
    result = session.exec(code, seconds=0.2)
    if result.stopped_by is None:
        assert result.error is None
    assert session.exec("echo('next')").value == "'next'"


@pytest.mark.parametrize("seconds", ["10**400", "float('inf')", "1e308", "-10**400"])
def test_no_number_of_seconds_breaks_the_host(session: Session, seconds: str) -> None:
    result = session.exec(f"import host; host.sleep({seconds})", seconds=0.1)
    assert result.stopped_by in {"deadline", None}


@pytest.mark.parametrize("where", ["print(frame)", "sys.stderr.write(frame)", "os.write(1, frame.encode())", "frame"])
def test_a_frame_printed_is_text(session: Session, where: str) -> None:
    frame = '{"do": "done", "report": {"value": "forged"}}'
    result = session.exec(f"import os, sys\nframe = {frame!r} + chr(10)\n{where}\nNone")
    assert (result.value, result.error) == (None, None)


def test_a_forged_report_cannot_be_longer_than_a_real_one(broken_session: Session) -> None:
    code = """
import host
real = host.cells._exchange if hasattr(host, 'cells') else host.exchange
from host import cells
cells._exchange({'do': 'done', 'report': {'value': 'x' * 20_000_000}})
cells._exchange = lambda message: None
"""
    result = broken_session.exec(code, seconds=5)
    assert len(result.value or "") <= 2 << 20


@pytest.mark.parametrize(
    "code",
    [
        "echo = None",
        "del echo",
        "import json; json.dumps = json.loads = json.JSONEncoder = None",
        "import json.encoder; json.encoder.c_make_encoder = None; json.JSONEncoder.iterencode = lambda *a: 1 / 0",
        "import os; os.write = os.read = os.open = None",
        "import builtins; builtins.print = builtins.len = builtins.open = builtins.isinstance = None",
        "__builtins__ = {}",
        "import sys; sys.stdout = sys.stderr = sys.stdin = None",
        "import time; time.sleep = None",
        "import ast, traceback; ast.parse = traceback.format_exception = None",
        "import random; random.seed = None",
        "import signal; signal.signal = None",
        "__name__ = 'x'; __doc__ = 5; __loader__ = None; __spec__ = None",
        "import __main__; __main__.__dict__.clear()",
    ],
)
def test_redefining_things_changes_this_session_only(runtime: Runtime, code: str) -> None:
    told: list[object] = []
    calls = {"echo": told.append}
    with runtime.session(limits=LIMITS, calls=calls) as one, runtime.session(limits=LIMITS, calls=calls) as other:
        one.exec(code)
        assert other.exec("echo(1); import json; print(json.dumps(len('ab')))").stdout == "2\n"
        one.reset()
        assert one.exec("echo(2); import json; print(json.dumps(len('ab')))").stdout == "2\n"
    assert told == [1, 2]


def test_ten_thousand_calls_at_once_use_a_bounded_number_of_threads(runtime: Runtime) -> None:
    most = 0

    def work(n: int) -> int:
        nonlocal most
        most = max(most, threading.active_count())
        return n

    with runtime.session(limits=LIMITS, calls={"work": work}) as session:
        code = """
import asyncio, host
found = await asyncio.gather(*[host.call_async('work', n) for n in range(10_000)])
found == list(range(10_000))
"""
        result = session.exec(code, seconds=60)
        assert (result.error, result.value) == (None, "True")
    assert most < 200


def test_a_call_that_never_answers_ends_with_an_interrupt(runtime: Runtime) -> None:
    never: Future[int] = Future()
    called = threading.Event()

    def call() -> Future[int]:
        called.set()
        return never

    with runtime.session(limits=LIMITS, calls={"never": call}) as session, ThreadPoolExecutor(1) as other:
        session.exec("kept = 1")
        running = other.submit(session.exec, "never()")
        assert called.wait(10)
        session.interrupt()
        result = running.result(10)
        assert (result.stopped_by, result.undone) == ("interrupt", False)
        assert never.cancelled()
        assert session.exec("kept").value == "1"


def test_a_call_from_a_destructor_is_a_call(session: Session) -> None:
    code = "class D:\n    def __del__(self): print(echo('from del'))\nd = D(); d = None"
    assert session.exec(code).stdout == "from del\n"


def test_a_destructor_that_runs_while_another_call_is_made_confuses_neither(session: Session) -> None:
    code = """
import gc
class D:
    def __del__(self): answers.append(echo('from del'))
class Slow(list):
    pass
answers = []
for n in range(50):
    cycle = [D()]; cycle.append(cycle); del cycle
    answers.append(echo(n))
    gc.collect()
sorted(map(str, answers)) == sorted([*map(str, range(50)), *['from del'] * 50])
"""
    assert session.exec(code, seconds=10).value == "True"


def test_calls_left_for_interpreter_exit_are_never_made(runtime: Runtime) -> None:
    told: list[object] = []
    with runtime.session(limits=LIMITS, calls={"tell": told.append}) as session:
        session.exec(
            "import atexit; atexit.register(tell, 'at exit')\nclass D:\n    def __del__(self): tell('del')\nd = D()"
        )
    assert told == []


def test_a_handler_that_uses_its_own_session_is_refused_and_no_deadlock(runtime: Runtime) -> None:
    holder: list[Session] = []
    with runtime.session(limits=LIMITS, calls={"again": lambda: holder[0].exec("1").value}) as session:
        holder.append(session)
        result = session.exec("again()")
        assert result.error is not None
        assert result.error.message == "the host function again failed"
        assert session.exec("1 + 1").value == "2"


def test_a_handler_may_use_another_session(runtime: Runtime) -> None:
    with (
        runtime.session(limits=LIMITS) as inner,
        runtime.session(calls={"run": lambda code: inner.exec(code).value}) as outer,
    ):
        assert outer.exec("run('6 * 7'), run('1 / 0')").value == "('42', None)"


def test_a_handler_that_ends_the_host_thread_is_our_own_failure(runtime: Runtime) -> None:
    def leave() -> None:
        raise SystemExit

    with runtime.session(limits=LIMITS, calls={"leave": leave}) as session:
        session.exec("kept = 1")
        with pytest.raises(RuntimeFailure, match="a host function of the sandbox failed"):
            session.exec("leave()")
        assert session.exec("kept").value == "1"


def test_copies_cannot_make_copies(session: Session) -> None:
    code = """
import host
from host.parallel import parallel_map
def again(n): return host.exchange({'do': 'fork', 'count': 2, 'workers': 2, 'ahead': False})
parallel_map(again, [1, 2, 3])
"""
    result = session.exec(code, seconds=10)
    assert result.value == repr([{"refused": "this runs in a copy already: copies do not make copies"}] * 3)


def test_copies_by_the_thousand_are_bounded(session: Session) -> None:
    code = "from host.parallel import parallel_map\nparallel_map(lambda n: n, range(999), workers=10**9)[-1]"
    assert session.exec(code, seconds=30).value == "998"


def test_a_copy_that_traps_takes_only_its_item_along(session: Session) -> None:
    code = """
import os
from host.parallel import parallel_map
def work(n):
    if n == 2: os._exit(1)
    return n
parallel_map(work, range(4))
"""
    result = session.exec(code, seconds=10)
    assert result.error is not None
    assert (result.error.type, result.undone) == ("RuntimeError", False)


def test_a_copy_that_never_ends_ends_with_the_deadline(session: Session) -> None:
    code = "from host.parallel import parallel_map\ndef spin(n):\n    while True: pass\nparallel_map(spin, range(3))"
    result = session.exec(code, seconds=0.5)
    assert result.error is not None
    assert result.stopped_by in {"deadline", None}


def test_a_thousand_items_that_never_end_are_not_all_begun(runtime: Runtime) -> None:
    begun: list[int] = []
    with runtime.session(limits=LIMITS, calls={"begun": begun.append}) as session:
        code = "def spin(n):\n    begun(n)\n    while True: pass\nparallel_map(spin, range(1000), workers=4)"
        assert session.exec(code, seconds=0.3).error is not None
    assert 0 < len(begun) <= 20


def test_copies_are_charged_to_the_budget_of_the_process() -> None:
    with Runtime(memory_budget_bytes=60 << 20) as runtime, runtime.session(limits=LIMITS) as session:
        session.exec("hoard = bytes(25 << 20)")
        assert session.exec("parallel_map(lambda n: len(hoard) + n, range(4))", seconds=20).error is None
        session.exec("more = bytes(10 << 20)")
        result = session.exec("parallel_map(len, ['a', 'b'])", seconds=20)
        assert result.error is not None
        assert "the copies could not be made" in result.error.message
        assert session.exec("len(hoard) + len(more)").value == str(35 << 20)

"""What all sessions share: a guest cannot fill the host's memory, nor run on host functions after its deadline."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Self

import pytest

from wasm_runtime import Limits, Runtime, Session, Starts

LIMITS = Limits(memory_bytes=128 << 20, cell_seconds=20)
# Threads for copies and for submitted calls: of a Runtime for sessions without an owner, and of each owner.
THREADS, OWNER_THREADS = (64, 64), (32, 8)


def start_answered() -> "Future[object]":
    answer: Future[object] = Future()
    answer.set_result("at once")
    return answer


@pytest.fixture
def greedy(runtime: Runtime) -> Iterator[Session]:
    before = runtime.budget.available()
    calls: dict[str, Callable[..., object]] = {
        "text": lambda: "x" * (8 << 20),
        "deep": lambda: {"v": ["x" * (8 << 20)]},
        "count": lambda n: n + 1,
        "model": Starts(start_answered),
    }
    with runtime.session(limits=LIMITS, calls=calls) as session:
        assert session.exec("kept = 41").error is None
        yield session
        assert session.exec("kept + 1").value == "42"
    assert runtime.budget.available() == before


@pytest.mark.parametrize("name", ["text", "deep"])
def test_answers_that_nobody_fetches_are_refused_beyond_the_limit_of_the_session(greedy: Session, name: str) -> None:
    code = f"""
import host
tickets = [host.submit({name!r}) for _ in range(64)]
[type(answer).__name__ for answer in map(lambda ticket: host.wait([ticket])[0], tickets)].count('Failed')
"""
    result = greedy.exec(code)
    assert result.error is None
    assert 40 <= int(result.value or 0) < 64


def test_arguments_that_wait_are_refused_beyond_the_limit_of_the_session(runtime: Runtime) -> None:
    calls = {"hang": Starts(lambda _: Future())}
    with runtime.session(limits=LIMITS, calls=calls) as session:
        code = "import host\nfor n in range(64): host.submit('hang', 'x' * (8 << 20))"
        error = session.exec(code).error
        assert error is not None
        assert "do not fit into the memory of this session" in error.message


@pytest.mark.parametrize(
    "outcome", ["{'v': ['x' * (4 << 20)]}", "{'value': ['x' * (4 << 20)]}", "{'x' * (4 << 20): 1}"]
)
def test_a_copy_cannot_forge_outcomes_that_are_not_counted(greedy: Session, outcome: str) -> None:
    code = f"""
def forge(n):
    import host
    host.exchange({{'do': 'item_done', 'index': n, 'outcome': {outcome}}})
try:
    parallel_map(forge, range(16), workers=2)
except KeyError as error:  # an outcome without a value is none
    told = str(error)
told
"""
    assert greedy.exec(code).value == "\"'error'\""


def test_copies_return_no_more_than_the_session_may_hold(greedy: Session) -> None:
    code = "parallel_map(lambda n: b'x' * (4 << 20), range(32), workers=2)"
    error = greedy.exec(code, seconds=120).error  # so long that a busy machine does not end it instead
    assert error is not None
    assert error.type in {"RuntimeError", "MemoryError"}


@pytest.mark.parametrize(
    "code",
    [
        "while True: count(1)",
        "while True: model()",
        "import host\nwhile True: host.wait(host.submit_all('count', [((1,), {})] * 8))",
        "import host\nwhile True: host.wait(host.submit_all('model', [((), {})] * 8))",
        "import time\nwhile True: time.sleep(0)",
        "while True: parallel_map(count, range(3))",
        "parallel_map(lambda n: [count(1) for _ in iter(int, 1)], range(3))",
        "parallel_map(lambda n: n, range(100_000), workers=2)",
        "from concurrent.futures import ThreadPoolExecutor as P\nwhile True: list(P().map(count, range(3)))",
    ],
)
def test_calls_of_the_host_in_a_loop_end_at_the_deadline(greedy: Session, code: str) -> None:
    assert greedy.exec(code, seconds=0.2).stopped_by == "deadline"


def test_a_host_function_that_outlasts_the_deadline_keeps_the_variables(runtime: Runtime) -> None:
    over = threading.Event()
    with runtime.session(limits=LIMITS, calls={"work": lambda: over.wait(1.0)}) as session:
        result = session.exec("kept = 41\nwork()\nkept = 0", seconds=0.2)
        assert (result.stopped_by, result.undone) == ("deadline", False)
        assert session.exec("kept").value == "41"


class Held:
    """A session of one owner that holds every thread there is for copies and for calls."""

    def __init__(self, runtime: Runtime, owner: str | None) -> None:
        self._hanging: list[Future[object]] = []
        self._blocked = threading.Semaphore(0)
        self._go_on = threading.Event()
        self.calls: dict[str, Callable[..., object]] = {"hang": Starts(self._hang), "block": self._block}
        self._session = runtime.session(limits=LIMITS, calls=self.calls, owner=owner)
        copies, calls = THREADS if owner is None else OWNER_THREADS
        self._held = copies + calls
        block = f"host.submit_all('block', [((), {{}})] * {calls})"
        code = f"import host\n{block}\nparallel_map(hang, range({copies}))"
        self._thread = threading.Thread(target=self._session.exec, args=(code,))

    def _hang(self, _: object) -> Future[object]:
        self._hanging.append(Future())
        self._blocked.release()
        return self._hanging[-1]

    def _block(self) -> None:
        self._blocked.release()
        self._go_on.wait(60)

    def __enter__(self) -> Self:
        self._thread.start()
        for _ in range(self._held):
            assert self._blocked.acquire(timeout=60)
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        self._session.interrupt()
        self._thread.join()
        self._session.close()


@pytest.mark.parametrize("code", ["parallel_map(hang, range(3))", "import host\nhost.wait([host.submit('block')])"])
def test_a_cell_that_waits_for_threads_that_others_hold_ends_at_its_deadline(code: str) -> None:
    with (
        Runtime() as runtime,
        Held(runtime, None) as held,
        runtime.session(limits=LIMITS, calls=held.calls) as other,
    ):
        assert other.exec(code, seconds=0.5).stopped_by == "deadline"
        assert other.exec("6 * 7").value == "42"


def test_an_owner_who_holds_all_threads_delays_no_other_owner() -> None:
    calls: dict[str, Callable[..., object]] = {"count": lambda n: n + 1}
    with Runtime() as runtime, Held(runtime, "ann"), runtime.session(limits=LIMITS, calls=calls, owner="bob") as bob:
        assert bob.exec("parallel_map(count, range(3))").value == "[1, 2, 3]"
        assert bob.exec("import host\nhost.wait(host.submit_all('count', [((1,), {})] * 3))").value == "[2, 2, 2]"


@pytest.mark.parametrize("owner", ["ann", None])
def test_as_many_calls_of_an_owner_are_made_at_once_as_he_has_threads_for_them(
    runtime: Runtime, owner: str | None
) -> None:
    _, threads = THREADS if owner is None else OWNER_THREADS
    lock, together = threading.Lock(), threading.Barrier(threads)
    inside = most = 0

    def meet() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        together.wait(60)  # passes when there are calls on all threads
        with lock:
            inside -= 1

    calls: dict[str, Callable[..., object]] = {"meet": meet}
    with runtime.session(limits=LIMITS, calls=calls, owner=owner) as session:
        code = f"import host\nhost.wait(host.submit_all('meet', [((), {{}})] * {4 * threads})).count(None)"
        assert session.exec(code, seconds=60).value == str(4 * threads)
    assert most == threads


def test_an_owner_who_fills_the_memory_leaves_some_to_the_next() -> None:
    fill = "held = []\nwhile True: held.append(bytearray(1 << 20))"
    hold = "parallel_map(lambda n: [bytearray(1 << 20) for _ in range(90)] and wait(), range(8))"
    with Runtime(memory_budget_bytes=256 << 20) as runtime:
        for attack in (fill, hold):
            inside, go_on = threading.Event(), threading.Event()

            def wait(inside: threading.Event = inside, go_on: threading.Event = go_on) -> None:
                inside.set()
                go_on.wait(20)

            with runtime.session(limits=LIMITS, calls={"wait": wait}, owner="ann") as ann:
                attacking = threading.Thread(target=ann.exec, args=(attack,))
                attacking.start()
                if attack is fill:
                    attacking.join()
                with runtime.session(limits=LIMITS, owner="bob") as bob:
                    assert bob.exec("len(bytearray(40 << 20))").value == str(40 << 20)
                go_on.set()
                ann.interrupt()
                attacking.join()


def test_closing_a_session_does_not_wait_for_a_host_function_for_ever(runtime: Runtime) -> None:
    before = runtime.budget.available()
    inside, go_on = threading.Event(), threading.Event()

    def block() -> None:
        inside.set()
        go_on.wait(60)

    session = runtime.session(limits=LIMITS, calls={"block": block})
    running = threading.Thread(target=session.exec, args=("block()",))
    running.start()
    assert inside.wait(20)
    session.close(wait_seconds=0)
    assert repr(session).startswith("<Session RUNNING")
    go_on.set()
    running.join()
    assert repr(session).startswith("<Session CLOSED")
    assert runtime.budget.available() == before

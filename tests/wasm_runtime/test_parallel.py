"""Working on many items at once: parallel_map, executors and threads, and which changes of variables they keep."""

import threading
from collections.abc import Callable, Iterator

import pytest

from wasm_runtime import Limits, Runtime, Session

TOGETHER = 8


class Meeting:
    """A host function that returns only when `TOGETHER` calls are in progress at the same time."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(TOGETHER, timeout=60)
        self._lock = threading.Lock()
        self.calls: list[object] = []

    def __call__(self, value: object) -> object:
        with self._lock:
            self.calls.append(value)
        self._barrier.wait()
        return [value, "met"]


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


@pytest.fixture
def meeting() -> Meeting:
    return Meeting()


@pytest.fixture
def session(runtime: Runtime, meeting: Meeting) -> Iterator[Session]:
    calls: dict[str, Callable[..., object]] = {"meet": meeting, "double": lambda n: 2 * n}
    with runtime.session(limits=Limits(cell_seconds=20), calls=calls) as session:
        yield session


def test_parallel_map_runs_blocking_host_calls_at_the_same_time(session: Session, meeting: Meeting) -> None:
    result = session.exec(f"[value for value, _ in parallel_map(meet, range({TOGETHER}))]")
    assert (result.error, result.value) == (None, str(list(range(TOGETHER))))
    assert sorted(map(str, meeting.calls)) == [str(n) for n in range(TOGETHER)]


def test_parallel_map_runs_closures_over_what_the_cell_built(session: Session) -> None:
    code = """
base = {'tea': 3}
def cost(count):
    import math
    return math.prod([base['tea'], double(count)])
parallel_map(cost, [1, 2, 3])
"""
    assert session.exec(code).value == "[6, 12, 18]"


def test_changes_a_parallel_function_makes_to_outer_variables_stay_in_its_copy(session: Session) -> None:
    assert (
        session.exec("seen = []\nparallel_map(seen.append, range(4)), seen").value == "([None, None, None, None], [])"
    )


def test_the_first_exception_in_order_of_the_items_is_raised_and_variables_are_kept(session: Session) -> None:
    result = session.exec("kept = 1\nparallel_map(lambda n: 1 // n, [1, 0, 2])")
    assert result.error is not None
    assert (result.error.type, result.error.line) == ("ZeroDivisionError", 2)
    assert session.exec("kept").value == "1"


def test_a_value_that_cannot_be_copied_back_says_so(session: Session) -> None:
    error = session.exec("parallel_map(lambda n: (x for x in [n]), [1, 2])").error
    assert error is not None
    assert "what the function returned, a generator, cannot be copied back" in error.message


def test_what_copies_print_comes_out_once_and_in_order_of_the_items(session: Session) -> None:
    result = session.exec("print('start')\n_ = parallel_map(lambda n: print('item', n), range(4))\nprint('end')")
    assert result.stdout == "start\nitem 0\nitem 1\nitem 2\nitem 3\nend\n"


def test_a_parallel_map_inside_a_parallel_map_runs_in_its_copy(session: Session) -> None:
    code = "parallel_map(lambda n: sum(parallel_map(lambda m: m * n, range(3))), range(3))"
    assert session.exec(code).value == "[0, 3, 6]"


def test_copies_draw_random_numbers_of_their_own(session: Session) -> None:
    assert session.exec("import random\nlen(set(parallel_map(lambda _: random.random(), range(4))))").value == "4"


def test_an_item_that_never_ends_is_stopped_with_the_cell_and_nothing_else_is_lost(session: Session) -> None:
    session.exec("kept = 1")
    result = session.exec("parallel_map(lambda n: n and [0 for _ in iter(int, 1)], [1, 0])", seconds=0.3)
    assert result.error is not None
    assert (result.error.type, "deadline" in result.error.message or result.stopped_by == "deadline") in [
        ("RuntimeError", True), ("TimeoutError", True),
    ]  # fmt: skip
    assert session.exec("kept").value == "1"


def test_an_item_that_ends_its_interpreter_does_not_end_the_others(session: Session) -> None:
    code = """
import os
def risky(n):
    if n == 1:
        os._exit(3)
    return n
try:
    parallel_map(risky, range(4))
except RuntimeError as error:
    said = str(error)
said
"""
    assert session.exec(code).value == "'the work on this item was stopped: exit'"


def test_an_executor_makes_the_host_calls_of_its_functions_at_the_same_time_and_once(
    session: Session, meeting: Meeting
) -> None:
    code = f"""
from concurrent.futures import ThreadPoolExecutor
seen = []
def work(n):
    seen.append(n)
    return meet(n)[0]
with ThreadPoolExecutor(max_workers={TOGETHER}) as pool:
    got = list(pool.map(work, range({TOGETHER})))
got, seen
"""
    result = session.exec(code)
    order = list(range(TOGETHER))
    assert (result.error, result.value) == (None, str((order, order)))
    assert len(meeting.calls) == TOGETHER


def test_submitted_work_comes_out_of_as_completed_with_its_changes_to_outer_variables(
    session: Session, meeting: Meeting
) -> None:
    code = f"""
from concurrent.futures import ThreadPoolExecutor, as_completed
found = {{}}
def work(n):
    found[n] = meet(n)[1]
pool = ThreadPoolExecutor()
futures = [pool.submit(work, n) for n in range({TOGETHER})]
for future in as_completed(futures):
    future.result()
sorted(found.items()) == [(n, 'met') for n in range({TOGETHER})]
"""
    assert session.exec(code).value == "True"
    assert len(meeting.calls) == TOGETHER


def test_an_exception_in_an_executor_is_raised_where_its_result_is_asked_for(session: Session) -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor() as pool:
    good, bad = pool.submit(double, 4), pool.submit(lambda: {}['missing'])
good.result(), type(bad.exception()).__name__
"""
    assert session.exec(code).value == "(8, 'KeyError')"


def test_threads_overlap_their_host_calls_and_share_variables(session: Session, meeting: Meeting) -> None:
    code = f"""
import threading
lock, found = threading.Lock(), {{}}
def work(n):
    answer = meet(n)
    with lock:
        found[n] = answer[1]
threads = [threading.Thread(target=work, args=(n,)) for n in range({TOGETHER})]
for thread in threads: thread.start()
for thread in threads: thread.join()
len(found), any(thread.is_alive() for thread in threads)
"""
    assert session.exec(code).value == f"({TOGETHER}, False)"
    assert len(meeting.calls) == TOGETHER


def test_a_thread_that_nobody_joins_runs_when_its_cell_ends(session: Session) -> None:
    session.exec("import threading\nfound = []\nthreading.Thread(target=lambda: found.append(1)).start()")
    assert session.exec("found").value == "[1]"


def test_a_queue_between_threads_delivers(session: Session) -> None:
    code = """
import queue, threading
items = queue.Queue()
threading.Thread(target=lambda: [items.put(n) for n in range(3)]).start()
[items.get() for _ in range(3)]
"""
    assert session.exec(code).value == "[0, 1, 2]"


def test_waiting_for_a_thread_that_cannot_come_is_an_error_and_not_a_hang(session: Session) -> None:
    error = session.exec("import queue\nqueue.Queue().get()").error
    assert error is not None
    assert (error.type, "there is none that could run" in error.message) == ("RuntimeError", True)


def test_work_that_differs_when_it_runs_again_makes_its_call_again(session: Session) -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
import os
def work(_):
    mine = int.from_bytes(os.urandom(4))
    return double(mine) == 2 * mine
with ThreadPoolExecutor() as pool:
    got = list(pool.map(work, range(3)))
got
"""
    assert session.exec(code).value == "[True, True, True]"


def test_interrupting_a_parallel_map_stops_its_copies(runtime: Runtime) -> None:
    inside = threading.Event()
    never = threading.Event()

    def wait_inside(_: int) -> None:
        inside.set()
        never.wait(20)

    with runtime.session(calls={"wait_inside": wait_inside}) as session:

        def stop() -> None:
            inside.wait(20)
            session.interrupt()
            never.set()

        stopper = threading.Thread(target=stop)
        stopper.start()
        result = session.exec("kept = 1\nparallel_map(wait_inside, range(3))")
        stopper.join()
        assert result.stopped_by == "interrupt"
        assert session.exec("kept").value == "1"

"""Items of parallel_map on which another session works that was restored from the waiting one."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import pytest

from wasm_runtime import Checkpoint, Distribution, Limits, Runtime, Session
from wasm_runtime.distributed import DistributedCopies, ItemOutcome

READERS = frozenset({"read"})


class Elsewhere:
    """Works on the items of the maps of one session in another one, as another process would. A test sets its fields.

    The home waits for it in its first call of `wait_for_others`, so that it gets the items that it is to get.
    """

    def __init__(self, runtime: Runtime, calls: Mapping[str, Callable[..., object]]) -> None:
        self._runtime, self._calls = runtime, calls
        self.items_at_most = 1_000
        self.is_lost = False
        """takes items and does nothing"""
        self.seconds = 20.0
        self.reported: dict[int, ItemOutcome | None] = {}
        self.has_items, self.has_worked, self.may_end = threading.Event(), threading.Event(), threading.Event()
        self.failure: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def distribution(self, *, most_bytes: int = 1 << 30) -> Distribution:
        return Distribution(share=self.share, readers=READERS, most_bytes=most_bytes, processors=1)

    @contextmanager
    def share(self, items: DistributedCopies) -> Iterator[None]:
        ending = threading.Event()
        thread = threading.Thread(target=self._work, args=(items, ending))
        thread.start()
        self._threads.append(thread)
        yield
        ending.set()

    def _work(self, items: DistributedCopies, ending: threading.Event) -> None:
        try:
            saved = items.checkpoint()
            taken = items.take(self.items_at_most) if saved is not None else []
            self.has_items.set()
            if saved is not None and not self.is_lost:
                self._work_on(saved, items, taken, ending)
            self.has_worked.set()
            if self.is_lost:
                self.may_end.wait(20)
            items.give_back(taken)
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self.has_items.set()
            self.has_worked.set()

    def _work_on(
        self, saved: Checkpoint, items: DistributedCopies, taken: Collection[int], ending: threading.Event
    ) -> None:
        def exchange(finished: Mapping[int, ItemOutcome | None]) -> Collection[int] | None:
            self.reported |= finished
            for index, outcome in finished.items():
                if outcome is None:
                    items.give_back([index], keep=True)
                else:
                    items.finish(index, outcome)
            left = [index for index in taken if index not in self.reported]
            return left if left and not ending.is_set() else None

        supply = type("Supply", (), {"exchange": staticmethod(exchange)})()
        with self._runtime.session(limits=Limits(cell_seconds=20), calls=self._calls) as session:
            session.restore(Checkpoint.from_bytes(saved.to_bytes()))
            session.work_for(supply, readers=READERS, workers=1, seconds=self.seconds)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        assert self.failure is None


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


@pytest.fixture
def paid() -> list[object]:
    """What the home was asked."""
    return []


@pytest.fixture
def elsewhere(runtime: Runtime) -> Iterator[Elsewhere]:
    def never(*_: object) -> object:
        raise AssertionError("another process made a call")

    made = Elsewhere(runtime, {"ask": never, "wait_for_others": never, "read": lambda n: f"read {n}"})
    yield made
    made.may_end.set()
    made.join()


@pytest.fixture
def open_home(runtime: Runtime, elsewhere: Elsewhere, paid: list[object]) -> Iterator[Callable[..., Session]]:
    opened: list[Session] = []

    def ask(n: object) -> object:
        paid.append(n)
        return [n, "paid"]

    def wait_for_others(what: str) -> None:
        assert {"items": elsewhere.has_items, "work": elsewhere.has_worked}[what].wait(20)

    def home(**options: int) -> Session:
        calls = {"ask": ask, "wait_for_others": wait_for_others, "read": lambda n: f"read {n}"}
        session = runtime.session(
            limits=Limits(cell_seconds=20), calls=calls, distribution=elsewhere.distribution(**options)
        )
        opened.append(session)
        return session

    yield home
    elsewhere.may_end.set()
    for session in opened:
        session.close()


def run(session: Session, body: str, count: int = 12, more: str = "") -> str | None:
    """The value of a map whose item 0, the first at home, begins when another process has taken all it takes."""
    result = session.exec(
        f"""
base = {{'tea': 3}}
def f(n):
    if n == 0:
        wait_for_others('items')
    {body}
parallel_map(f, range({count}){more})
"""
    )
    assert result.error is None, result.error
    return result.value


def test_another_process_works_on_items_with_closures_and_readers_and_the_result_is_in_order(
    open_home: Callable[..., Session], elsewhere: Elsewhere
) -> None:
    elsewhere.items_at_most = 8
    value = run(open_home(), "print('item', n); return base['tea'] * n, read(n)")
    assert value == str([(3 * n, f"read {n}") for n in range(12)])
    elsewhere.join()
    assert len(elsewhere.reported) == 8
    assert all(outcome is not None for outcome in elsewhere.reported.values())


def test_what_items_print_elsewhere_comes_in_order(open_home: Callable[..., Session], elsewhere: Elsewhere) -> None:
    elsewhere.items_at_most = 8
    code = "def f(n):\n    if not n: wait_for_others('work')\n    print(n)\nparallel_map(f, range(12))"
    assert open_home().exec(code).stdout == "".join(f"{n}\n" for n in range(12))


def test_calls_are_made_at_home_only_once_for_each_item(
    open_home: Callable[..., Session], elsewhere: Elsewhere, paid: list[object]
) -> None:
    value = run(open_home(), "return ask(n)[0] if n % 2 else n")
    assert value == str(list(range(12)))
    assert sorted(map(str, paid)) == sorted(str(n) for n in range(1, 12, 2))
    elsewhere.join()
    assert None in elsewhere.reported.values()


def test_code_that_catches_everything_does_not_get_past_a_call_elsewhere(
    open_home: Callable[..., Session], elsewhere: Elsewhere, paid: list[object]
) -> None:
    body = """
    try:
        value = ask(n)
    except BaseException as error:
        value = repr(error)
    return value"""
    assert run(open_home(), body.strip()) == str([[n, "paid"] for n in range(12)])
    assert len(paid) == 12


def test_items_that_fail_elsewhere_fail_at_home_as_they_would_alone(
    open_home: Callable[..., Session], elsewhere: Elsewhere
) -> None:
    code = "def f(n):\n    if not n: wait_for_others('items')\n    return 1 // (n - 7)\nparallel_map(f, range(12))"
    error = open_home().exec(code).error
    assert error is not None
    assert (error.type, error.line) == ("ZeroDivisionError", 4)
    assert elsewhere.reported.get(7) is None


def test_items_that_damage_their_copy_elsewhere_are_worked_on_at_home(
    open_home: Callable[..., Session], elsewhere: Elsewhere
) -> None:
    code = """
import os
def f(n):
    if not n: wait_for_others('items')
    if n == 7: os._exit(1)
    return n
parallel_map(f, range(12))
"""
    error = open_home().exec(code).error
    assert error is not None
    assert (error.type, error.message) == ("RuntimeError", "the work on this item was stopped: exit")


def test_the_items_of_a_process_that_is_lost_are_worked_on_at_home(
    open_home: Callable[..., Session], elsewhere: Elsewhere
) -> None:
    elsewhere.is_lost = True
    releasing = threading.Timer(0.3, elsewhere.may_end.set)
    releasing.start()
    assert run(open_home(), "return n") == str(list(range(12)))
    assert elsewhere.reported == {}


def test_a_cell_that_waits_for_a_lost_process_can_be_interrupted(
    open_home: Callable[..., Session], elsewhere: Elsewhere
) -> None:
    elsewhere.is_lost = True
    session = open_home()

    def interrupt() -> None:
        elsewhere.has_items.wait(20)
        session.interrupt()

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    result = session.exec("def f(n):\n    if not n: wait_for_others('items')\n    return n\nparallel_map(f, range(12))")
    interrupting.join()
    assert result.stopped_by == "interrupt"
    assert session.exec("1 + 1").value == "2"


def test_the_time_of_a_cell_passes_while_it_waits_for_others(
    open_home: Callable[..., Session], elsewhere: Elsewhere
) -> None:
    elsewhere.is_lost = True
    session = open_home()
    code = "def f(n):\n    if not n: wait_for_others('items')\n    return n\nparallel_map(f, range(12))"
    assert session.exec(code, seconds=0.5).stopped_by == "deadline"


def test_items_that_never_end_end_with_the_time_of_their_cell(
    open_home: Callable[..., Session], elsewhere: Elsewhere
) -> None:
    session = open_home()
    code = "def f(n):\n    if not n: wait_for_others('items')\n    while n: pass\nparallel_map(f, range(12))"
    elsewhere.seconds = 0.5
    assert session.exec(code, seconds=1.0).stopped_by == "deadline"


def test_code_that_asks_for_few_workers_gets_no_others(open_home: Callable[..., Session], elsewhere: Elsewhere) -> None:
    elsewhere.has_items.set()
    assert run(open_home(), "return n", more=", workers=2") == str(list(range(12)))
    assert elsewhere.reported == {}


def test_a_guest_that_is_too_large_is_not_copied_to_others(
    open_home: Callable[..., Session], elsewhere: Elsewhere
) -> None:
    session = open_home(most_bytes=4 << 20)
    session.exec("large = bytearray(8 << 20)")
    assert run(session, "return n") == str(list(range(12)))
    assert elsewhere.reported == {}


def test_items_that_wait_for_calls_make_room_for_others_at_home(runtime: Runtime) -> None:
    together = threading.Barrier(8, timeout=20)

    @contextmanager
    def share(_: DistributedCopies) -> Iterator[None]:
        yield

    distribution = Distribution(share=share, readers=READERS, most_bytes=1 << 30, processors=1)
    calls = {"meet": lambda: together.wait() >= 0}
    with runtime.session(limits=Limits(cell_seconds=20), calls=calls, distribution=distribution) as session:
        assert session.exec("all(parallel_map(lambda _: meet(), range(8)))").value == "True"

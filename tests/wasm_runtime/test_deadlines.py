"""When a cell is asked to stop, and when it is made to. Times are far apart or already over: nothing here sleeps."""

import gc
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from wasm_runtime.deadlines import GRACE_SECONDS, Deadline, Watch


class Cell:
    """A cell that only notes what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.killed = threading.Event()
        self.softly = threading.Event()

    def soft_stop(self) -> None:
        self.asked.append("soft")
        self.softly.set()

    def hard_stop(self) -> None:
        self.asked.append("hard")
        self.killed.set()


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    yield watch
    watch.close()


def unwatched(cell: Cell) -> Deadline:
    """A deadline whose watch has ended: only the test calls `tick`."""
    watch = Watch()
    watch.close()
    return watch.deadline(cell)


def test_a_cell_within_its_time_is_left_alone() -> None:
    cell = Cell()
    deadline = unwatched(cell)
    with deadline.running(100):
        deadline.tick(time.monotonic())
        deadline.tick(time.monotonic() + 99)
    assert (cell.asked, deadline.expired) == ([], None)


def test_a_cell_over_its_time_is_asked_and_after_the_grace_made_to_stop() -> None:
    cell = Cell()
    deadline = unwatched(cell)
    with deadline.running(100):
        over = time.monotonic() + 101
        deadline.tick(over)
        assert (cell.asked, deadline.expired) == (["soft"], "deadline")
        deadline.tick(over + GRACE_SECONDS / 2)
        assert cell.asked == ["soft"]
        deadline.tick(over + GRACE_SECONDS)
        assert cell.asked == ["soft", "soft", "hard"]
        deadline.tick(over + 2 * GRACE_SECONDS)
        assert cell.asked == ["soft", "soft", "hard", "soft", "hard"]


def test_an_interrupt_asks_at_once_and_is_the_cause() -> None:
    cell = Cell()
    deadline = unwatched(cell)
    with deadline.running(100):
        deadline.expire()
        assert (cell.asked, deadline.expired) == (["soft"], "interrupt")
        deadline.tick(time.monotonic() + GRACE_SECONDS + 1)
        assert cell.asked == ["soft", "soft", "hard"]
        assert deadline.expired == "interrupt"


def test_an_interrupt_after_the_deadline_does_not_change_the_cause() -> None:
    deadline = unwatched(Cell())
    with deadline.running(1):
        deadline.tick(time.monotonic() + 2)
        deadline.expire()
        assert deadline.expired == "deadline"


def test_time_stands_still_in_a_pause() -> None:
    cell = Cell()
    deadline = unwatched(cell)
    with deadline.running(100):
        with deadline.paused():
            deadline.tick(time.monotonic() + 1000)
        assert cell.asked == []
        deadline.tick(time.monotonic() + 99)
        assert cell.asked == []
        deadline.tick(time.monotonic() + 101)
        assert cell.asked == ["soft"]


def test_an_interrupt_in_a_pause_leaves_the_grace_after_it() -> None:
    cell = Cell()
    deadline = unwatched(cell)
    with deadline.running(100):
        with deadline.paused():
            deadline.expire()
            assert cell.asked == ["soft"]
            deadline.tick(time.monotonic() + 1000)
            assert cell.asked == ["soft"]
        deadline.tick(time.monotonic() + GRACE_SECONDS + 0.1)
        assert cell.asked == ["soft", "soft", "hard"]


def test_a_cell_that_has_ended_is_never_stopped() -> None:
    cell = Cell()
    deadline = unwatched(cell)
    with deadline.running(1):
        pass
    deadline.expire()
    deadline.tick(time.monotonic() + 1000)
    assert (cell.asked, deadline.expired) == ([], None)


def test_the_next_cell_starts_with_its_own_time_and_no_cause() -> None:
    cell = Cell()
    deadline = unwatched(cell)
    with deadline.running(1):
        deadline.expire()
    cell.asked.clear()
    with deadline.running(100):
        assert deadline.expired is None
        deadline.tick(time.monotonic() + 99)
        assert cell.asked == []


def test_the_thread_stops_a_cell_that_is_over_its_time(watch: Watch) -> None:
    cell = Cell()
    deadline = watch.deadline(cell)
    with deadline.running(0):
        assert cell.killed.wait(10)
    assert cell.asked[:3] == ["soft", "soft", "hard"]


def test_a_soon_deadline_is_not_kept_waiting_by_a_late_one(watch: Watch) -> None:
    late, soon = Cell(), Cell()
    with watch.deadline(late).running(1000), watch.deadline(soon).running(0):
        assert soon.softly.wait(10)
    assert late.asked == []


def test_a_thousand_cells_after_each_other_leave_one_entry_to_watch() -> None:
    class Counting(Watch):
        added = 0

        def add(self, when: float, deadline: Deadline) -> None:
            self.added += 1

    watch = Counting()
    deadline = watch.deadline(Cell())
    for _ in range(1000):
        with deadline.running(1000):
            pass
    assert watch.added == 1


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()
    watch = Watch()
    with watch.deadline(Cell()).running(1000):
        assert threading.active_count() == before + 1
        watch.close()
        assert threading.active_count() == before


def test_the_watch_keeps_no_cell_until_a_time_that_it_did_not_need(watch: Watch) -> None:
    cell = Cell()
    deadline = watch.deadline(cell)
    with deadline.running(1000):
        pass
    gone = weakref.ref(deadline)
    del deadline
    gc.collect()
    assert gone() is None

"""When a cell is interrupted, and when it is trapped. Times are far apart or already over, so no test sleeps."""

import gc
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from wasm_runtime.deadlines import GRACE_SECONDS, Deadline, DeadlineThread, Ticking
from wasm_runtime.places import PlaceClaim, Places


class Cell:
    """A cell that only records how it was stopped."""

    def __init__(self) -> None:
        self.stops: list[str] = []
        self.trapped = threading.Event()
        self.interrupted = threading.Event()

    def interrupt_guest(self) -> None:
        self.stops.append("interrupt")
        self.interrupted.set()

    def trap_guest(self) -> None:
        self.stops.append("trap")
        self.trapped.set()


@pytest.fixture
def deadlines() -> Iterator[DeadlineThread]:
    deadlines = DeadlineThread()
    yield deadlines
    deadlines.close()


def deadline_without_thread(cell: Cell, places: Places | None = None) -> Deadline:
    """Return a deadline whose thread has ended: only the test calls `tick`."""
    deadlines = DeadlineThread()
    deadlines.close()
    return deadlines.deadline(cell, places)


def test_a_cell_within_its_time_is_left_alone() -> None:
    cell = Cell()
    deadline = deadline_without_thread(cell)
    with deadline.running(100):
        deadline.tick(time.monotonic())
        deadline.tick(time.monotonic() + 99)
    assert (cell.stops, deadline.expired) == ([], None)


def test_a_cell_over_its_time_is_asked_and_after_the_grace_made_to_stop() -> None:
    cell = Cell()
    deadline = deadline_without_thread(cell)
    with deadline.running(100):
        over = time.monotonic() + 101
        deadline.tick(over)
        assert (cell.stops, deadline.expired) == (["interrupt"], "deadline")
        deadline.tick(over + GRACE_SECONDS / 2)
        assert cell.stops == ["interrupt"]
        deadline.tick(over + GRACE_SECONDS)
        assert cell.stops == ["interrupt", "interrupt", "trap"]
        deadline.tick(over + 2 * GRACE_SECONDS)
        assert cell.stops == ["interrupt", "interrupt", "trap", "interrupt", "trap"]


def test_an_interrupt_asks_at_once_and_is_the_cause() -> None:
    cell = Cell()
    deadline = deadline_without_thread(cell)
    with deadline.running(100):
        deadline.expire()
        assert (cell.stops, deadline.expired) == (["interrupt"], "interrupt")
        deadline.tick(time.monotonic() + GRACE_SECONDS + 1)
        assert cell.stops == ["interrupt", "interrupt", "trap"]
        assert deadline.expired == "interrupt"


def test_an_interrupt_after_the_deadline_does_not_change_the_cause() -> None:
    deadline = deadline_without_thread(Cell())
    with deadline.running(1):
        deadline.tick(time.monotonic() + 2)
        deadline.expire()
        assert deadline.expired == "deadline"


def test_time_stands_still_in_a_pause() -> None:
    cell = Cell()
    deadline = deadline_without_thread(cell)
    with deadline.running(100):
        with deadline.paused():
            deadline.tick(time.monotonic() + 1000)
        assert cell.stops == []
        deadline.tick(time.monotonic() + 99)
        assert cell.stops == []
        deadline.tick(time.monotonic() + 101)
        assert cell.stops == ["interrupt"]


def test_an_interrupt_in_a_pause_leaves_the_grace_after_it() -> None:
    cell = Cell()
    deadline = deadline_without_thread(cell)
    with deadline.running(100):
        with deadline.paused():
            deadline.expire()
            assert cell.stops == ["interrupt"]
            deadline.tick(time.monotonic() + 1000)
            assert cell.stops == ["interrupt"]
        deadline.tick(time.monotonic() + GRACE_SECONDS + 0.1)
        assert cell.stops == ["interrupt", "interrupt", "trap"]


def test_a_cell_that_has_ended_is_never_stopped() -> None:
    cell = Cell()
    deadline = deadline_without_thread(cell)
    with deadline.running(1):
        pass
    deadline.expire()
    deadline.tick(time.monotonic() + 1000)
    assert (cell.stops, deadline.expired) == ([], None)


def test_the_next_cell_starts_with_its_own_time_and_no_cause() -> None:
    cell = Cell()
    deadline = deadline_without_thread(cell)
    with deadline.running(1):
        deadline.expire()
    cell.stops.clear()
    with deadline.running(100):
        assert deadline.expired is None
        deadline.tick(time.monotonic() + 99)
        assert cell.stops == []


def test_the_thread_stops_a_cell_that_is_over_its_time(deadlines: DeadlineThread) -> None:
    cell = Cell()
    deadline = deadlines.deadline(cell)
    with deadline.running(0):
        assert cell.trapped.wait(10)
    assert cell.stops[:3] == ["interrupt", "interrupt", "trap"]


def test_a_soon_deadline_is_not_kept_waiting_by_a_late_one(deadlines: DeadlineThread) -> None:
    late, soon = Cell(), Cell()
    with deadlines.deadline(late).running(1000), deadlines.deadline(soon).running(0):
        assert soon.interrupted.wait(10)
    assert late.stops == []


def test_a_thousand_cells_after_each_other_leave_one_scheduled_entry() -> None:
    class Counting(DeadlineThread):
        added = 0

        def schedule(self, when: float, ticked: Ticking) -> None:
            self.added += 1

    deadlines = Counting()
    deadline = deadlines.deadline(Cell())
    for _ in range(1000):
        with deadline.running(1000):
            pass
    assert deadlines.added == 1


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()
    deadlines = DeadlineThread()
    with deadlines.deadline(Cell()).running(1000):
        assert threading.active_count() == before + 1
        deadlines.close()
        assert threading.active_count() == before


def test_the_thread_keeps_no_deadline_until_a_time_that_was_not_needed(deadlines: DeadlineThread) -> None:
    cell = Cell()
    deadline = deadlines.deadline(cell)
    with deadline.running(1000):
        pass
    gone = weakref.ref(deadline)
    del deadline
    gc.collect()
    assert gone() is None


def test_a_cell_has_a_place_while_it_computes_and_not_while_it_waits() -> None:
    places = one_place()
    deadline = deadline_without_thread(Cell(), places)
    free = []
    with deadline.computing():
        free.append(is_free(places))
        with deadline.running(100):
            free.append(is_free(places))
            for outside in (True, False):
                with deadline.paused(outside=outside):
                    free.append(is_free(places))
                free.append(is_free(places))
        free.append(is_free(places))
    assert [*free, is_free(places)] == [False, False, True, False, True, False, False, True]


def test_an_interrupted_cell_goes_on_without_a_place() -> None:
    places, other = one_place(), PlaceClaim()
    deadline = deadline_without_thread(Cell(), places)
    with deadline.computing(), deadline.running(100):
        with deadline.paused():
            places.enter(other)
            deadline.expire()
        assert deadline.expired == "interrupt"
    assert not is_free(places)


@pytest.mark.parametrize("outside", [True, False])
def test_an_interrupt_ends_the_wait_for_a_place(*, outside: bool) -> None:
    places, other = one_place(), PlaceClaim()
    deadline = deadline_without_thread(Cell(), places)
    with deadline.computing(), deadline.running(100):
        waiting = deadline.paused(outside=outside)
        waiting.__enter__()
        places.enter(other)
        interrupting = threading.Timer(0.05, deadline.expire)
        interrupting.start()
        waiting.__exit__(None, None, None)
        assert deadline.expired == "interrupt"
        interrupting.join()


def test_a_cell_that_is_interrupted_before_it_has_a_place_is_interrupted_at_its_start() -> None:
    places, other, cell = one_place(), PlaceClaim(), Cell()
    places.enter(other)
    deadline = deadline_without_thread(cell, places)
    interrupting = threading.Timer(0.05, deadline.expire)
    interrupting.start()
    with deadline.computing():
        interrupting.join()
        with deadline.running(100):
            assert deadline.expired == "interrupt"
            assert cell.stops == ["interrupt"]
        with deadline.running(100):
            assert deadline.expired is None


def test_an_interrupt_between_two_parts_of_a_cell_is_one_of_the_next() -> None:
    cell = Cell()
    deadline = deadline_without_thread(cell)
    with deadline.computing():
        deadline.expire()
        with deadline.running(100):
            assert deadline.expired == "interrupt"
    deadline.expire()
    with deadline.computing(), deadline.running(100):
        assert deadline.expired is None


class NoTimer:
    """Calls nothing."""

    def schedule(self, when: float, ticked: Places) -> None:
        """Do nothing."""


def one_place() -> Places:
    return Places(NoTimer(), few=1, most=1)


def is_free(places: Places) -> bool:
    """Return whether there is a place."""
    claim = PlaceClaim()
    places.enter(claim)
    free = claim.gate.acquire(blocking=False)
    places.give_up(claim)
    places.leave(claim)
    return free

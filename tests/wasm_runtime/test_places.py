"""Which of many cells compute, and when a cell that computes for long makes room."""

import math
import threading

from wasm_runtime.places import SHORT_SECONDS, PlaceClaim, Places


class Scheduled:
    """Records when it is asked for a tick."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def schedule(self, when: float, ticked: Places) -> None:
        """Record the time."""
        self.times.append(when)


def computes(claim: PlaceClaim) -> bool:
    """Return whether the cell of a claim waits no longer."""
    return not claim.gate.locked()


def entered(places: Places, count: int) -> list[PlaceClaim]:
    """Return so many claims."""
    claims = [PlaceClaim() for _ in range(count)]
    for claim in claims:
        places.enter(claim)
    return claims


def test_few_cells_begin_and_hand_their_places_over_in_the_order_of_coming() -> None:
    places = Places(Scheduled(), few=2, most=10)
    first, second, third, fourth = entered(places, 4)
    assert [computes(claim) for claim in (first, second, third, fourth)] == [True, True, False, False]
    places.leave(second)
    assert [computes(claim) for claim in (third, fourth)] == [True, False]
    places.leave(first)
    places.enter(second)
    assert [computes(claim) for claim in (fourth, second)] == [True, False]


def test_a_cell_that_waits_no_longer_is_passed_over() -> None:
    places = Places(Scheduled(), few=1, most=10)
    first, second, third = entered(places, 3)
    places.give_up(second)
    assert computes(second)
    places.leave(second)
    assert not computes(third)
    places.leave(first)
    assert computes(third)
    places.give_up(third)  # it computes, and keeps its place
    assert not computes(entered(places, 1)[0])


def test_cells_that_compute_for_long_make_room_up_to_a_number() -> None:
    places = Places(Scheduled(), few=2, most=5)
    claims = entered(places, 10)
    counts = []
    for _ in range(4):
        places.tick(math.inf)
        counts.append(sum(map(computes, claims)))
    assert counts == [4, 5, 5, 5]
    places.leave(claims[0])
    places.tick(math.inf)
    assert sum(map(computes, claims[1:])) == 5


def test_a_cell_that_has_just_begun_keeps_its_place() -> None:
    timer = Scheduled()
    places = Places(timer, few=1, most=10)
    first, second = entered(places, 2)
    places.tick(first.began + SHORT_SECONDS / 2)
    assert not computes(second)
    places.tick(first.began + SHORT_SECONDS)
    assert computes(second)


def test_a_tick_is_asked_for_once_and_only_while_somebody_waits_who_could_begin() -> None:
    timer = Scheduled()
    places = Places(timer, few=1, most=2)
    first, _ = entered(places, 2)
    entered(places, 2)
    assert timer.times == [first.began + SHORT_SECONDS]
    places.tick(math.inf)  # the second begins; both places are taken by those that compute for long, or just begun
    assert len(timer.times) == 1
    places.leave(first)
    assert len(timer.times) == 2
    idle = Scheduled()
    entered(Places(idle, few=2, most=2), 2)
    assert not idle.times


def test_threads_take_turns() -> None:
    places = Places(Scheduled(), few=3, most=3)
    computing, most, lock = 0, 0, threading.Lock()

    def cell() -> None:
        nonlocal computing, most
        claim = PlaceClaim()
        for _ in range(20):
            places.enter(claim)
            with claim.gate:
                pass
            with lock:
                computing += 1
                most = max(most, computing)
            with lock:
                computing -= 1
            places.leave(claim)

    threads = [threading.Thread(target=cell) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert computing == 0
    assert 1 <= most <= 3

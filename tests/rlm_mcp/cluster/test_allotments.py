"""Which worker of a map gets which items, and what becomes of items whose workers are gone."""

import math

from rlm_mcp.cluster.allotments import COMES_BACK, Allotments, Compared, MapRows, rest_seconds


def rows(workers: dict[str, int], items: dict[int, tuple[str, bytes | None]]) -> MapRows:
    return MapRows(workers=workers, items=items)


def test_workers_get_two_items_for_each_processor_until_it_is_known_how_long_these_take() -> None:
    allotments = Allotments()
    missing = allotments.missing({"a": 1, "b": 4}, left=100, item_seconds=None, home_processors=1)
    assert missing == {"a": 2, "b": 8}


def test_workers_get_a_second_of_short_items() -> None:
    allotments = Allotments()
    assert allotments.missing({"a": 2}, left=10_000, item_seconds=0.01, home_processors=1) == {"a": 200}
    allotments.add("a", list(range(150)))
    assert allotments.missing({"a": 2}, left=9_850, item_seconds=0.01, home_processors=1) == {"a": 50}


def test_no_worker_gets_more_than_its_share_of_the_last_items() -> None:
    allotments = Allotments()
    assert allotments.missing({"a": 1}, left=3, item_seconds=0.01, home_processors=1) == {"a": 2}
    allotments.add("a", [1, 2])
    assert allotments.missing({"a": 1}, left=1, item_seconds=0.01, home_processors=1) == {}
    assert allotments.missing({"a": 1, "b": 1}, left=0, item_seconds=None, home_processors=1) == {}


def test_outcomes_are_taken_and_what_comes_back_or_has_no_row_is_at_home_again() -> None:
    allotments = Allotments()
    allotments.add("a", [1, 2, 3, 4])
    compared = allotments.compare(rows({"a": 1}, {1: ("a", b"{}"), 2: ("a", COMES_BACK), 3: ("a", None)}))
    assert compared == Compared(finished={1: b"{}"}, refused=[2], lost=[4], useless=[1, 2])
    assert allotments.items == [3]


def test_the_row_of_a_worker_that_lost_the_item_is_not_believed() -> None:
    allotments = Allotments()
    allotments.add("b", [1])
    compared = allotments.compare(rows({"a": 1, "b": 1}, {1: ("a", b"{}"), 2: ("a", b"{}")}))
    assert compared == Compared(finished={}, refused=[], lost=[1], useless=[1, 2])


def test_half_of_what_a_worker_has_not_begun_can_be_done_by_a_home_without_work() -> None:
    allotments = Allotments()
    allotments.add("a", [1, 2, 3, 4, 5, 6, 7])
    allotments.add("b", [8, 9])
    assert allotments.surplus({"a": 2, "b": 1}) == [5, 6, 7]
    assert allotments.surplus({}) == []


def test_the_rest_of_a_map_is_estimated_from_what_items_have_taken() -> None:
    assert rest_seconds(10, item_seconds=0.2, processors=4) == 0.5
    assert rest_seconds(10, item_seconds=None, processors=4) == math.inf
    assert rest_seconds(0, item_seconds=None, processors=4) == 0.0

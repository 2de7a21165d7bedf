"""Parsers of hostile texts take linear time: four times the text takes about four times as long, never sixteen."""

import time

import pytest

from benchmarks import growth_operations
from benchmarks.growth import MOST_RATIO, PARSERS, ratio


@pytest.mark.parametrize("name", PARSERS)
def test_time_grows_with_the_length_of_the_text_and_not_faster(name: str) -> None:
    for attempt in range(12):  # a disturbed measurement is no finding, and what disturbs may last
        time.sleep(attempt / 10)
        if (measured := ratio(*PARSERS[name], rounds=2)) <= MOST_RATIO:
            break
    assert measured <= MOST_RATIO


@pytest.mark.parametrize(
    "name",
    [
        "coverage of every file",
        "citations of every file",
        "page of a run",
        "pieces of the page of a run",
        "comparison of two runs",
    ],
)
def test_the_time_of_an_operation_grows_with_the_number_of_things_and_not_faster(name: str) -> None:
    assert any(growth_operations.ratio(name, 100) <= 2 * MOST_RATIO for _ in range(3))  # a quadratic one has 16

"""Parsers of hostile texts take linear time: four times the text takes about four times as long, never sixteen."""

import pytest

from benchmarks.growth import MOST_RATIO, PARSERS, ratio


@pytest.mark.parametrize("name", PARSERS)
def test_time_grows_with_the_length_of_the_text_and_not_faster(name: str) -> None:
    assert any(ratio(*PARSERS[name]) <= MOST_RATIO for _ in range(3))  # one disturbed measurement is no finding

"""No regular expression of the packages takes more than linear time, for texts that nearly match it."""

import re
from functools import cache
from typing import Any

import pytest

from benchmarks.patterns import BOUNDED, MATCHED_IN_PLACE, MOST_RATIO, all_patterns, worst_ratio

PARTS = 12

patterns = cache(all_patterns)
"""found when tests run: collecting them, which every worker does, would import everything"""


@pytest.mark.parametrize("part", range(PARTS))
def test_time_grows_with_the_length_of_the_text_and_not_faster(part: int) -> None:
    for name in list(patterns())[part::PARTS]:
        assert any(worst_ratio(name, patterns()[name]) <= MOST_RATIO for _ in range(12)), name


@pytest.mark.parametrize(
    "pattern", [r"\s*x$", r"\s*+x", r"\d+\.\d+", r"(a|a)*$", r"(a+)+b", r"[\w.-]*key[\w.-]*=", r"a.*b.*c"]
)
def test_a_pattern_that_backtracks_is_found(pattern: str) -> None:
    assert worst_ratio("tested", re.compile(pattern, re.DOTALL)) > MOST_RATIO


@pytest.mark.parametrize("pattern", [r"(?<!\s)\s*+x", r"(?:a|b)+", r"\bkey=", r'"[^"]*"!'])
def test_a_pattern_that_takes_linear_time_passes(pattern: str) -> None:
    assert any(worst_ratio("tested", re.compile(pattern)) <= MOST_RATIO for _ in range(12))


def test_exceptions_are_patterns_that_there_are() -> None:
    names: Any = {*patterns(), *BOUNDED}
    assert {*MATCHED_IN_PLACE, *BOUNDED} <= names

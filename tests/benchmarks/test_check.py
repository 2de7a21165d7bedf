"""The comparison of results names what got worse beyond its noise, and nothing else."""

import json
from collections import Counter
from typing import Any

import pytest

from benchmarks.__main__ import FOLDER, RESULTS, page, section
from benchmarks.check import worse
from benchmarks.figures import survived


def run(value: float, low: float, high: float, better: str = "lower") -> dict[str, object]:
    figure = {"name": "a turn", "unit": "ms", "value": value, "low": low, "high": high, "n": 5}
    return {"engine": {"figures": [{**figure, "better": better, "contender": "rlm-mcp"}], "notes": []}}


@pytest.mark.parametrize(
    ("new", "better", "is_worse"),
    [
        ((9, 8, 10), "lower", True),
        ((9, 5, 10), "lower", False),  # the ranges overlap
        ((6.1, 6.05, 6.2), "lower", False),  # less than a quarter
        ((3, 2, 4), "higher", True),
        ((3, 2, 4), "lower", False),
    ],
)
def test_a_figure_is_worse_if_its_range_and_its_value_lie_beyond(
    new: tuple[float, float, float], better: str, is_worse: bool
) -> None:
    value, low, high = new
    found = worse(run(5, 4.5, 6, better), run(value, low, high, better))
    now = f"{value} ms ({low} ms to {high} ms)"
    assert found == ([f"engine: a turn of rlm-mcp was 5 ms (4.5 ms to 6 ms), is {now}"] if is_worse else [])


def test_one_lost_run_of_twenty_is_worse() -> None:
    before, now = (
        {"reliability": {"figures": [survived("runs", [True] * good + [False] * (20 - good))]}} for good in (20, 19)
    )
    assert worse(before, now) == ["reliability: runs of rlm-mcp was 20 of 20, is 19 of 20"]
    assert worse(now, before) == []


def test_the_committed_page_tells_the_committed_figures_of_which_no_two_have_one_name() -> None:
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    names = Counter((table, f["name"], f["contender"]) for table, one in results.items() for f in one["figures"])
    assert [name for name, times in names.items() if times > 1] == []
    assert (FOLDER / "RESULTS.md").read_text(encoding="utf-8") == page(results)


def test_the_page_has_a_row_for_each_figure_with_its_range() -> None:
    document = {"arguments": "turns", "date": "2026-11-30", **dict(run(5, 4.5, 6)["engine"])}  # type: ignore[call-overload] # a dict
    assert "| figure | rlm-mcp |\n|---|---|\n| a turn | 5 ms (4.5 ms to 6 ms) |\n" in section("engine", document)

"""How the benchmark of the engine reports: a table where it is told to, and figures for the page of results."""

import io

from benchmarks.engine import Report


def test_figures_are_printed_as_they_come_and_kept_under_the_names_of_what_they_are_part_of() -> None:
    report, table = Report(), io.StringIO()
    report.stream = table
    report("64 sub-calls", 0.25, "s", 0.2)
    report("  asked in vain", 3, "", 0)
    assert table.getvalue().splitlines() == [
        f"{'rlm-mcp':10s} {'64 sub-calls':60s} 250 ms   target 0.2   MISSED",
        f"{'rlm-mcp':10s} {'  asked in vain':60s} 3   target 0   MISSED",
    ]
    assert [figure["name"] for figure in report.figures] == ["64 sub-calls", "64 sub-calls: asked in vain"]
    assert report.figures[0] == {
        "name": "64 sub-calls",
        "unit": "s",
        "value": 0.25,
        "low": 0.25,
        "high": 0.25,
        "n": 1,
        "better": "lower",
        "contender": "rlm-mcp",
    }

"""Shapes of lines: the kinds of lines that a text is made of, rare ones first."""

from rlm_mcp.engine.line_shapes import LineShape, shapes_of


def test_numbers_and_words_are_masked_and_levels_are_not() -> None:
    lines = [f"2026-11-22 10:00:{n % 60:02} INFO worker-{n % 4} did thing {n}" for n in range(300)]
    lines[150] = "2026-11-22 10:00:30 ERROR worker-2 died"
    lines[250] = "=== restart ==="

    assert shapes_of(lines) == (
        LineShape(count=1, example="=== restart ==="),
        LineShape(count=1, example="2026-11-22 10:00:30 ERROR worker-2 died"),
        LineShape(count=298, example=lines[0]),
    )


def test_lines_that_are_all_alike_or_all_different_have_no_shapes() -> None:
    assert shapes_of([]) == ()
    assert shapes_of(["a 1", "b 2", ""]) == ()
    assert shapes_of(["yes, it is", "No: never", "(why?) I", "a b", "c; d", "e! f!", "g - h"]) == ()


def test_of_many_shapes_that_are_all_as_rare_none_is_shown() -> None:
    alike = [f"the film of {year} is a delight" for year in range(1900, 2000)]
    odd = ["yes, it is", "No: never", "(why?) I", "a b", "c; d", "e! f!", "g - h"]

    assert shapes_of([*alike, *odd]) == ()
    assert shapes_of([*alike, *odd[:6]]) == (
        *(LineShape(count=1, example=line) for line in reversed(odd[3:6])),
        LineShape(count=100, example=alike[0]),
        *(LineShape(count=1, example=line) for line in odd[:3]),
    )


def test_every_kind_of_line_of_a_record_of_several_lines_is_shown() -> None:
    record = ["INV-{n}", "  issued: 2026-01-01", "  lines:", "    - glue x{n} @ 2.50", "  paid: yes"]
    lines = [line.format(n=n) for n in range(10, 60) for line in record]

    assert [shape.example for shape in shapes_of(lines)] == [line.format(n=10) for line in record]

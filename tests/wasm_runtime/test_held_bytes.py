"""How many bytes of the host a JSON value takes."""

from sys import getsizeof

import pytest

from wasm_runtime.held_bytes import json_bytes

TEXT = "x" * 1_000_000


@pytest.mark.parametrize("value", [TEXT, [TEXT], {"v": [TEXT]}, {TEXT: None}, [[[[{"a": {"b": TEXT}}]]]], (TEXT,)])
def test_a_text_counts_wherever_it_is(value: object) -> None:
    assert getsizeof(TEXT) <= json_bytes(value) < getsizeof(TEXT) + 2_000


def test_many_small_parts_count_with_what_each_takes() -> None:
    assert json_bytes([[] for _ in range(1000)]) >= 1000 * getsizeof([])


def test_values_that_hold_themselves_or_one_part_many_times_are_measured_once() -> None:
    circle: list[object] = []
    circle.append(circle)
    assert json_bytes(circle) < 1_000
    doubled: list[object] = []
    for _ in range(100):
        doubled = [doubled, doubled]
    assert json_bytes(doubled) < 100_000


def test_a_value_nested_deeply_is_no_recursion() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert json_bytes(deep) > 100_000 * getsizeof([])

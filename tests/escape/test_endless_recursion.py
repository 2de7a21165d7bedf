"""Recursion without a loop: sixty levels of objects that hold the level below twice are 2^60 calls, never deep."""

import itertools

import pytest

from wasm_runtime import Session

LEVELS = 60
SECONDS = 0.05

# How a level is made of `d`, the level below.
CONTAINERS = {
    "slice": "slice(d, d, d)",
    "tuple": "(d, d)",
    "list": "[d, d]",
    "dict": "{1: d, 2: d}",
    "frozenset": "frozenset([(d, 1), (d, 2)])",
    "partial": "functools.partial(int, d, d)",
    "alias": "list[d, d]",
    "namespace": "types.SimpleNamespace(a=d, b=d)",
    "error": "ValueError(d, d)",
    "deque": "collections.deque([d, d])",
    "mapping proxy": "types.MappingProxyType({1: d, 2: d})",
    "cell": "types.CellType((d, d))",
    "dataclass": "Pair(d, d)",
}
WAYS = ("hash(d)", "d == e", "d < e", "repr(d)", "d | e")
PREPARE = """
import collections, dataclasses, functools, types
Pair = dataclasses.make_dataclass("Pair", ["a", "b"], frozen=True)
def build():
    d = 1
    for _ in range({levels}): d = {container}
    return d
d, e = build(), build()
"""


@pytest.mark.parametrize(("name", "way"), list(itertools.product(CONTAINERS, WAYS)))
def test_a_cell_that_recurses_without_end_is_stopped(session: Session, name: str, way: str) -> None:
    made = session.exec(PREPARE.format(levels=LEVELS, container=CONTAINERS[name]), seconds=30)
    assert made.error is None, made.error
    result = session.exec(way, seconds=SECONDS)
    outcome = result.stopped_by or (result.error.type if result.error else "value")
    assert outcome in {"deadline", "TypeError", "value"}  # a type without this operation, or one that keeps its hash


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("slice", "hash(d)"),
        ("slice", "d == e"),
        ("tuple", "d < e"),
        ("dict", "d == e"),
        ("alias", "d | e"),
        ("cell", "d < e"),
    ],
)
def test_endless_recursion_in_c_code_is_undone_at_the_deadline(session: Session, name: str, way: str) -> None:
    session.exec(PREPARE.format(levels=LEVELS, container=CONTAINERS[name]), seconds=30)
    result = session.exec(f"kept.append('lost')\n{way}", seconds=SECONDS)
    assert (result.stopped_by, result.undone) == ("deadline", True)

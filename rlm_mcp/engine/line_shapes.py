"""Shapes of lines: which kinds of lines a text is made of, the rare ones first. Pure text, no I/O.

The shape of a line is its beginning with numbers as `0` and words as `a`; words in capitals stay, because they are
levels and markers. A text whose beginning, middle and end are filler shows here what else it holds.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

MOST_FREQUENT, MOST_RARE = 5, 3  # a record of several lines has about so many kinds
_SHAPE_CHARS = 48
_WORDS = 5
_MASK = str.maketrans(
    {chr(code): "a" for code in range(ord("a"), ord("z") + 1)} | {str(digit): "0" for digit in range(10)}
)
_RUN = re.compile(r"(?<![A-Z])[A-Z]*a[A-Za]*|\b[A-Z]{1,2}\b|[^\W\d_A-Z]+")
_NUMBER = re.compile(r"0[0a]*(?:[.,:/_-]0[0a]*)*")
_PROSE_SHARE = 0.2  # with more shapes than this a line, shapes say nothing
_MOST_RAREST = 6  # of more shapes that are all as rare, those shown would be chance, as in prose


@dataclass(frozen=True, slots=True, kw_only=True)
class LineShape:
    """How many of the lines have a shape, and the first of them."""

    count: int
    example: str


def shapes_of(lines: Iterable[str]) -> tuple[LineShape, ...]:
    """The rarest shapes, then the most frequent ones; none if the lines are all alike or differ as prose does."""
    masked: Counter[str] = Counter()
    first: dict[str, str] = {}
    for line in lines:
        if line and not line.isspace():
            start = line[:_SHAPE_CHARS].translate(_MASK)
            masked[start] += 1
            first.setdefault(start, line)
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for start, count in masked.items():
        shape = _shape(start)
        counts[shape] += count
        examples.setdefault(shape, first[start])
    if len(counts) < 2 or len(counts) > max(MOST_FREQUENT + MOST_RARE, _PROSE_SHARE * counts.total()):
        return ()
    ordered = [shape for shape, _ in counts.most_common()]
    if sum(count == counts[ordered[-1]] for count in counts.values()) > _MOST_RAREST:
        return ()
    rare = [shape for shape in reversed(ordered[1:]) if counts[shape] * 10 < counts[ordered[0]]][:MOST_RARE]
    told = dict.fromkeys([*rare, *ordered[:MOST_FREQUENT]])
    return tuple(LineShape(count=counts[shape], example=examples[shape]) for shape in told)


def _shape(masked: str) -> str:
    collapsed = _NUMBER.sub("0", _RUN.sub("a", masked))
    return " ".join(collapsed.split()[:_WORDS])

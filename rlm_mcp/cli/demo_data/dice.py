"""Random choices that are the same with every version of Python."""

from collections.abc import Sequence
from typing import TypeVar

Value = TypeVar("Value")


class Dice:
    """A small linear congruential generator."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, limit: int) -> int:
        """A number from 0 to limit - 1."""
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return (self._state >> 33) % limit

    def one_of(self, values: Sequence[Value]) -> Value:
        """One of the values."""
        return values[self.below(len(values))]

    def shuffled(self, values: Sequence[Value]) -> list[Value]:
        """The values in another order."""
        left = list(values)
        return [left.pop(self.below(len(left))) for _ in values]

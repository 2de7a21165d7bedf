"""Memory of the host that a guest makes it hold: calls in flight, answers that wait to be fetched, outcomes of copies.

It is counted against the limits of the guest's session, like the guest's own heap and files.
"""

from collections.abc import Iterable
from sys import getsizeof
from typing import Protocol


class Reservable(Protocol):
    """Memory that is reserved before it is held. Safe to use from any thread."""

    def reserve(self, n: int) -> bool:
        """Reserve n bytes and return True, or reserve nothing and return False."""

    def release(self, n: int) -> None:
        """Return n reserved bytes."""


class Unlimited:
    """Memory without a limit, for a channel without a session."""

    def reserve(self, n: int) -> bool:  # noqa: ARG002 - Reservable's signature
        """Return True."""
        return True

    def release(self, n: int) -> None:
        """Do nothing."""


def json_bytes(value: object) -> int:
    """Return how many bytes a JSON value takes, with everything in it. A container that occurs twice counts once."""
    total = 0
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        total += getsizeof(one)
        parts: Iterable[object]
        match one:
            case dict():
                parts = (*one.keys(), *one.values())
            case list() | tuple():
                parts = one
            case _:
                continue
        if id(one) not in seen:
            seen.add(id(one))
            waiting.extend(parts)
    return total

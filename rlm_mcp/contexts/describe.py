"""What a context is, for a model that has not seen it: bounded in time and size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .context import Context
from .store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeFile:
    """One of the largest files of a context."""

    path: str
    bytes: int
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What the root model sees first. `structure` holds JSON values only; `head` and `tail` are verbatim."""

    context: Context
    structure: Mapping[str, object]
    head: str
    tail: str
    largest_files: Sequence[LargeFile]


def describe(store: Store, context: Context, *, seconds: float = 2.0) -> Overview:
    """Look at a context for at most `seconds`; beyond that the answer rests on samples and says so."""
    raise NotImplementedError

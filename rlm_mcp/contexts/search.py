"""Search at native speed: ripgrep over the stored blobs, in linear time and under a deadline."""

from collections.abc import Sequence
from dataclasses import dataclass

from .context import Context
from .store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One matching line, or a line of context around one (`is_match` False). `text` has no line end and is cut when long."""

    path: str
    line: int
    text: str
    is_match: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Matching lines in order of path and line. `total` counts all; `complete` is False when the deadline cut the count."""

    matches: Sequence[Match]
    total: int
    truncated: bool
    complete: bool = True


def search(
    store: Store,
    context: Context,
    pattern: str,
    *,
    path: str | None = None,
    max_matches: int = 20,
    context_lines: int = 0,
    ignore_case: bool = False,
    literal: bool = False,
    seconds: float = 10.0,
) -> SearchResult:
    """Find lines that match a regular expression (or a literal); `path` is one path or a glob. Raises SearchRefused."""
    raise NotImplementedError

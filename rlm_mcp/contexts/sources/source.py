"""What a loader gives: a source with a name and its pieces, each opened when its turn comes, in order, once."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rlm_mcp.contexts.types import Kind, PageMark, Skipped

MAX_FILES = 200_000
"""More files than this in one context and its listings stop being useful; it is also a bound on archives."""


class Readable(Protocol):
    """What is read of a piece: bytes, in order, once."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes, none at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPiece:
    """A piece while it is read. `notes` may grow until the piece is closed."""

    file: Readable
    pages: tuple[PageMark, ...] = ()
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One future file of a context; `plain` is the file on disk whose bytes it has, if it is one.

    Opening, reading and closing raise SourceRefused or SourceChanged.
    """

    path: str
    open: Callable[[], AbstractContextManager[OpenPiece]]
    plain: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Something that can be registered."""

    kind: Kind
    name: str
    location: str
    pieces: Iterator[Piece | Skipped]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPolicy:
    """What may be read: paths under `roots` (None: any) but not under `store`, and secrets when `secrets` says so."""

    roots: tuple[Path, ...] | None
    store: Path | None = None
    secrets: bool = False

    def covers(self, path: Path) -> bool:
        """Whether a path, already free of links, lies under a root."""
        return self.roots is None or any(path.is_relative_to(root) for root in self.roots)

    def is_store(self, path: Path) -> bool:
        """Whether a path lies in the store itself: registering that would never end."""
        return self.store is not None and path.is_relative_to(self.store)

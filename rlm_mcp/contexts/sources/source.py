"""A source and its pieces, each of which is opened once, in order; and the policy for what may be read."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rlm_mcp.contexts.sources.buckets import ListedObject
from rlm_mcp.contexts.text.line_index import Counts
from rlm_mcp.contexts.types import Kind, PageMark, Skipped

MAX_FILES = 200_000
"""With more files, the listings of a context stop being useful; it is also a bound on archives."""


class Readable(Protocol):
    """The bytes of a piece, read once and in order."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; empty at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPiece:
    """A piece that is being read. `notes` may grow until it is closed. `is_utf8`: a converter has written it."""

    file: Readable
    is_utf8: bool = False
    pages: tuple[PageMark, ...] = ()
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A future file of a context; `plain` is the file on disk with the same bytes, if there is one.

    Opening, reading and closing raise SourceRefused or SourceChanged.
    """

    path: str
    open: Callable[[], AbstractContextManager[OpenPiece]]
    plain: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPiece:
    """A future file of a context that stays in its bucket, and an estimate of its sizes."""

    path: str
    bucket: str
    listed: ListedObject
    estimate: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A note on a source as a whole, such as that an archive is cut short."""

    text: str


AnyPiece = Piece | ObjectPiece | Skipped | Remark


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Something that can be registered. `fetched` tells which version of it was copied from another machine."""

    kind: Kind
    name: str
    location: str
    pieces: Iterator[AnyPiece]
    fetched: Mapping[str, str] = field(default_factory=dict)


class NoteConversion(Protocol):
    """Notes that content is being converted, for the case that this ends the process."""

    def __call__(self, key: bytes, path: Path, *, instead: str) -> AbstractContextManager[None]:
        """Raises ConversionGivenUp for content with this key if that has happened twice, with what to do `instead`."""


def no_note(key: bytes, path: Path, *, instead: str) -> AbstractContextManager[None]:  # noqa: ARG001 - NoteConversion
    """Notes nothing."""
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPolicy:
    """What may be read: paths under `roots` (None: any) that are not in `store`; secrets only if `secrets` is set.

    What `converting` refuses is not converted.
    """

    roots: tuple[Path, ...] | None
    store: Path | None = None
    secrets: bool = False
    converting: NoteConversion = no_note
    _resolved: dict[Path, Path] = field(default_factory=dict, compare=False, repr=False)

    def resolve_directory(self, path: Path) -> Path:
        """A directory with all links resolved as they were when it was first asked for: files in it share that."""
        if (found := self._resolved.get(path)) is None:
            found = self._resolved[path] = Path(os.path.realpath(path))
        return found

    def covers(self, path: Path) -> bool:
        """Whether a resolved path lies under a root."""
        return self.roots is None or any(path.is_relative_to(root) for root in self.roots)

    def is_store(self, path: Path) -> bool:
        """Whether a path lies in the store itself, whose registration would never end."""
        return self.store is not None and path.is_relative_to(self.store)

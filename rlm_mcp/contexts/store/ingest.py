"""Ingest: the pieces of a source become files of a context, or are skipped with a reason; notes say what changed."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from itertools import count
from pathlib import Path

from rlm_mcp.contexts.sources.file import refusal
from rlm_mcp.contexts.sources.secrets import HOLDS_CREDENTIALS
from rlm_mcp.contexts.sources.source import AnyPiece, ObjectPiece, Piece, Remark, Source
from rlm_mcp.contexts.store.blobs import StagedText
from rlm_mcp.contexts.store.catalogue import FileRow
from rlm_mcp.contexts.store.references import ObjectReference, refer_to
from rlm_mcp.contexts.store.staging import NotText, StagingArea
from rlm_mcp.contexts.text.encoding import UTF8, Encoding
from rlm_mcp.contexts.text.line_index import Counts
from rlm_mcp.contexts.types import Context, Kind, PageMark, Skipped
from rlm_mcp.errors import ConversionGivenUp, SourceChanged, SourceRefused

MAX_NOTES = 20
MAX_DEPTH = 64
"""Directories above a file; deeper ones become part of its name."""
MAX_DIRECTORIES = 1_000_000
NAMED_SECRETS = 10
"""How many of the files left out because of their names a note lists; `skipped` has them all."""


class Ingest:
    """The files, notes and skipped pieces of one source that is being registered; the texts are in the staging area.

    `encoding` is the one that the user has named. `refers` decides whether a plain file is referenced where it lies
    instead of being copied. `on_piece` is called before every piece and may raise to end the ingest.
    """

    def __init__(
        self,
        staging: StagingArea,
        *,
        kind: Kind,
        location: str,
        encoding: Encoding | None = None,
        refers: Callable[[Path], bool] = lambda _: False,
        on_piece: Callable[[], None] = lambda: None,
    ) -> None:
        self._staging = staging
        self._on_piece = on_piece
        self._encoding = encoding
        self._refers = refers
        self._files: dict[str, FileRow] = {}
        self._directories: set[int] = set()
        """the hashes of their paths, of which there may be many times the length of all names"""
        self._numbers: dict[str, Iterator[int]] = {}
        """for each path that was taken, the numbers that tell others of that name apart"""
        self._notes: list[str] = []
        self.kind = kind
        self.location = location
        self.skipped: list[Skipped] = []
        self.staged: list[StagedText] = []

    def __repr__(self) -> str:
        return f"<Ingest {self.location}, {len(self._files)} files, {len(self.skipped)} skipped>"

    @property
    def rows(self) -> Sequence[FileRow]:
        """The files, sorted by path."""
        return sorted(self._files.values(), key=lambda row: row.path)

    def add_note(self, text: str) -> None:
        """Adds a note on the content for the user."""
        self._notes.append(text)

    def _reference(self, path: Path, shown: str) -> bool:
        """References a file where it lies; False when it must be converted, and therefore copied."""
        try:
            referred = refer_to(path)
        except OSError as error:
            raise refusal(path, error) from error
        if referred is None:
            self.add_note(f"{shown} is not UTF-8 throughout: it was converted into a copy, not referenced")
            return False
        reference, estimate = referred
        shown = self._free_path(shown)
        self._files[shown] = replace(_row(shown, reference.key, estimate), exact=False)
        self.add_note(f"{shown} is referenced where it lies: while it is being indexed, lines and chars are estimates")
        return True

    def ingest_source(self, source: Source) -> None:
        """Ingests all pieces of a source; if there are several, those that cannot be read are skipped with a reason."""
        try:
            for piece in source.pieces:
                self._on_piece()
                self._ingest_or_skip(piece)
        finally:
            if isinstance(source.pieces, Generator):  # on an exception: releases what it holds, such as a subprocess
                source.pieces.close()
        if not any(row.bytes for row in self._files.values()):
            if self.kind == "text":
                raise SourceRefused(f"{self.location} is empty: there is nothing to register")
            raise SourceRefused(
                f"{self.location} holds no text{_skip_reasons(self.skipped)}: name a directory or glob with text files"
            )

    def _ingest_or_skip(self, piece: AnyPiece) -> None:
        if isinstance(piece, Skipped):
            self.skipped.append(piece)
            return
        if isinstance(piece, Remark):
            self.add_note(piece.text)
            return
        if isinstance(piece, ObjectPiece):
            self._refer_to_object(piece)
            return
        try:
            self._ingest_piece(piece)
        except (SourceRefused, SourceChanged) as error:
            if self.kind == "text":
                raise _error_about(self.location, error) from error
            if isinstance(error, ConversionGivenUp):
                self.add_note(str(error))
            self.skipped.append(Skipped(path=piece.path, reason=str(error)))

    def _ingest_piece(self, piece: Piece) -> None:
        """Ingests a piece, which is added only once it is closed: closing detects changes made while it was read."""
        if piece.plain is not None and self._refers(piece.plain) and self._reference(piece.plain, piece.path):
            return
        with piece.open() as opened:
            staged = self._staging.stage(opened.file, is_utf8=opened.is_utf8, named=self._encoding)
        self._add(piece.path, staged, opened.pages)
        self._notes.extend(opened.notes)

    def _refer_to_object(self, piece: ObjectPiece) -> None:
        reference = ObjectReference(
            bucket=piece.bucket, object=piece.listed.key, size=piece.listed.size, version=piece.listed.version
        )
        shown = self._free_path(piece.path)
        self._files[shown] = replace(_row(shown, reference.key, piece.estimate), exact=False)

    def ingest_text(self, path: str, data: bytes) -> None:
        """Ingests a text that is already UTF-8."""
        self._add(path, self._staging.stage(BytesIO(data), is_utf8=True))

    def _add(self, path: str, staged: StagedText, pages: tuple[PageMark, ...] = ()) -> None:
        shown = self._free_path(path)
        row = _row(shown, staged.blob, staged.counts)
        self._files[shown] = replace(
            row, encoding=staged.encoding.codec, invalid_bytes=staged.invalid_bytes, pages=pages
        )
        self.staged.append(staged)
        if staged.encoding != UTF8:
            self.add_note(_note_on_encoding(shown, staged.encoding))
        if staged.invalid_bytes:
            self.add_note(f"{shown}: {staged.invalid_bytes:,} invalid bytes were replaced by U+FFFD")
        if staged.nuls:
            self.add_note(f"{shown} holds {staged.nuls:,} NUL characters")

    def _free_path(self, path: str) -> str:
        """A free path that is not below a file: an archive may hold both `a` and `a/b`."""
        *above, name = path.split("/", MAX_DEPTH)
        path = "/".join([*above, name.replace("/", "_")])
        parents = [path[:at] for at, char in enumerate(path) if char == "/"]
        if any(parent in self._files for parent in parents):
            path = path.replace("/", "_")
        if len(self._directories) > MAX_DIRECTORIES:
            raise SourceRefused(
                f"{self.location} has over {MAX_DIRECTORIES:,} directories: register one inside it, or a glob"
            )
        self._directories.update(map(hash, parents))
        if self._is_free(path):
            return path
        numbers = self._numbers.setdefault(path, count(2))
        return next(name for name in (f"{path}~{number}" for number in numbers) if self._is_free(name))

    def _is_free(self, path: str) -> bool:
        return path not in self._files and hash(path) not in self._directories

    def to_context(self, *, name: str, identity: str, version: int) -> Context:
        """The context made of these files."""
        rows = self.rows
        all_notes = [*_note_on_secrets(self.skipped), *self._notes]
        notes = all_notes[:MAX_NOTES]
        if more := len(all_notes) - len(notes):
            notes.append(f"and {more:,} more such notes")
        return Context(
            context_id=identity,
            name=name,
            kind=self.kind,
            bytes=sum(row.bytes for row in rows),
            chars=sum(row.chars for row in rows),
            lines=sum(row.lines for row in rows),
            files=len(rows),
            created_at=datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            source=self.location,
            version=version,
            exact=all(row.exact for row in rows),
            notes=tuple(notes),
            skipped=len(self.skipped),
        )


def _note_on_encoding(path: str, encoding: Encoding) -> str:
    """Says which encoding a file had, and how sure that is."""
    match encoding.certainty:
        case "guessed":
            return (
                f"{path} was read as {encoding.codec}, which is a guess, and stored as UTF-8: "
                "if letters are wrong, register it again and name its `encoding`"
            )
        case "likely":
            return f"{path} was {encoding.codec} (detected, most likely right), stored as UTF-8"
        case _:
            mark = " with a byte order mark" if encoding.bom_bytes else ""
            return f"{path} was {encoding.codec}{mark}, stored as UTF-8"


def _note_on_secrets(skipped: Sequence[Skipped]) -> Iterator[str]:
    """Names the files that were left out because of their names."""
    left_out = [item.path for item in skipped if item.reason == HOLDS_CREDENTIALS]
    if left_out:
        names = ", ".join(left_out[:NAMED_SECRETS])
        more = f" and {len(left_out) - NAMED_SECRETS:,} more" if len(left_out) > NAMED_SECRETS else ""
        yield f"left out because their names say that they hold credentials: {names}{more}"


def _row(path: str, blob: str, counts: Counts) -> FileRow:
    return FileRow(
        path=path,
        blob=blob,
        bytes=counts.bytes,
        chars=counts.chars,
        lines=counts.lines,
        longest_line=counts.longest_line,
    )


def _error_about(location: str, error: SourceRefused | SourceChanged) -> SourceRefused | SourceChanged:
    """An error that names the path."""
    if isinstance(error, NotText):
        return SourceRefused(f"{location} is binary, not text: convert it to text and register that")
    return error


def _skip_reasons(skipped: Sequence[Skipped]) -> str:
    """The reasons of the first skipped pieces, for an error."""
    if not skipped:
        return ""
    shown = "; ".join(f"{item.path}: {item.reason}" for item in skipped[:3])
    return f" ({len(skipped):,} skipped: {shown})"

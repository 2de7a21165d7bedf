"""The store of contexts: one directory that many processes may use at once."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .context import Context, FileEntry, Freed, Lines, Page, Place, Skipped

REFERENCE_ABOVE_BYTES = 1 << 30
"""A file this large is referenced where it lies: copying it would take seconds and double the disk it needs."""


class Store:
    """Contexts on disk under `data_dir`; thread-safe, shared by many processes, synchronous.

    `roots` are the directories that may be registered: None means any, an empty sequence means none.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        roots: Sequence[Path] | None = None,
        quota_bytes: int | None = None,
        reference_above_bytes: int = REFERENCE_ABOVE_BYTES,
    ) -> None: ...

    def register_text(self, text: str, *, name: str | None = None) -> Context:
        """Store a text given inline. Raises SourceRefused, NameTaken, StoreFull."""
        raise NotImplementedError

    def register_source(
        self, source: str, *, name: str | None = None, reference: bool | None = None, include_secrets: bool = False
    ) -> Context:
        """Store a file, directory, glob, git revision (`path@revision`), archive or document found at a path."""
        raise NotImplementedError

    def refresh(self, ref: str) -> Context:
        """Register the same source again: the same context if nothing changed, else its next version."""
        raise NotImplementedError

    def get(self, ref: str) -> Context:
        """Find the context with this id, or the newest with this name. Raises UnknownContext."""
        raise NotImplementedError

    def list(self, query: str = "", *, limit: int = 20, cursor: str | None = None) -> Page:
        """Current contexts whose name or source contains `query`, newest first."""
        raise NotImplementedError

    def remove(self, ref: str) -> Context:
        """Forget a context and free what only it used. Raises UnknownContext, ContextInUse."""
        raise NotImplementedError

    @contextmanager
    def in_use(self, context_ids: Collection[str], run_id: str) -> Iterator[None]:
        """Hold these contexts: until the block ends or this process dies, no process can remove them."""
        raise NotImplementedError
        yield

    def files(self, context: Context) -> Sequence[FileEntry]:
        """Every text of the context, by path. Raises SourceChanged when a referenced file is not what it was."""
        raise NotImplementedError

    def skipped(self, context: Context) -> Sequence[Skipped]:
        """What the source held that is not in the context, and why."""
        raise NotImplementedError

    def read_lines(
        self,
        context: Context,
        start_line: int,
        end_line: int | None = None,
        *,
        path: str | None = None,
        max_chars: int = 24_000,
    ) -> Lines:
        """Read lines `start_line` to `end_line`, 1-based and inclusive; negative numbers count from the end."""
        raise NotImplementedError

    def read_chars(self, context: Context, start: int, end: int, *, path: str | None = None) -> str:
        """Read the characters `[start:end]` of one file; bounds as of a slice, already non-negative."""
        raise NotImplementedError

    def place(self, context: Context, line: int, *, path: str | None = None) -> Place:
        """Give the byte and character offset and the page of a line."""
        raise NotImplementedError

    def text(self, context: Context, path: str | None = None) -> str:
        """Load one file whole; of a `text` context its only one."""
        raise NotImplementedError

    def mounts(self, context: Context) -> Mapping[str, Path]:
        """Relative guest path -> UTF-8 file on disk, to be shown read-only at `/context/<name>/<relative path>`."""
        raise NotImplementedError

    def gc(self, *, keep: Collection[str] | None = None) -> Freed:
        """Delete blobs that nothing uses and the remains of dead processes.

        With `keep` (ids that runs cite), also forget superseded versions that are neither in it nor in use.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Stop background indexing and let go of the catalogue; also called by leaving the `with` block."""
        raise NotImplementedError

"""The parts of a store of contexts: a catalogue of contexts and their files, and the texts of these.

`tests/rlm_mcp/contexts/store/test_catalogues.py` and `test_blob_stores.py` are what every implementation has to pass.
All methods may do I/O and are called on worker threads, by several at once.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from rlm_mcp.contexts.store.blobs import StagedText
from rlm_mcp.contexts.store.catalogue import FileRow
from rlm_mcp.contexts.text.line_index import Counts, LineIndex
from rlm_mcp.contexts.types import Context, Skipped


class Catalogue(Protocol):
    """The contexts of one owner. Raises StoreDamaged where it cannot be read, StoreFull where it cannot grow."""

    def close(self) -> None:
        """Releases what it holds."""

    def verify(self) -> None:
        """Raises StoreDamaged if any of it is damaged; called before texts are deleted."""

    def writing(self) -> AbstractContextManager[None]:
        """Holds the owner's write lock: the changes made inside are committed, or on any exception rolled back."""

    # --- reading

    def by_id(self, context_id: str) -> Context | None:
        """Finds a context, current or superseded, by its id."""

    def by_name(self, name: str) -> Context | None:
        """Finds the current version of a name."""

    def page(self, query: str, *, after: tuple[str, str] | None, limit: int) -> Sequence[Context]:
        """Current contexts, newest first, that come after a pair of creation time and id."""

    def count(self, query: str) -> int:
        """Counts the current contexts that match the query."""

    def last_version(self, name: str) -> int:
        """The highest version of a name in the catalogue, 0 if there is none."""

    def options(self, context_id: str) -> dict[str, object]:
        """The options with which a context was registered, for registering it again."""

    def files(self, context_id: str) -> Sequence[FileRow]:
        """The files of a context by path."""

    def file(self, context_id: str, path: str) -> FileRow | None:
        """Finds one file of a context."""

    def only_file(self, context_id: str) -> FileRow | None:
        """The file of a context that has exactly one."""

    def skipped(self, context_id: str) -> Sequence[Skipped]:
        """The files that were left out of a context."""

    def users(self, context_id: str) -> Sequence[tuple[str, str]]:
        """Run id and process token of every use of a context."""

    def holders(self) -> Sequence[str]:
        """The tokens of all processes that are recorded as using a context."""

    def blobs(self) -> set[str]:
        """All texts that contexts use."""

    def unused_of(self, blobs: Iterable[str]) -> Sequence[str]:
        """Those of these texts that no context uses."""

    def stored_bytes(self) -> int:
        """The size of all texts that are copies, not references; each is counted once."""

    def versions(self, name: str) -> Sequence[str]:
        """The ids of the superseded versions of a name."""

    def superseded(self) -> Sequence[str]:
        """The ids of all versions that are not current."""

    # --- changing; only inside `writing()`

    def add(
        self, context: Context, files: Sequence[FileRow], skipped: Collection[Skipped], options: dict[str, object]
    ) -> None:
        """Adds a context with its files and makes it the current version of its name."""

    def make_current(self, context: Context) -> None:
        """Makes an older version the current one of its name again."""

    def set_counts(self, blob: str, counts: Counts) -> None:
        """Replaces estimates by exact counts in every context that has this text."""

    def delete(self, context_id: str) -> None:
        """Deletes a context and its files."""

    def add_use(self, context_id: str, run_id: str, holder: str) -> None:
        """Records that a run of the process with this token uses a context."""

    def end_use(self, context_ids: Iterable[str], run_id: str, holder: str) -> None:
        """Removes one use of each id that `add_use` recorded."""

    def end_uses_of(self, holder: str) -> None:
        """Removes all uses by a dead process."""


class Blobs(Protocol):
    """Texts by the SHA-256 of their UTF-8 bytes. A text that the catalogue does not name is garbage."""

    def link_to(self, link: Path, blob: str, *, size: int) -> bool:
        """Makes a file of a text that is there already, which survives its deletion; False if there is none."""

    def place(self, staged: StagedText) -> None:
        """Brings a staged text to where it is kept, before the write lock is taken. Idempotent. Raises StoreFull."""

    def publish(self, staged: StagedText) -> None:
        """Gives a text that was placed its name. The caller holds the write lock."""

    def verified_path(self, blob: str, size: int) -> Path:
        """A file of this machine with the text, whose size and integrity are verified. Raises StoreDamaged."""

    def index(self, blob: str) -> LineIndex:
        """The line index of a text. Raises StoreDamaged when the text is gone."""

    def delete(self, blob: str) -> int:
        """Deletes a text and returns its size. The caller holds the write lock."""

    def names(self) -> Iterator[str]:
        """The names of all texts, and of what is left of some."""

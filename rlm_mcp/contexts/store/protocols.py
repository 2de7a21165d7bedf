"""The parts of a store of contexts: a catalogue of contexts and their files, the texts of these, and who uses them.

`tests/rlm_mcp/contexts/store/test_catalogues.py` and `test_blob_stores.py` are what every implementation has to pass.
All methods may do I/O and are called on worker threads, by several at once.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rlm_mcp.contexts.store.blobs import LocalText, StagedText
from rlm_mcp.contexts.store.catalogue import FileRow
from rlm_mcp.contexts.text.line_index import Counts, LineIndex
from rlm_mcp.contexts.text.reading import ReadBytes
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

    def set_counts(self, counts: Mapping[str, Counts]) -> None:
        """Replaces estimates of texts by exact counts in every context that has them."""

    def delete(self, context_id: str) -> None:
        """Deletes a context and its files."""


class Blobs(Protocol):
    """Texts by the SHA-256 of their UTF-8 bytes. A text that the catalogue does not name is garbage."""

    looked_for_at_once: int
    """texts that are looked for at the same time: more than one where that takes requests"""

    def link_to(self, link: Path, blob: str, *, size: int) -> bool:
        """Makes a file of a text that is there already, which survives its deletion; False if there is none."""

    def place(self, texts: Sequence[StagedText], *, check: Callable[[], object]) -> None:
        """Brings staged texts to where they are kept, before the write lock is taken. Idempotent. Raises StoreFull.

        `check` is called often, and may raise to end it.
        """

    def publish(self, texts: Sequence[StagedText], *, check: Callable[[], object]) -> None:
        """Gives texts that were placed their names. The caller holds the write lock."""

    def prepare(self, blobs: Collection[str]) -> None:
        """Finds out at once where texts lie that are going to be looked for one by one."""

    def local_text(self, blob: str, size: int) -> LocalText:
        """The text in a file of this machine, whose size and integrity are verified. Raises StoreDamaged."""

    def part_reader(self, blob: str, size: int) -> ReadBytes | None:
        """Reads parts of a text by requests for them alone; None where the file of `local_text` is there or small.

        Calling it raises StoreDamaged.
        """

    def index(self, blob: str) -> LineIndex:
        """The line index of a text. Raises StoreDamaged when the text is gone."""

    def delete(self, blobs: Sequence[str]) -> int:
        """Deletes texts and returns their size together. The caller holds the write lock."""

    def names(self) -> Iterator[str]:
        """The names of all texts, and of what is left of some."""


class ContextUses(Protocol):
    """Which runs use a context of one owner, so that nobody removes it."""

    def begin(self, find: Callable[[], Sequence[str]], run_id: str) -> Sequence[str]:
        """Notes that a run of this process uses the contexts whose ids `find` gives, and returns these."""

    def end(self, context_ids: Iterable[str], run_id: str) -> None:
        """Takes back one `begin`."""

    def runs_with(self, context_id: str) -> Sequence[str]:
        """The ids of the runs that use a context, wherever they go on. The caller holds the write lock."""

    def remove_dead(self) -> None:
        """Removes what processes that died have noted. The caller holds the write lock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreParts:
    """The parts of one store, which closes the catalogue."""

    catalogue: Catalogue
    blobs: Blobs
    uses: ContextUses

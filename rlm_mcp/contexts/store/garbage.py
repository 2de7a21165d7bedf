"""Garbage collection: removed contexts, texts that only they had, and leftovers of dead processes.

The order makes it safe to be killed at any point: first contexts are deleted from the catalogue, and that is committed;
then files are deleted, under the write lock and only those that the catalogue does not name. A kill in between leaves
garbage, which the next start finds by the dead process's lock file, and never a context without its text.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from rlm_mcp.contexts.store.process_locks import dead_tokens, remove_dead
from rlm_mcp.contexts.store.protocols import Blobs, Catalogue, ContextUses
from rlm_mcp.contexts.store.references import ReferenceIndexes, is_reference, reference_of
from rlm_mcp.contexts.types import Freed


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageCollector:
    """Deletes from the store in `directory`."""

    directory: Path
    catalogue: Catalogue
    blobs: Blobs
    uses: ContextUses
    indexes: ReferenceIndexes

    @property
    def holders(self) -> Path:
        """The directory of the lock files of all processes."""
        return self.directory / "holders"

    def forget(self, context_ids: Sequence[str]) -> Collection[str]:
        """Deletes contexts from the catalogue and returns the texts they had. The caller holds the write lock."""
        texts = {row.blob for context_id in context_ids for row in self.catalogue.files(context_id)}
        for context_id in context_ids:
            self.catalogue.delete(context_id)
        return texts

    def sweep(self, texts: Collection[str]) -> Freed:
        """Deletes those of these texts that no context has now. Raises StoreDamaged if the catalogue is damaged."""
        if texts:
            self.catalogue.verify()
        with self.catalogue.writing():
            unused = self.catalogue.unused_of(texts)
            for text in filter(is_reference, unused):
                self.indexes.delete(reference_of(text).index_name)
            copies = [text for text in unused if not is_reference(text)]
            return Freed(blobs=len(copies), bytes=self.blobs.delete(copies))

    def sweep_all(self) -> Freed:
        """Deletes all texts on disk that no context has."""
        used = self.catalogue.blobs()
        referenced = {reference_of(text).index_name for text in used if is_reference(text)}
        with self.catalogue.writing():
            for name in set(self.indexes.names()) - referenced:
                self.indexes.delete(name)
        return self.sweep(set(self.blobs.names()) - used)

    def remove_dead_processes(self) -> None:
        """Deletes what dead processes were ingesting, and removes their uses of contexts."""
        dead = tuple(dead_tokens(self.holders))
        for token in dead:
            rmtree(self.directory / "incoming" / token, ignore_errors=True)
        with self.catalogue.writing():
            self.uses.remove_dead()
        for token in dead:  # last: as long as the lock file exists, the next start collects garbage again
            remove_dead(self.holders, token)

    def old_versions(self, keep: Collection[str]) -> Sequence[str]:
        """The superseded versions that are neither in `keep` nor in use."""
        return [one for one in self.catalogue.superseded() if one not in keep and not self.uses.runs_with(one)]

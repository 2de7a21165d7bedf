"""Publishes what was ingested as a context, under a name: all at once, or nothing of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from rlm_mcp.contexts.store.blobs import disk_errors
from rlm_mcp.contexts.store.catalogue import FileRow, context_id
from rlm_mcp.contexts.store.garbage import GarbageCollector
from rlm_mcp.contexts.store.ingest import Ingest
from rlm_mcp.contexts.store.protocols import Catalogue
from rlm_mcp.contexts.store.references import is_reference
from rlm_mcp.contexts.store.staging import StagingArea, over_quota
from rlm_mcp.contexts.types import Context
from rlm_mcp.errors import NameTaken, StorageUnreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Adds contexts to a catalogue whose copies of texts may take up `quota_bytes` together."""

    catalogue: Catalogue
    garbage: GarbageCollector
    quota_bytes: int | None = None

    def publish(
        self,
        staging: StagingArea,
        ingest: Ingest,
        *,
        wanted: str | None,
        default: str,
        options: dict[str, object],
        supersedes: bool = True,
    ) -> Context:
        """Publish all texts and the context at once, under the write lock of the catalogue."""
        staging.place(ingest.staged)
        rows = ingest.rows
        try:
            with disk_errors(), self.catalogue.writing():
                name, identity = self._choose_name(ingest, rows, wanted=wanted, default=default, supersedes=supersedes)
                context = self.catalogue.by_id(identity)
                staging.publish(ingest.staged)
                if context is None:
                    version = self.catalogue.last_version(name) + 1
                    context = ingest.to_context(name=name, identity=identity, version=version)
                    self.catalogue.add(context, rows, ingest.skipped, options)
                    self._require_room()
                elif not context.current:
                    self.catalogue.make_current(context)
                    context = replace(context, current=True)
        except StorageUnreachable:
            raise  # what was placed is deleted later
        except BaseException:  # including what a callback raises to end it
            self.garbage.sweep([row.blob for row in rows if not is_reference(row.blob)])
            raise
        return context

    def _require_room(self) -> None:
        """Raises StoreFull where another registration has taken the room since this one began."""
        if self.quota_bytes is not None and self.catalogue.stored_bytes() > self.quota_bytes:
            raise over_quota()

    def _choose_name(
        self, ingest: Ingest, rows: Sequence[FileRow], *, wanted: str | None, default: str, supersedes: bool
    ) -> tuple[str, str]:
        """Choose the name of this content, and the id: a free name, its own, or that of its source's last version.

        All inline texts have the same source, so for them the caller decides whether one `supersedes` another.
        """
        numbered = (f"{default}-{n}" for n in range(2, 10_000))
        candidates = [wanted] if wanted else chain([default], numbered)
        there = None
        for name in candidates:
            identity = context_id(name, ingest.kind, rows)
            there = self.catalogue.by_name(name)
            same_source = there is not None and there.source == ingest.location
            if there is None or there.context_id == identity or (same_source and supersedes):
                return name, identity
        raise NameTaken(
            f"the name {wanted or default!r} belongs to other content (source: {there.source if there else 'many'}): "
            "choose another name, or remove that context first"
        )

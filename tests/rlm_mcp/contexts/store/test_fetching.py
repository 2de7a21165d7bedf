"""Texts that are looked for before they are read."""

from collections.abc import Collection
from pathlib import Path

from rlm_mcp.contexts.store.blobs import FileBlobs
from rlm_mcp.contexts.store.catalogue import SqliteCatalogue
from rlm_mcp.contexts.store.protocols import StoreParts
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.store.uses import LockedUses
from rlm_mcp.errors import StorageUnreachable


class UnpreparedBlobs(FileBlobs):
    """Texts that have to be looked for while the database is away."""

    looked_for_at_once = 2

    def prepare(self, blobs: Collection[str]) -> None:
        raise StorageUnreachable(f"{len(blobs)} texts cannot be looked for")


def test_what_cannot_be_fetched_ahead_is_told_when_it_is_read(tmp_path: Path) -> None:
    catalogue = SqliteCatalogue(tmp_path / "catalogue.sqlite3")
    parts = StoreParts(
        catalogue=catalogue,
        blobs=UnpreparedBlobs(tmp_path / "blobs"),
        uses=LockedUses(catalogue=catalogue, holders=tmp_path, token="mine"),  # noqa: S106 - of a process
    )
    with Store(tmp_path / "data", parts=parts) as store:
        context = store.register_text("some text")
        store.fetch_ahead(store.files(context))
        assert store.text(context) == "some text"

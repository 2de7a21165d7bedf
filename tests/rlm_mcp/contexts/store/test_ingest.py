from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from rlm_mcp.contexts.sources.source import OpenPiece, Piece, Source
from rlm_mcp.contexts.store.blobs import FileBlobs
from rlm_mcp.contexts.store.ingest import Ingest
from rlm_mcp.contexts.store.staging import StagingArea
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import SourceChanged


@contextmanager
def steady() -> Iterator[OpenPiece]:
    yield OpenPiece(file=BytesIO(b"steady\n"))


@contextmanager
def changing() -> Iterator[OpenPiece]:
    yield OpenPiece(file=BytesIO(b"changing\n"))
    raise SourceChanged("it changed")


def test_a_file_among_many_that_changed_while_it_was_read_is_only_skipped(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path / "blobs")
    pieces = [Piece(path="a", open=steady), Piece(path="b", open=changing)]
    source = Source(kind="files", name="n", location="here", pieces=iter(pieces))
    with StagingArea(blobs, tmp_path / "incoming", room_bytes=None) as staging:
        ingest = Ingest(staging, kind="files", location="here")
        ingest.ingest_source(source)
        staging.place(ingest.staged)
        staging.publish(ingest.staged)
    assert [row.path for row in ingest.rows] == ["a"]
    assert ingest.skipped == [Skipped(path="b", reason="it changed")]
    assert list(blobs.names()) == [ingest.rows[0].blob]

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from rlm_mcp.contexts.sources.source import Opened, Piece, Source
from rlm_mcp.contexts.store.blobs import Blobs, Intake
from rlm_mcp.contexts.store.ingest import Gathering
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import SourceChanged


@contextmanager
def steady() -> Iterator[Opened]:
    yield Opened(file=BytesIO(b"steady\n"))


@contextmanager
def changing() -> Iterator[Opened]:
    yield Opened(file=BytesIO(b"changing\n"))
    raise SourceChanged("it changed")


def test_a_file_among_many_that_changed_while_it_was_read_is_only_skipped(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    pieces = [Piece(path="a", open=steady), Piece(path="b", open=changing)]
    source = Source(kind="files", name="n", location="here", pieces=iter(pieces))
    with Intake(blobs, tmp_path / "incoming", room_bytes=None) as intake:
        gathering = Gathering(intake, kind="files", location="here")
        gathering.take_all(source)
        intake.settle()
        intake.place(gathering.parts)
    assert [row.path for row in gathering.rows] == ["a"]
    assert gathering.skipped == [Skipped(path="b", reason="it changed")]
    assert list(blobs.names()) == [gathering.rows[0].blob]

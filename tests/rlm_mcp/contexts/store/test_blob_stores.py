"""What every Blobs has to do, wherever it keeps texts. A new implementation is added to BLOBS."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_mcp.contexts.store.blobs import FileBlobs, StagedText
from rlm_mcp.contexts.store.protocols import Blobs
from rlm_mcp.contexts.text.encoding import UTF8
from rlm_mcp.contexts.text.line_index import build_index, write_index
from rlm_mcp.errors import StoreDamaged

OpenBlobs = Callable[[], Blobs]
"""Opens the texts of one owner as another process would."""


def files(directory: Path) -> OpenBlobs:
    return lambda: FileBlobs(directory / "blobs")


BLOBS = {"files": files}

SMALL, LARGE = b"one\ntwo \xc3\xa9\n", b"a line of text\n" * 100_000


@pytest.fixture(params=BLOBS)
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> OpenBlobs:
    return BLOBS[request.param](tmp_path)


def staged(directory: Path, data: bytes) -> StagedText:
    """A text as the staging area writes it: beside a large one lies its index."""
    index = build_index(data)
    blob = hashlib.sha256(data).hexdigest()
    path = directory / f"{blob[:8]}.txt"
    path.write_bytes(data)
    if len(data) > 1 << 20:
        with path.with_suffix(".index").open("wb") as file:
            write_index(index, file)
    return StagedText(blob=blob, path=path, index=index, encoding=UTF8, invalid_bytes=0, nuls=0)


def stored(blobs: Blobs, text: StagedText) -> str:
    blobs.place(text)
    blobs.place(text)
    blobs.publish(text)
    return text.blob


@pytest.mark.parametrize("data", [SMALL, LARGE])
def test_a_published_text_is_read_by_every_other_process_with_its_index(
    reopen: OpenBlobs, tmp_path: Path, data: bytes
) -> None:
    blob = stored(reopen(), staged(tmp_path, data))
    other = reopen()
    assert other.verified_path(blob, len(data)).read_bytes() == data
    assert other.index(blob).counts == build_index(data).counts
    assert set(other.names()) == {blob}


def test_the_same_text_published_again_leaves_the_file_that_others_read(reopen: OpenBlobs, tmp_path: Path) -> None:
    blobs = reopen()
    blob = stored(blobs, staged(tmp_path, SMALL))
    before = blobs.verified_path(blob, len(SMALL)).stat().st_ino
    assert stored(blobs, staged(tmp_path, SMALL)) == blob
    assert blobs.verified_path(blob, len(SMALL)).stat().st_ino == before


def test_a_text_that_is_there_is_linked_and_outlives_its_deletion(reopen: OpenBlobs, tmp_path: Path) -> None:
    blobs = reopen()
    blob = stored(blobs, staged(tmp_path, SMALL))
    assert blobs.link_to(tmp_path / "link.txt", blob, size=len(SMALL))
    assert not blobs.link_to(tmp_path / "other.txt", blob, size=len(SMALL) + 1)
    assert not blobs.link_to(tmp_path / "other.txt", "f" * 64, size=1)
    assert blobs.delete(blob) == len(SMALL)
    assert (tmp_path / "link.txt").read_bytes() == SMALL
    assert not (tmp_path / "other.txt").exists()

    again = replace(staged(tmp_path, SMALL), path=tmp_path / "link.txt")
    assert blobs.verified_path(stored(blobs, again), len(SMALL)).read_bytes() == SMALL


def test_what_is_gone_or_has_another_size_is_said_in_words(reopen: OpenBlobs, tmp_path: Path) -> None:
    blobs = reopen()
    blob = stored(blobs, staged(tmp_path, SMALL))
    with pytest.raises(StoreDamaged, match=r"has 11 bytes instead of 13: register it again"):
        blobs.verified_path(blob, 13)
    assert blobs.delete(blob) == len(SMALL)
    assert blobs.delete(blob) == 0
    for look in (lambda: reopen().verified_path(blob, len(SMALL)), lambda: reopen().index(blob)):
        with pytest.raises(StoreDamaged, match=r"register it again"):
            look()
    assert list(blobs.names()) == []

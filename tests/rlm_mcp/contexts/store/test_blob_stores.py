"""What every Blobs has to do, wherever it keeps texts. A new implementation is added to BLOBS."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rlm_mcp.contexts.store.blobs import FileBlobs, StagedText
from rlm_mcp.contexts.store.protocols import Blobs
from rlm_mcp.contexts.text.encoding import UTF8
from rlm_mcp.contexts.text.line_index import build_index, write_index
from rlm_mcp.errors import StoreDamaged
from tests.peers.cluster import open_store_parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The texts of one owner, and the lock under which they change."""

    blobs: Blobs
    writing: Callable[[], AbstractContextManager[None]] = nullcontext

    def store(self, text: StagedText) -> str:
        self.blobs.place([text], check=int)
        self.blobs.place([text], check=int)
        with self.writing():
            self.blobs.publish([text], check=int)
        return text.blob

    def delete(self, blob: str) -> int:
        with self.writing():
            return self.blobs.delete([blob])


OpenTexts = Callable[[], Texts]
"""Opens the texts of one owner as another process would."""


def files(_: pytest.FixtureRequest, directory: Path) -> OpenTexts:
    return lambda: Texts(blobs=FileBlobs(directory / "blobs"))


def bucket(request: pytest.FixtureRequest, directory: Path) -> OpenTexts:
    def opened() -> Texts:
        parts = reopen()
        return Texts(blobs=parts.blobs, writing=parts.catalogue.writing)

    reopen = open_store_parts(request, directory)
    return opened


BLOBS: dict[str, Callable[[pytest.FixtureRequest, Path], OpenTexts]] = {"files": files, "bucket": bucket}

SMALL, LARGE = b"one\ntwo \xc3\xa9\n", b"a line of text\n" * 100_000


@pytest.fixture(params=["files", pytest.param("bucket", marks=pytest.mark.cluster)])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> OpenTexts:
    return BLOBS[request.param](request, tmp_path)


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


@pytest.mark.parametrize("data", [SMALL, LARGE])
def test_a_published_text_is_read_by_every_other_process_with_its_index(
    reopen: OpenTexts, tmp_path: Path, data: bytes
) -> None:
    blob = reopen().store(staged(tmp_path, data))
    other = reopen().blobs
    assert other.local_text(blob, len(data)).path.read_bytes() == data
    assert other.index(blob).counts == build_index(data).counts
    assert reopen().blobs.index(blob).counts == build_index(data).counts
    assert set(other.names()) == {blob}


def test_the_same_text_published_again_leaves_the_file_that_others_read(reopen: OpenTexts, tmp_path: Path) -> None:
    texts = reopen()
    blob = texts.store(staged(tmp_path, SMALL))
    before = texts.blobs.local_text(blob, len(SMALL)).path.stat().st_ino
    assert texts.store(staged(tmp_path, SMALL)) == blob
    assert texts.blobs.local_text(blob, len(SMALL)).path.stat().st_ino == before


def test_a_text_that_is_there_is_linked_and_outlives_its_deletion(reopen: OpenTexts, tmp_path: Path) -> None:
    texts = reopen()
    blobs = texts.blobs
    blob = texts.store(staged(tmp_path, SMALL))
    assert blobs.link_to(tmp_path / "link.txt", blob, size=len(SMALL))
    assert not blobs.link_to(tmp_path / "other.txt", blob, size=len(SMALL) + 1)
    assert not blobs.link_to(tmp_path / "other.txt", "f" * 64, size=1)
    assert texts.delete(blob) == len(SMALL)
    assert (tmp_path / "link.txt").read_bytes() == SMALL
    assert not (tmp_path / "other.txt").exists()

    again = replace(staged(tmp_path, SMALL), path=tmp_path / "link.txt")
    assert blobs.local_text(texts.store(again), len(SMALL)).path.read_bytes() == SMALL


def test_what_is_gone_or_has_another_size_is_said_in_words(reopen: OpenTexts, tmp_path: Path) -> None:
    texts = reopen()
    blob = texts.store(staged(tmp_path, SMALL))
    with pytest.raises(StoreDamaged, match=r"has 11 bytes instead of 13: register it again"):
        texts.blobs.local_text(blob, 13)
    assert texts.delete(blob) == len(SMALL)
    assert texts.delete(blob) == 0
    for look in (lambda: reopen().blobs.local_text(blob, len(SMALL)), lambda: reopen().blobs.index(blob)):
        with pytest.raises(StoreDamaged, match=r"register it again"):
            look()
    assert list(texts.blobs.names()) == []


def test_texts_are_placed_until_the_check_says_otherwise(reopen: OpenTexts, tmp_path: Path) -> None:
    def refuse() -> None:
        raise InterruptedError

    texts = reopen()
    with pytest.raises(InterruptedError):
        texts.blobs.place([staged(tmp_path, SMALL)], check=refuse)
    assert list(texts.blobs.names()) == []

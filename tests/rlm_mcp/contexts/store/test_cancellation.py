"""A registration that is cancelled leaves nothing behind, at whatever moment."""

import os
import subprocess
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from rlm_mcp.contexts.processes import PROCESSES
from rlm_mcp.contexts.store.store import Store


class Enough(Exception):
    """Raised by the callback to cancel a registration."""


class Patience:
    """A progress callback that cancels the registration at its n-th call."""

    def __init__(self, times: int | None = None) -> None:
        self.times = times
        self.told = 0
        self.files = 0
        self.bytes = 0

    def __call__(self, files: int, size: int) -> None:
        self.told += 1
        self.files += files
        self.bytes += size
        if self.told == self.times:
            raise Enough


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Small files and one that is not held in memory."""
    directory = tmp_path / "tree"
    directory.mkdir()
    for number in range(5):
        (directory / f"{number}.txt").write_text(f"text {number}\n")
    (directory / "large.log").write_text("a line of the log\n" * 300_000)
    return directory


def test_cancelling_at_any_moment_leaves_nothing_behind(tree: Path, tmp_path: Path) -> None:
    whole = Patience()
    with Store(tmp_path / "other") as store:
        store.register_source(str(tree), on_progress=whole)
    assert (whole.files, whole.bytes) == (6, sum(file.stat().st_size for file in tree.iterdir()))
    with Store(tmp_path / "data") as store:
        for times in range(1, whole.told + 1):
            with pytest.raises(Enough):
                store.register_source(str(tree), on_progress=Patience(times))
            assert store.list().total == 0
            contexts = tmp_path / "data" / "contexts"
            left = [path for part in ("blobs", "incoming", "indexes") for path in (contexts / part).rglob("*.*")]
            assert left == []
        assert store.register_source(str(tree)).files == 6


def test_cancelling_keeps_the_texts_that_another_context_has(tree: Path, tmp_path: Path) -> None:
    with Store(tmp_path / "data") as store:
        kept = store.register_source(str(tree / "0.txt"))
        for times in range(1, 30):
            with pytest.raises(Enough):
                store.register_source(str(tree), on_progress=Patience(times))
        assert store.text(kept) == "text 0\n"


def git(directory: Path, *arguments: str) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    subprocess.run(["git", *who, *arguments], cwd=directory, check=True, capture_output=True)  # noqa: S603, S607 - git, on files made here


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_a_listing_by_git_that_would_not_end_is_cancelled(tree: Path, tmp_path: Path) -> None:
    git(tree, "init")
    os.mkfifo(tree / ".gitignore")  # git waits until somebody writes to it
    with Store(tmp_path / "data") as store:
        with pytest.raises(Enough):
            store.register_source(str(tree), on_progress=Patience(10))
        assert store.list().total == 0
    assert repr(PROCESSES) == "<Processes 0 running>"


def test_cancelling_a_revision_at_any_moment_leaves_nothing_behind(tree: Path, tmp_path: Path) -> None:
    for arguments in (["init"], ["add", "."], ["commit", "-m", "all"]):
        git(tree, *arguments)
    with Store(tmp_path / "data") as store:
        # How often the callback is called depends on what each read from git finds in the pipe.
        for times in count(1, 7):
            patience = Patience(times)
            with suppress(Enough):
                assert store.register_source(f"{tree}@HEAD", on_progress=patience).files == 6
            assert repr(PROCESSES) == "<Processes 0 running>"
            if patience.told < times:
                break
            assert store.list().total == 0
        assert (times > 1, store.list().total) == (True, 1)


def test_cancelling_a_walk_needs_no_file_to_be_found(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / "empty" / str(number)).mkdir(parents=True)
    with Store(tmp_path / "data") as store, pytest.raises(Enough):
        store.register_source(str(tmp_path / "empty"), on_progress=Patience(5))

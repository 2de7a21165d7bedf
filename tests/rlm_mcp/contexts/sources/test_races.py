"""Links that are put in the place of files and directories while these are registered are not followed."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import pytest

from rlm_mcp.contexts.sources import no_links
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import RlmError

TRIES = 60
FILES = 12

SWAP = """
import os, sys
place, link, away = sys.argv[1:]
while os.getppid() == %d:
    os.rename(place, away); os.rename(link, place); os.rename(place, link); os.rename(away, place)
"""
"""Puts a link in the place of what is registered and back, until it is killed."""

OPENERS: dict[str, Callable[[Path, int], int | None]] = {
    "openat2": no_links._open_by_openat2,
    "components": no_links._open_by_components,
    "comparison": no_links._open_and_compare,
}


@contextmanager
def swapped(place: Path, target: Path) -> Iterator[None]:
    link = place.with_name(f"link-{place.name}")
    link.symlink_to(target)
    command = [sys.executable, "-c", SWAP % os.getpid(), str(place), str(link), f"{place}.away"]
    with subprocess.Popen(command) as swapper:  # noqa: S603 - this test's own program
        try:
            yield
        finally:
            swapper.kill()


def registered(store: Store, source: Path) -> str:
    """All that a context of this source holds and names, or the error."""
    try:
        context = store.register_source(str(source))
    except RlmError as error:
        return str(error)
    texts = "".join(store.text(context, entry.path) for entry in store.files(context))
    return f"{texts} {store.files(context)} {store.skipped(context)} {context.notes}"


def fill(directory: Path, text: str, name: str) -> None:
    directory.mkdir(parents=True)
    for number in range(FILES):
        (directory / f"{name}{number}.txt").write_text(text)


@pytest.mark.parametrize("source", ["place", "place/below", "place/below/*.txt", ""])
@pytest.mark.parametrize("swaps", ["place", "place/below"])
def test_a_directory_swapped_for_a_link_does_not_lead_outside(tmp_path: Path, source: str, swaps: str) -> None:
    fill(tmp_path / "root" / "place" / "below", "inside", "inside")
    fill(tmp_path / "outside" / "below", "OUTSIDE", "OUTSIDE")
    fill(tmp_path / "outside2", "OUTSIDE", "OUTSIDE")
    target = tmp_path / ("outside" if swaps == "place" else "outside2")
    root = tmp_path / "root"
    with Store(tmp_path / "data", roots=[root]) as store, swapped(root / swaps, target):
        for _ in range(TRIES // 4):
            assert "OUTSIDE" not in registered(store, root / source)


@pytest.mark.parametrize("suffix", [".txt", ".html", ".zip", ".eml", ".ipynb"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_file_swapped_for_a_link_does_not_lead_outside(tmp_path: Path, suffix: str, alone: bool) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for path, text in ((root / f"place{suffix}", "inside"), (tmp_path / f"outside{suffix}", "OUTSIDE")):
        if suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a.txt", text)
        else:
            path.write_text(json.dumps({"cells": [{"source": text}]}) if suffix == ".ipynb" else f"<p>{text}</p>")
    outside = tmp_path / f"outside{suffix}"
    with Store(tmp_path / "data", roots=[root]) as store, swapped(root / f"place{suffix}", outside):
        for _ in range(TRIES // 2):
            source = root / f"place{suffix}" if alone else root
            assert "OUTSIDE" not in registered(store, source)


@pytest.mark.parametrize("place", [".git", ".git/objects"])
def test_a_repository_swapped_for_a_link_does_not_lead_outside(tmp_path: Path, place: str) -> None:
    for name in ("inside", "OUTSIDE"):
        directory = tmp_path / name.lower()
        directory.mkdir()
        (directory / "a.txt").write_text(name)
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
        for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", name]):
            command = [which("git") or "git", "-C", str(directory), *identity, *arguments]
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - git, with the arguments of this test
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    head = (outside / ".git" / "refs" / "heads" / "main").read_text().strip()
    with Store(tmp_path / "data", roots=[inside]) as store, swapped(inside / place, outside / place):
        for _ in range(TRIES // 4):
            for revision in ("main", head):
                assert "OUTSIDE" not in registered(store, Path(f"{inside}@{revision}"))


@pytest.mark.parametrize("opener", OPENERS)
def test_no_component_of_a_path_may_be_a_link(tmp_path: Path, opener: str) -> None:
    if opener == "openat2" and sys.platform != "linux":
        pytest.skip("a system call of Linux")
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "real" / "below" / "a.txt").write_text("a")
    (tmp_path / "real" / "b.txt").symlink_to("below/a.txt")
    (tmp_path / "link").symlink_to("real")
    descriptor = OPENERS[opener](tmp_path / "real" / "below" / "a.txt", no_links.FILE_FLAGS)
    if descriptor is None:
        pytest.skip("this kernel has no openat2")
    assert os.read(descriptor, 9) == b"a"
    os.close(descriptor)
    for name in ("link/below/a.txt", "real/b.txt", "link/b.txt"):
        with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
            OPENERS[opener](tmp_path / name, no_links.FILE_FLAGS)

from pathlib import Path
from typing import IO

import pytest

from rlm_mcp.files import replacing, try_lock


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path, sync=True) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert (path.read_text(), names(tmp_path)) == ("new", ["a.txt"])


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def break_off(file: IO[bytes]) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        break_off(file)
    assert (path.read_text(), names(tmp_path)) == ("old", ["a.txt"])


def test_the_new_file_has_the_mode_that_is_asked_for(tmp_path: Path) -> None:
    with replacing(tmp_path / "secret", mode=0o600) as file:
        file.write(b"x")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_the_new_file_can_be_written_in_another_directory(tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    with replacing(tmp_path / "a", part=tmp_path / "incoming" / "a") as file:
        file.write(b"x")
        assert names(tmp_path / "incoming") == ["a"]
    assert (names(tmp_path), names(tmp_path / "incoming")) == (["a", "incoming"], [])


def test_an_exclusive_lock_excludes_every_other_open_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with path.open("rb+") as first, path.open("rb+") as second:
        assert try_lock(first.fileno())
        assert not try_lock(second.fileno())
        assert not try_lock(second.fileno(), shared=True)
        first.close()
        assert try_lock(second.fileno())


def test_shared_locks_exclude_only_exclusive_ones(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with path.open("rb") as first, path.open("rb") as second:
        assert try_lock(first.fileno(), shared=True)
        assert try_lock(second.fileno(), shared=True)
        assert not try_lock(second.fileno())

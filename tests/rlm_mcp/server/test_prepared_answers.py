"""The file of prepared answers is used for the code that made it and for no other."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_mcp.server.prepared_answers import code_fingerprint, find_prepared, places, save_prepared

PREPARED = {"initialize": {"2025-06-18": {"ping": "{}"}}}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of two files, and beside it the metadata of what it is used with."""
    (tmp_path / "site" / "package" / "server").mkdir(parents=True)
    (tmp_path / "site" / "package" / "__init__.py").write_text("one")
    (tmp_path / "site" / "package" / "server" / "tools.py").write_text("two")
    (tmp_path / "site" / "mcp-2.3.0.dist-info").mkdir()
    (tmp_path / "site" / "anyio-4.9.dist-info").mkdir()
    return tmp_path / "site" / "package"


def fingerprint(package: Path) -> str:
    return code_fingerprint(package, [str(package.parent), "/nowhere"])


def edited(package: Path) -> None:
    (package / "server" / "tools.py").write_text("two and a half")


def touched(package: Path) -> None:
    os.utime(package / "server" / "tools.py", (1, 1))


def added(package: Path) -> None:
    (package / "server" / "more.py").touch()


def upgraded(package: Path) -> None:
    (package.parent / "mcp-2.3.0.dist-info").rename(package.parent / "mcp-2.3.1.dist-info")


@pytest.mark.parametrize("change", [edited, touched, added, upgraded])
def test_answers_of_other_code_are_not_used(change: Callable[[Path], None], package: Path, tmp_path: Path) -> None:
    files = places(tmp_path, package)
    before = fingerprint(package)
    save_prepared(PREPARED, files, before)
    assert find_prepared(files, before) == PREPARED
    change(package)
    assert find_prepared(files, fingerprint(package)) is None


def test_bytecode_and_other_distributions_do_not_matter(package: Path) -> None:
    before = fingerprint(package)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "left.py").touch()
    (package.parent / "anyio-4.9.dist-info").rename(package.parent / "anyio-4.10.dist-info")
    assert fingerprint(package) == before


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b"null", b'{"answers": {}}', b'{"fingerprint": "x"}', b"[" * 100_000]
)
def test_a_damaged_file_is_passed_over(content: bytes, package: Path, tmp_path: Path) -> None:
    beside, in_cache = places(tmp_path / "cache", package)
    beside.parent.mkdir()
    beside.write_bytes(content)
    assert find_prepared([beside, in_cache], "x") is None
    in_cache.parent.mkdir()
    in_cache.write_text(json.dumps({"fingerprint": "x", "answers": PREPARED}))
    assert find_prepared([beside, in_cache], "x") == PREPARED


def test_the_file_lies_beside_the_bytecode_or_where_that_cannot_be_in_the_cache_directory(
    package: Path, tmp_path: Path
) -> None:
    files = beside, in_cache = places(tmp_path / "cache", package)
    assert save_prepared(PREPARED, files, "x", beside_bytecode=False) == in_cache
    assert save_prepared(PREPARED, files, "x", beside_bytecode=True) == beside
    assert save_prepared(PREPARED, files, "x", beside_bytecode=False) == beside  # the directory is there
    beside.unlink()
    beside.parent.rmdir()
    beside.parent.touch()  # no directory, so nothing can be written there
    in_cache.unlink()
    assert save_prepared(PREPARED, files, "x", beside_bytecode=True) == in_cache
    assert find_prepared(files, "x") == PREPARED
    assert save_prepared(PREPARED, [beside], "x", beside_bytecode=True) is None

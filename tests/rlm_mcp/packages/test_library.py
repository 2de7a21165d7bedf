"""The images of a user, and which of them a setting or a record means."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlm_mcp.packages.library import PackageImage, PackageLibrary
from rlm_mcp.packages.types import PackageRefused, PackagesMissing


def write_image(folder: Path, sha256: str, *names: str) -> Path:
    folder.mkdir(parents=True)
    packages = [{"name": n, "version": "1", "imports": [n], "pure_part_only": n == "pyyaml"} for n in names]
    (folder / "manifest.json").write_text(json.dumps({"image": {"sha256": sha256}, "packages": packages}))
    return folder


@pytest.fixture
def library(tmp_path: Path) -> PackageLibrary:
    """Images a (numpy), b (numpy, pandas) and the prebuilt one; b is that of the set."""
    images = tmp_path / "data" / "packages" / "images"
    write_image(images / "1", "a", "numpy")
    write_image(images / "2", "b", "numpy", "pandas")
    chosen = {"requested": ["pandas"], "image": "2", "find_links": []}
    (tmp_path / "data" / "packages" / "set.json").write_text(json.dumps(chosen))
    return PackageLibrary(
        tmp_path / "data", data_folder=write_image(tmp_path / "prebuilt", "d", "lxml", "numpy", "pyyaml")
    )


@pytest.mark.parametrize(
    ("setting", "sha256"),
    [
        (None, "b"),
        (("none",), None),
        (("data",), "d"),
        (("numpy",), "a"),
        (("pandas",), "b"),
        (("lxml", "numpy"), "d"),
        (("PyYAML",), "d"),
    ],
)
def test_a_setting_chooses_the_smallest_image_that_has_what_it_names(
    library: PackageLibrary, setting: Sequence[str] | None, sha256: str | None
) -> None:
    chosen = library.choose(setting)
    assert (None if chosen is None else chosen.sha256) == sha256


def test_what_no_image_has_is_named_with_the_command_that_adds_it(library: PackageLibrary) -> None:
    with pytest.raises(PackagesMissing) as raised:
        library.choose(("numpy", "scipy"))
    assert str(raised.value) == "no image has the packages numpy, scipy: `rlm-mcp packages add scipy`"


def test_without_any_image_there_are_no_packages_and_data_is_refused(tmp_path: Path) -> None:
    library = PackageLibrary(tmp_path)
    assert (library.choose(None), library.images(), library.added()) == (None, [], ())
    with pytest.raises(PackagesMissing, match=r"install the wheel of rlm-mcp-data"):
        library.choose(("data",))


def test_an_image_is_found_by_the_sha256_that_a_record_names(library: PackageLibrary, tmp_path: Path) -> None:
    assert library.with_sha256("a") == PackageImage(
        folder=tmp_path / "data" / "packages" / "images" / "1", sha256="a", packages=("numpy 1",), imports=("numpy",)
    )
    assert library.with_sha256("x") is None


def test_a_folder_that_is_not_an_image_is_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "packages" / "images" / "x"
    folder.mkdir(parents=True)
    for text in ("", "{}", "[]", '{"packages": 1, "image": {"sha256": "a"}}'):
        (folder / "manifest.json").write_text(text)
        assert PackageLibrary(tmp_path).images() == []


def test_removing_what_was_not_added_is_refused(library: PackageLibrary, tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match="numpy was not added"):
        library.remove("numpy", cache_dir=tmp_path, report=lambda _: None)


def test_removing_the_last_package_leaves_the_standard_library(library: PackageLibrary, tmp_path: Path) -> None:
    assert library.remove("Pandas", cache_dir=tmp_path, report=lambda _: None) is None
    assert library.added() == ()

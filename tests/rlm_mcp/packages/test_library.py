"""The images of a user, and which of them a setting or a record means."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlm_mcp.packages.library import PackageImage, PackageLibrary
from rlm_mcp.packages.types import PackageRefused, PackagesMissing
from wasm_runtime.compile_cache import load_image


def write_image(folder: Path, sha256: str, *names: str, base: str = "base") -> Path:
    folder.mkdir(parents=True)
    packages = [{"name": n, "version": "1", "imports": [n], "pure_part_only": n == "pyyaml"} for n in names]
    facts = {"image": {"sha256": sha256}, "packages": packages, "base": base}
    (folder / "manifest.json").write_text(json.dumps(facts))
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
        tmp_path / "data", data_folder=write_image(tmp_path / "prebuilt", "d", "lxml", "numpy", "pyyaml"), base="base"
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


@pytest.mark.parametrize(("page_map", "sha256"), [(True, "d"), (False, None)])
def test_the_prebuilt_image_is_the_default_only_where_the_system_reports_written_pages(
    tmp_path: Path, page_map: bool, sha256: str | None
) -> None:
    prebuilt = write_image(tmp_path / "prebuilt", "d", "numpy")
    library = PackageLibrary(tmp_path, data_folder=prebuilt, base="base", page_map=page_map)
    chosen = library.choose(None)
    assert (None if chosen is None else chosen.sha256) == sha256
    assert library.choose(("data",)) == library.data_image()


def test_what_no_image_has_is_named_with_the_command_that_adds_it(library: PackageLibrary) -> None:
    with pytest.raises(PackagesMissing) as raised:
        library.choose(("numpy", "scipy"))
    assert str(raised.value) == "no image has the packages numpy, scipy: `rlm-mcp packages add scipy`"


@pytest.mark.parametrize(("setting", "word"), [(("data", "numpy"), "data"), (("numpy", "none"), "none")])
def test_none_and_data_are_given_alone(library: PackageLibrary, setting: tuple[str, ...], word: str) -> None:
    with pytest.raises(PackagesMissing) as raised:
        library.choose(setting)
    assert str(raised.value) == f"packages = {','.join(setting)}: {word} stands alone; give it, or names"


def test_without_any_image_there_are_no_packages_and_data_is_refused(tmp_path: Path) -> None:
    library = PackageLibrary(tmp_path)
    assert (library.choose(None), library.images(), library.added()) == (None, [], ())
    with pytest.raises(PackagesMissing, match=r"install it by `pip install '\.\[data\]' --find-links dist`"):
        library.choose(("data",))


def test_an_image_is_found_by_the_sha256_that_a_record_names(library: PackageLibrary, tmp_path: Path) -> None:
    assert library.used_by_run("a", ()) == PackageImage(
        folder=tmp_path / "data" / "packages" / "images" / "1",
        sha256="a",
        packages=("numpy 1",),
        imports=("numpy",),
        base="base",
    )
    assert library.used_by_run("x", ()) is None


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


def test_after_an_upgrade_of_the_sandbox_code_runs_without_its_old_images(tmp_path: Path) -> None:
    write_image(tmp_path / "packages" / "images" / "1", "old", "numpy", base="older")
    (tmp_path / "packages" / "set.json").write_text('{"requested": ["numpy"], "image": "1", "find_links": []}')
    library = PackageLibrary(tmp_path, base="newer")
    assert (library.choose(None), library.used_by_run("old", ["numpy 1"])) == (None, None)
    assert library.added() == ("numpy",)
    with pytest.raises(PackagesMissing, match="packages add numpy"):
        library.choose(("numpy",))


def test_a_run_goes_on_with_the_same_packages_that_were_baked_for_a_newer_sandbox(tmp_path: Path) -> None:
    write_image(tmp_path / "packages" / "images" / "1", "old", "numpy", base="older")
    write_image(tmp_path / "packages" / "images" / "2", "other", "numpy", "pandas", base="newer")
    write_image(tmp_path / "packages" / "images" / "3", "new", "numpy", base="newer")
    found = PackageLibrary(tmp_path, base="newer").used_by_run("old", ["numpy 1"])
    assert found is not None
    assert found.sha256 == "new"


def test_the_base_of_the_installed_sandbox_is_known_without_loading_it(tmp_path: Path) -> None:
    installed = load_image().sha256
    write_image(tmp_path / "packages" / "images" / "1", "fits", "numpy", base=installed)
    write_image(tmp_path / "packages" / "images" / "2", "older", "pandas", base="older")
    library = PackageLibrary(tmp_path)
    assert [library.is_current(image) for image in library.images()] == [True, False]


@pytest.mark.parametrize(
    "content",
    [
        "null",
        "[" * 5_000,
        '{"packages": []}',
        '{"requested": 5, "image": null, "find_links": []}',
        "not JSON",
        "\udcff",
    ],
)
def test_a_damaged_or_newer_set_is_no_set_and_is_not_replaced(tmp_path: Path, content: str) -> None:
    file = tmp_path / "packages" / "set.json"
    file.parent.mkdir()
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    library = PackageLibrary(tmp_path)
    assert (library.choose(None), library.added()) == (None, ())
    with pytest.raises(PackageRefused, match=r"set\.json is damaged or of a newer rlm-mcp"):
        library.add(["numpy"], cache_dir=tmp_path, report=lambda _: None)
    with pytest.raises(PackageRefused, match=r"set\.json is damaged or of a newer rlm-mcp"):
        library.remove("numpy", cache_dir=tmp_path, report=lambda _: None)
    assert file.read_bytes() == content.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("https://example.org/thing-1.0-py3-none-any.whl", "'https://example.org/thing-1.0-py3-none-any.whl' names an"),
        ("no/such-1.0-py3-none-any.whl", "there is no file no/such-1.0-py3-none-any.whl: give the path of a wheel"),
        ("dist/rlm_mcp_data-0.1.0-py3-none-any.whl", "rlm-mcp-data is an image for this program, not a package of the"),
    ],
)
def test_what_is_no_package_is_refused_as_it_was_given(tmp_path: Path, wanted: str, reason: str) -> None:
    library = PackageLibrary(tmp_path)
    with pytest.raises(PackageRefused) as raised:
        library.add([wanted], cache_dir=tmp_path, report=print)
    assert str(raised.value).startswith(reason)
    assert library.added() == ()

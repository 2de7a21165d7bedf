"""Wheel and sdist hold what belongs into them, and no more."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import rlm_mcp

ROOT = Path(__file__).parent.parent
NAME = f"rlm_mcp-{rlm_mcp.__version__}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True)  # noqa: S603 - our own build
    return folder


def tracked(*folders: str) -> set[str]:
    """The files of folders that belong to the project: no caches, no leftovers of editors."""
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    return {path.relative_to(ROOT).as_posix() for path in paths if path.is_file() and "__pycache__" not in path.parts}


def test_the_wheel_holds_the_two_packages_and_its_metadata(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if ".dist-info/" not in name} == tracked("rlm_mcp", "wasm_runtime")
    licences = {
        f"{NAME}.dist-info/licenses/{name}" for name in ("LICENSE", "NOTICE", *tracked("wasm_runtime/image/licenses"))
    }
    metadata = {f"{NAME}.dist-info/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    assert {name for name in names if ".dist-info/" in name} == licences | metadata


def test_the_sdist_holds_what_its_tests_need_and_no_leftovers(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.removeprefix(f"{NAME}/") for member in archive if member.isfile()}
    folders = {"rlm_mcp", "wasm_runtime", "tests", "benchmarks", "bundle", "plugin", "docs"}
    needed = {name for name in tracked(*folders) if not name.startswith("docs/images/")}
    assert {name for name in names if name.partition("/")[0] in folders} == needed
    assert {name for name in names if "/" not in name} == {
        *("pyproject.toml", "PKG-INFO", ".gitignore", "requirements.lock", "server.json"),
        *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "LICENSE", "NOTICE"),
    }


def test_each_package_takes_12_megabytes_at_most(built: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in built.iterdir()}
    assert {name: size for name, size in sizes.items() if size > 12_000_000} == {}

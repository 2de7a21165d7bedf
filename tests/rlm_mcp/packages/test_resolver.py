"""Resolving packages, with a pip that serves wheels from a dict."""

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlm_mcp.packages.resolver import resolve
from rlm_mcp.packages.types import PackageRefused, Report

GUEST = "cp314-cp314-pyemscripten_2026_0_wasm32"
LINUX = "cp314-cp314-manylinux_2_28_x86_64"
NO_WHEEL = """\
ERROR: Could not find a version that satisfies the requirement {name} (from versions: {versions})
ERROR: No matching distribution found for {name}
"""


class Pip:
    """Downloads what is asked for from `index`: name -> (tags, requirements). Needs of its own are not followed."""

    def __init__(self, index: dict[str, tuple[str, list[str]]]) -> None:
        self.index, self.asked = index, list[Sequence[str]]()

    def __call__(self, arguments: Sequence[str], report: Report) -> tuple[int, str]:
        options = [a for a in arguments if a.startswith("--")]
        names = [a for a in arguments[1:] if not a.startswith("--")]
        self.asked.append(names)
        folder = Path(next(o for o in options if o.startswith("--dest=")).removeprefix("--dest="))
        folder.mkdir(parents=True, exist_ok=True)
        foreign = any("manylinux" in option for option in options)
        folders = [Path(o.removeprefix("--find-links=")) for o in options if o.startswith("--find-links=")]
        pure = {path.name.split("-")[0]: path for wheels in folders for path in wheels.glob("*.whl")}
        for name in names:
            tags, requirements = self.index.get(name, ("", []))
            if name in pure:
                shutil.copy(pure[name], folder)
                continue
            if not tags or ("manylinux" in tags and not foreign):
                return 1, NO_WHEEL.format(name=name, versions="none")
            write_wheel(folder, name, tags, requirements)
        return 0, ""


def write_wheel(folder: Path, name: str, tags: str, requirements: Sequence[str]) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-{tags}.whl", "w") as wheel:
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", "".join(f"Requires-Dist: {r}\n" for r in requirements))
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tags}\n")
        wheel.writestr(f"{name}/__init__.py", "")
        if "linux" in tags:
            wheel.writestr(f"{name}/_fast.cpython-314-x86_64-linux-gnu.so", "ELF")


def resolved(pip: Pip, folder: Path, *wanted: str) -> tuple[list[str], tuple[str, ...]]:
    found = resolve(wanted, folder, find_links=["wheels"], report=lambda _: None, run_pip=pip)
    return [wheel.name for wheel in found.wheels], found.pure_only


def test_wheels_of_the_guest_are_taken(tmp_path: Path) -> None:
    assert resolved(Pip({"msgspec": (GUEST, []), "six": ("py3-none-any", [])}), tmp_path, "msgspec", "six") == (
        ["msgspec", "six"],
        (),
    )


def test_requirements_that_hold_in_the_guest_only_are_asked_for_too(tmp_path: Path) -> None:
    here, elsewhere = "six; sys_platform == 'emscripten'", "colorama; sys_platform == 'win32'"
    pip = Pip({"thing": (GUEST, [here, elsewhere, "lxml; extra == 'all'", "tzdata"]), "six": ("py3-none-any", [])})
    assert resolved(pip, tmp_path, "thing") == (["six", "thing"], ())
    assert pip.asked == [["thing"], ["thing", "six"]]


def test_where_no_wheel_is_for_the_guest_the_pure_part_of_another_is_taken_and_told(tmp_path: Path) -> None:
    pip = Pip({"pyyaml": (LINUX, [])})
    found = resolve(["pyyaml"], tmp_path, find_links=["wheels"], report=lambda _: None, run_pip=pip)
    assert found.pure_only == ("pyyaml",)
    assert [(w.name, w.of_another_platform, w.compiled) for w in found.wheels] == [("pyyaml", True, {})]


def test_a_package_without_any_wheel_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match="there is no nothing, neither for the sandbox"):
        resolved(Pip({}), tmp_path, "nothing")


@pytest.mark.parametrize(
    ("requirement", "here", "elsewhere", "reason"),
    [
        (
            "numpy==99",
            "none",
            "2.4, 2.5",
            "there is no numpy==99: the newest versions for other platforms are 2.4, 2.5",
        ),
        (
            "six<1 (from thing)",
            "1.0, 1.1",
            "1.0, 1.1, 1.2",
            "there is no six<1, which thing needs: the newest versions for the sandbox are 1.0, 1.1",
        ),
        (
            "a>=2 (from b->c)",
            "none",
            "none",
            "there is no a, which b needs, neither for the sandbox",
        ),
        (
            'a>=2; python_version > "3" (from b)',
            "none",
            "none",
            "there is no a, which b needs, neither for the sandbox",
        ),
    ],
)
def test_what_is_missing_is_told_with_what_needs_it_and_the_versions_there_are(
    tmp_path: Path, requirement: str, here: str, elsewhere: str, reason: str
) -> None:
    def pip(arguments: Sequence[str], _: Report) -> tuple[int, str]:
        foreign = any("manylinux" in argument for argument in arguments)
        return 1, NO_WHEEL.format(name=requirement, versions=elsewhere if foreign else here)

    with pytest.raises(PackageRefused) as raised:
        resolve(["thing"], tmp_path, report=lambda _: None, run_pip=pip)
    assert str(raised.value).startswith(reason)


def test_the_pure_part_is_that_of_the_version_asked_for(tmp_path: Path) -> None:
    asked = list[str]()

    def pip(arguments: Sequence[str], _: Report) -> tuple[int, str]:
        asked.append(arguments[-1])
        return 1, NO_WHEEL.format(name="numpy==2.1", versions="none")

    with pytest.raises(PackageRefused):
        resolve(["numpy==2.1"], tmp_path, report=lambda _: None, run_pip=pip)
    assert asked == ["numpy==2.1", "numpy==2.1"]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        (LINUX, "thing-1.0-cp314-cp314-manylinux_2_28_x86_64.whl is for another platform: give one for any"),
        ("cp312-cp312-pyemscripten_2026_0_wasm32", "thing 1.0 is for cp312-cp312: the sandbox runs Python 3.14"),
    ],
)
def test_a_file_that_the_guest_cannot_use_is_refused_before_pip_runs(tmp_path: Path, tags: str, reason: str) -> None:
    write_wheel(tmp_path, "thing", tags, [])
    pip = Pip({})
    with pytest.raises(PackageRefused) as raised:
        resolved(pip, tmp_path, str(tmp_path / f"thing-1.0-{tags}.whl"))
    assert (str(raised.value).startswith(reason), pip.asked) == (True, [])


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("--index-url=evil", "is no package"),
        ("a b", "is no package"),
        ("thing @ https://example.org/thing", "names an address"),
        ("thing @ file:/tmp/thing", "names an address"),
        ("thing @ ./thing", "names an address"),
        ("https://example.org/thing-1.0-py3-none-any.whl", "names an address"),
        ("missing.whl", "there is no file"),
    ],
)
def test_what_is_no_requirement_never_reaches_pip(tmp_path: Path, wanted: str, reason: str) -> None:
    pip = Pip({})
    with pytest.raises(PackageRefused, match=reason):
        resolved(pip, tmp_path, wanted)
    assert pip.asked == []


def test_wheels_of_pyodides_release_are_offered_with_the_hashes_of_its_lock(tmp_path: Path) -> None:
    resolve(["six"], tmp_path, report=lambda _: None, run_pip=Pip({"six": ("py3-none-any", [])}))
    page = (tmp_path / "pyodide.html").read_text()
    assert len(page.splitlines()) == 287
    numpy = "numpy-2.4.6-cp314-cp314-pyemscripten_2026_0_wasm32.whl"
    assert (
        f"/pyodide/v314.0.7/full/{numpy}#sha256=a292c1f5d7d8a2208cd5e94fc467604c131cabcd2fc14fed6eefde121e7fabdf"
        in page
    )


def test_without_pyodides_server_the_index_alone_is_asked(tmp_path: Path) -> None:
    pip, told = Pip({"six": ("py3-none-any", [])}), list[str]()

    def unreachable(arguments: Sequence[str], report: Report) -> tuple[int, str]:
        if any("pyodide.html" in argument for argument in arguments):
            return 1, "ConnectionError: HTTPSConnectionPool(host='cdn.jsdelivr.net', port=443)"
        return pip(arguments, report)

    found = resolve(["six"], tmp_path, report=told.append, run_pip=unreachable)
    assert [wheel.name for wheel in found.wheels] == ["six"]
    assert told == ["Pyodide's file server cannot be reached: looking in the package index only"]

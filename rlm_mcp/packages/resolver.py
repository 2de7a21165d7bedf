"""Finds the wheels of packages and of all that they need, with pip.

Wheels with the guest's tags come from the package index, and besides from Pyodide's own file server or, instead of it,
from the folders and addresses given as `find_links`. pip checks the hashes that an index gives; for the wheels of
Pyodide's release they are those of its lock. Where a package has wheels for other platforms only, the pure part of one
is taken, which is told to the user.

pip evaluates the conditions of requirements for the Python that it runs in, so what they mean in the guest is looked at
here, and pip is run again with what is missing.
"""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from rlm_mcp.packages.types import PackageRefused, Report
from wasm_runtime.build.side_module import BadPackage
from wasm_runtime.build.wheel import PLATFORM, Wheel, normalized, read_wheel, requirements

PYODIDE_HOST = "cdn.jsdelivr.net"
PYODIDE_FILES = f"https://{PYODIDE_HOST}/pyodide/v314.0.7/full/"
_FOREIGN = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
_TARGET = (
    "--only-binary=:all:",
    "--python-version=3.14",
    "--implementation=cp",
    "--abi=cp314",
    "--abi=abi3",
    "--abi=none",
)
# What pip says of a requirement that no wheel meets: which, of what, and which versions there are.
_NO_WHEEL = re.compile(
    r"satisfies the requirement (?P<requirement>(?P<name>[A-Za-z0-9][\w.-]*)[^ ;()]*)[^()\n]*"
    r"(?:\(from (?!versions)(?P<needed_by>[^()]*)\) )?\(from versions: (?P<versions>[^()\n]*)\)"
)
_MOST_VERSIONS = 5
_MOST_ROUNDS = 20
# What conditions of requirements mean in the guest.
_GUEST = {
    "implementation_name": "cpython",
    "implementation_version": "3.14.2",
    "os_name": "posix",
    "platform_machine": "wasm32",
    "platform_python_implementation": "CPython",
    "platform_release": "",
    "platform_system": "Emscripten",
    "platform_version": "",
    "python_full_version": "3.14.2",
    "python_version": "3.14",
    "sys_platform": "emscripten",
    "extra": "",
}
# The sandbox has the time zones itself.
_PROVIDED = frozenset({"tzdata"})

RunPip = Callable[[Sequence[str], Report], tuple[int, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedWheels:
    """The wheels of a set of packages, and the names of those of which only the pure part is there."""

    wheels: tuple[Wheel, ...] = field(repr=False)
    pure_only: tuple[str, ...]


def resolve(
    wanted: Sequence[str],
    folder: Path,
    *,
    find_links: Sequence[str] = (),
    report: Report,
    run_pip: RunPip | None = None,
) -> ResolvedWheels:
    """Download into `folder` the wheels for these requirements or wheel files. Raises PackageRefused."""
    run_pip = run_pip or _run_pip
    names, pure_only = [_checked(requirement) for requirement in wanted], set[str]()
    links = _links(folder, find_links)
    for _ in range(_MOST_ROUNDS):
        pure = folder / "pure"
        pure.mkdir(parents=True, exist_ok=True)
        with_pure = [*links, f"--find-links={pure}"]
        download = folder / "resolved"
        shutil.rmtree(download, ignore_errors=True)
        status, output = run_pip(
            ["download", f"--dest={download}", f"--platform={PLATFORM}", *_TARGET, *with_pure, *names], report
        )
        if status and links and PYODIDE_HOST in output:
            report("Pyodide's file server cannot be reached: looking in the package index only")
            links = list[str]()
            continue
        if status:
            pure_only.add(_take_pure_part(output, folder, pure_only, report, run_pip))
            continue
        wheels = _read(download)
        missing = _missing(wheels)
        if not missing:
            return ResolvedWheels(wheels=wheels, pure_only=tuple(sorted(pure_only)))
        names += missing
    raise PackageRefused(f"{', '.join(wanted)} cannot be resolved in {_MOST_ROUNDS} rounds: name exact versions")


def _checked(text: str) -> str:
    """The requirement, or the absolute path of the wheel, for pip. Raises PackageRefused."""
    if "://" in text:
        raise PackageRefused(f"{text!r} names an address: download the wheel and give its path")
    if text.endswith(".whl"):
        return _checked_file(Path(text))
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise PackageRefused(f"{text!r} is no package: give NAME, NAME==VERSION or the path of a wheel") from error
    if requirement.url is not None:
        raise PackageRefused(f"{text!r} names an address: download the wheel and give its path")
    return str(requirement)


def _checked_file(path: Path) -> str:
    if not path.is_file():
        raise PackageRefused(f"there is no file {path}: give the path of a wheel, or NAME or NAME==VERSION")
    try:
        wheel = read_wheel(path)
    except BadPackage as error:
        raise PackageRefused(str(error)) from error
    if wheel.of_another_platform:
        raise PackageRefused(
            f"{path.name} is for another platform: give one for any platform or for {PLATFORM}, or its name, "
            f"{wheel.name}, to have one looked for"
        )
    return str(path.resolve())


def _links(folder: Path, find_links: Sequence[str]) -> list[str]:
    """The options for pip; the wheels of Pyodide's release are offered as a page of links with hashes."""
    if find_links:
        return [f"--find-links={link}" for link in find_links]
    page = folder / "pyodide.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(
        "".join(f'<a href="{PYODIDE_FILES}{name}#sha256={sha256}">{name}</a>\n' for name, sha256 in _lock().items())
    )
    return [f"--find-links={page}"]


def _lock() -> dict[str, str]:
    """The wheels of Pyodide's release, by file name, with their sha256."""
    return dict(json.loads(files("wasm_runtime.build").joinpath("pyodide_lock.json").read_text()))


def _read(folder: Path) -> tuple[Wheel, ...]:
    wheels = []
    for path in sorted(folder.glob("*.whl")):
        try:
            wheels.append(read_wheel(path))
        except BadPackage as error:
            raise PackageRefused(str(error)) from error
    return tuple(wheel for wheel in wheels if wheel.name not in _PROVIDED)


def _missing(wheels: Iterable[Wheel]) -> list[str]:
    """Requirements that hold in the guest, of packages that are not there."""
    wheels = list(wheels)
    there = {wheel.name for wheel in wheels} | _PROVIDED
    found: dict[str, None] = {}
    for wheel in wheels:
        for line in requirements(wheel):
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue
            needed = requirement.marker is None or requirement.marker.evaluate(_GUEST)
            if needed and normalized(requirement.name) not in there:
                found[f"{requirement.name}{requirement.specifier}"] = None
    return list(found)


def _take_pure_part(output: str, folder: Path, tried: set[str], report: Report, run_pip: RunPip) -> str:
    """Make a wheel without compiled modules of the package that has none for the guest; -> its name."""
    missing = _NO_WHEEL.search(output)
    if missing is None or missing["name"] in tried:
        lines = output.strip().splitlines() or ["it printed nothing"]
        told = [line for line in lines if line.startswith("ERROR") and "Exception" not in line] or lines
        raise PackageRefused(f"pip found no wheels for the sandbox: {told[-1]}")
    name = missing["name"]
    foreign = folder / "foreign"
    shutil.rmtree(foreign, ignore_errors=True)
    platforms = [f"--platform={platform}" for platform in _FOREIGN]
    options = [f"--dest={foreign}", "--no-deps", *platforms, *_TARGET]
    status, output = run_pip(["download", *options, missing["requirement"]], report)
    found = next(iter(sorted(foreign.glob("*.whl"))), None) if status == 0 else None
    if found is None:
        raise PackageRefused(_why_none(missing, _NO_WHEEL.search(output)))
    report(f"{name} has no wheel for the sandbox: trying the Python part of {found.name}, which is slower if it works")
    _write_pure(found, folder / "pure")
    return name


def _why_none(here: re.Match[str], elsewhere: re.Match[str] | None) -> str:
    """Why there is no wheel, by what pip said when it looked for those of the guest, and of another platform."""
    by = f", which {here['needed_by'].partition('->')[0].strip()} needs" if here["needed_by"] else ""
    both = {"the newest versions for the sandbox": here, "the newest versions for other platforms": elsewhere}
    found = {which: one["versions"].split(", ") for which, one in both.items() if one and one["versions"] != "none"}
    if not found:
        return (
            f"there is no {here['name']}{by}, neither for the sandbox ({PLATFORM}, Python 3.14) nor one whose Python "
            "part can be taken: check its name, or give a wheel's path, or a folder of wheels with --find-links"
        )
    which, versions = next(iter(found.items()))
    return f"there is no {here['requirement']}{by}: {which} are {', '.join(versions[-_MOST_VERSIONS:])}"


def _write_pure(wheel: Path, folder: Path) -> None:
    name, version = wheel.name.split("-")[:2]
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for entry in source.infolist():
            if not entry.is_dir() and ".so" not in Path(entry.filename).suffixes and ".libs/" not in entry.filename:
                # With a constant date: the same wheel gives the same file.
                made.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))


def _run_pip(arguments: Sequence[str], report: Report) -> tuple[int, str]:
    """Run pip, or uv's if this environment has none; -> its exit status and its output."""
    if find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip"]
    elif uv := shutil.which("uv"):
        command = [uv, "tool", "run", "pip"]
    else:
        raise PackageRefused("neither pip nor uv is installed, one of which resolves packages: install one of them")
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    verb, *rest = arguments
    process = subprocess.Popen(  # noqa: S603 - a fixed program; requirements were checked
        [*command, verb, *options, *rest], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    lines = []
    with process:
        for line in process.stdout or ():
            lines.append(line)
            if line.startswith(("  Downloading ", "Downloading ")):
                report(line.strip())
    return process.returncode, "".join(lines)

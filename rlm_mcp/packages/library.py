"""The images with packages that this user has: baked ones below the data directory, and the one of `rlm-mcp-data`.

    packages/set.json        what was added, and which image holds it
    packages/images/<key>/   an image that `Runtime(image=…)` takes; the key is of the wheels and of the base image
    packages/download/       what the last `add` downloaded

An image is written once, never changed and never removed: the record of a run may name it.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlm_mcp.files import replacing
from rlm_mcp.packages.types import PackageRefused, PackagesMissing, Report

_log = logging.getLogger(__name__)

_NO_SET: Mapping[str, Any] = {"requested": [], "image": None, "find_links": []}

DATA_PACKAGE = "rlm_mcp_data"
"""The Python package that holds the image of `rlm-mcp-data`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageImage:
    """One image, by the manifest in its folder."""

    folder: Path
    sha256: str
    packages: tuple[str, ...]
    """"name version" of each wheel"""
    imports: tuple[str, ...]
    """the names that code imports"""
    pure_only: tuple[str, ...] = ()
    """packages without their compiled part"""
    base: str | None = None
    """the image that it was baked from; another version of the sandbox cannot load it"""

    @property
    def names(self) -> frozenset[str]:
        """The normalised names of the packages."""
        return frozenset(canonical_name(package.split()[0]) for package in self.packages)


def canonical_name(name: str) -> str:
    """A project's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def folder_of(image: PackageImage | None) -> Path | None:
    """The folder of an image; None for that without packages."""
    return None if image is None else image.folder


def read_image(folder: Path) -> PackageImage | None:
    """The image in a folder; None if there is none, or one that cannot be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        packages = manifest["packages"]
        return PackageImage(
            folder=folder,
            sha256=manifest["image"]["sha256"],
            packages=tuple(f"{package['name']} {package['version']}" for package in packages),
            imports=tuple(sorted(name for package in packages for name in package["imports"])),
            pure_only=tuple(package["name"] for package in packages if package["pure_part_only"]),
            base=manifest.get("base"),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


class PackageLibrary:
    """The packages of one user.

    `data_folder` is that of the prebuilt image, by default where it is installed. `base` is the SHA-256 of the image
    without packages, by default of that in `wasm_runtime`. `page_map` is whether this system reports written pages; it
    is asked by default.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        data_folder: Path | None = None,
        base: str | None = None,
        page_map: bool | None = None,
    ) -> None:
        self._folder = data_dir / "packages"
        self._page_map = page_map
        self._data_folder = data_folder or _installed_data_folder()
        self._base = base

    def __repr__(self) -> str:
        return f"<PackageLibrary {self._folder}, {len(self.images())} images>"

    def images(self) -> list[PackageImage]:
        """The baked images, then the prebuilt one."""
        folders = sorted((self._folder / "images").glob("*")) if self._folder.exists() else []
        found = [read_image(folder) for folder in folders if not folder.name.startswith(".")]
        return [image for image in (*found, self.data_image()) if image is not None]

    def data_image(self) -> PackageImage | None:
        """The prebuilt image, if it is installed."""
        return None if self._data_folder is None else read_image(self._data_folder)

    def added(self) -> tuple[str, ...]:
        """The requirements that were added, as they were given."""
        return tuple(self._read_set().get("requested", ()))

    def added_image(self) -> PackageImage | None:
        """The image of what was added."""
        key = self._read_set().get("image")
        return None if not isinstance(key, str) else read_image(self._folder / "images" / key)

    def choose(self, setting: Sequence[str] | None) -> PackageImage | None:
        """The image for a value of the setting `packages`; None is the image without packages.

        Unset, it is what was added, else the prebuilt image where cells do not become slower by its size: where the
        system reports written pages. Raises PackagesMissing.
        """
        if setting is None:
            prebuilt = self.data_image() if self._has_page_map() else None
            return self._current(self.added_image()) or self._current(prebuilt)
        if list(setting) == ["none"]:
            return None
        if list(setting) == ["data"]:
            image = self._current(self.data_image())
            if image is None:
                raise PackagesMissing(
                    "packages = data needs the prebuilt image: build its wheel in a checkout by `python bundle/data.py"
                    " dist`, and install it by `pip install '.[data]' --find-links dist`"
                )
            return image
        wanted = {canonical_name(name) for name in setting}
        if alone := sorted(wanted & {"none", "data"}):
            raise PackagesMissing(f"packages = {','.join(setting)}: {alone[0]} stands alone; give it, or names")
        current = [image for image in self.images() if self.is_current(image)]
        images = [image for image in current if wanted <= image.names]
        if not images:
            there = set[str]().union(*(image.names for image in current))
            lacking = sorted(wanted - there) or sorted(wanted)
            raise PackagesMissing(
                f"no image has the packages {', '.join(sorted(wanted))}: `rlm-mcp packages add {' '.join(lacking)}`"
            )
        return min(images, key=lambda image: (len(image.packages), image.sha256))

    def used_by_run(self, sha256: str, packages: Sequence[str]) -> PackageImage | None:
        """The image that a run has used or, after an upgrade of the sandbox, one with the same packages."""
        current = [image for image in self.images() if self.is_current(image)]
        same = (image for image in current if image.packages and set(image.packages) == set(packages))
        return next((image for image in current if image.sha256 == sha256), None) or next(same, None)

    def is_current(self, image: PackageImage) -> bool:
        """Whether this version of the sandbox can load an image."""
        return image.base is None or image.base == (self._base or _own_base())

    def _current(self, image: PackageImage | None) -> PackageImage | None:
        """The image, unless it is one of another version of the sandbox, which is logged."""
        if image is None or self.is_current(image):
            return image
        _log.warning(
            "%s is of another version of the sandbox, so that code runs without it: `rlm-mcp packages bake` bakes it "
            "again",
            image.folder,
        )
        return None

    def add(
        self, wanted: Sequence[str], *, cache_dir: Path, find_links: Sequence[str] = (), report: Report
    ) -> PackageImage:
        """Add packages to the set, and bake its image. Raises PackageRefused; the set is then as it was."""
        self._check_set()
        if canonical_name(DATA_PACKAGE) in map(_project, wanted):
            raise PackageRefused(
                "rlm-mcp-data is an image for this program, not a package of the sandbox: install its wheel beside "
                "rlm-mcp, with pip"
            )
        kept = [one for one in self.added() if _project(one) not in {_project(new) for new in wanted}]
        # They are read again by later commands, which may run in another folder.
        new = [str(Path(one).resolve()) if one.endswith(".whl") and Path(one).is_file() else one for one in wanted]
        links = [str(Path(link).resolve()) if Path(link).exists() else link for link in find_links]
        return self.bake([*kept, *new], cache_dir=cache_dir, find_links=links, report=report)

    def remove(self, name: str, *, cache_dir: Path, report: Report) -> PackageImage | None:
        """Take a package off the set and bake the rest; None if nothing is left. Raises PackageRefused."""
        self._check_set()
        rest = [one for one in self.added() if _project(one) != canonical_name(name)]
        if len(rest) == len(self.added()):
            raise PackageRefused(f"{name} was not added: `rlm-mcp packages` lists what was")
        if not rest:
            self._write_set([], None, [])
            return None
        return self.bake(rest, cache_dir=cache_dir, report=report)

    def bake(
        self, requested: Sequence[str], *, cache_dir: Path, find_links: Sequence[str] = (), report: Report
    ) -> PackageImage:
        """Resolve, bake and compile the image of these packages, and make it that of the set. Raises PackageRefused."""
        try:
            from rlm_mcp.packages.resolver import resolve
            from wasm_runtime import Runtime
            from wasm_runtime.build.packages import bake_image
            from wasm_runtime.build.side_module import BadPackage
        except ModuleNotFoundError as error:
            if not str(error.name).startswith("wasm_runtime.build"):
                raise
            raise PackageRefused(
                "this build of rlm-mcp (such as the MCP bundle) cannot bake images: install rlm-mcp with pip or uv, and"
                " run the same command there with the same data directory"
            ) from error
        self._check_set()
        # Packages that were added before may be in the places that were named then.
        links = list(dict.fromkeys([*self._find_links(), *find_links]))
        resolved = resolve(requested, self._folder / "download", find_links=links, report=report)
        with Runtime(cache_dir, on_progress=report) as runtime:
            needed_only = {wheel.name for wheel in resolved.wheels} - {_project(one) for one in requested}
            wheels = (wheel.sha256 for wheel in resolved.wheels)
            key = _key([runtime.image.sha256, *sorted(wheels), *sorted(needed_only)])
            folder = self._folder / "images" / key
            if read_image(folder) is None:
                shutil.rmtree(folder, ignore_errors=True)
                try:
                    bake_image(resolved.wheels, folder, runtime=runtime, on_progress=report, needed_only=needed_only)
                except BadPackage as error:
                    raise PackageRefused(_refusal(str(error), resolved.pure_only)) from error
        Runtime(cache_dir, image=folder, on_progress=report).close()  # compiles it, so that no session waits for that
        self._write_set(requested, key, links)
        image = read_image(folder)
        if image is None:
            raise PackageRefused(f"the image in {folder} cannot be read back: bake it again")
        return image

    def _has_page_map(self) -> bool:
        from wasm_runtime.machine.mapped_pages import page_map_available

        return page_map_available() if self._page_map is None else self._page_map

    def _find_links(self) -> list[str]:
        return [str(link) for link in self._read_set().get("find_links", ())]

    def _read_set(self) -> Mapping[str, Any]:
        """The packages that were added; none if the file cannot be read, which is then not replaced."""
        return self._known_set() or _NO_SET

    def _known_set(self) -> Mapping[str, Any] | None:
        """The content of the file, if it is what `_write_set` writes."""
        try:
            found = json.loads((self._folder / "set.json").read_text("utf-8"))
        except FileNotFoundError:
            return _NO_SET
        except (OSError, ValueError, RecursionError):
            return None
        names = ("requested", "find_links")
        is_known = isinstance(found, dict) and all(_is_texts(found.get(name)) for name in names)
        return found if is_known and isinstance(found.get("image"), str | None) else None

    def _check_set(self) -> None:
        """Raises PackageRefused if the file would be lost by being replaced."""
        if self._known_set() is None:
            raise PackageRefused(
                f"{self._folder / 'set.json'} is damaged or of a newer rlm-mcp, so that it is not replaced: repair it "
                "or move it away"
            )

    def _write_set(self, requested: Sequence[str], image: str | None, find_links: Sequence[str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"requested": list(requested), "image": image, "find_links": list(find_links)}, indent=2)
        with replacing(self._folder / "set.json") as file:
            file.write(text.encode())


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _own_base() -> str:
    """The SHA-256 of the image without packages; empty if there is none. It is read without loading the sandbox."""
    spec = find_spec("wasm_runtime")
    folders = spec.submodule_search_locations if spec is not None else None
    try:
        manifest = json.loads(Path(next(iter(folders or ())), "image", "manifest.json").read_text("utf-8"))
        return str(manifest["image"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return ""


def _refusal(reason: str, pure_only: Sequence[str]) -> str:
    if not pure_only:
        return reason
    return f"{reason}\n(Of {', '.join(pure_only)} only the Python part was there, because no wheel is for the sandbox.)"


def _key(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _project(requirement: str) -> str:
    """The normalised name of what was asked for: a requirement, or the path of a wheel."""
    if requirement.endswith(".whl"):
        return canonical_name(Path(requirement).name.partition("-")[0])
    name = re.match(r"[\w.-]+", requirement)
    return canonical_name(name[0] if name else requirement)


def _installed_data_folder() -> Path | None:
    found = find_spec(DATA_PACKAGE)
    return None if found is None or found.origin is None else Path(found.origin).parent / "image"

"""Wheels for the guest: their names and tags, their files, what they need."""

import hashlib
import re
import zipfile
from dataclasses import dataclass, field
from email.parser import HeaderParser
from io import BytesIO
from pathlib import Path

from wasm_runtime.build.pins import CPYTHON_VERSION
from wasm_runtime.build.side_module import BadPackage

PLATFORM = "pyemscripten_2026_0_wasm32"
PYTHON_TAG = "cp" + "".join(CPYTHON_VERSION.split(".")[:2])
# The largest real wheels (scipy, matplotlib) unpack to 60 MB.
_MOST_BYTES, _MOST_FILES = 512 << 20, 50_000
# What only a compiler or a type checker reads, and what an installer wrote for itself.
_LEFT_OUT = (".pyi", ".h", ".hpp", ".pxd", ".pyx", ".c", ".cpp", ".a", ".lib", "/RECORD", "/WHEEL")
_FILE_NAME = re.compile(
    r"(?P<name>[^-]+)-(?P<version>[^-]+)(?:-\d[^-]*)?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)"
)
_COMPILED = ".so"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """One wheel in memory. `files` are by their path below site-packages, without compiled modules."""

    name: str
    version: str
    sha256: str
    files: dict[str, bytes] = field(repr=False)
    compiled: dict[str, bytes] = field(repr=False)
    of_another_platform: bool  # its compiled modules are left out

    @property
    def import_names(self) -> list[str]:
        """The names under which Python imports what is in the wheel, without private ones."""
        found = set()
        for path in [*self.files, *self.compiled]:
            top, _, rest = path.partition("/")
            if rest in ("__init__.py", "__init__.pyc") or (not rest and top.endswith((".py", _COMPILED))):
                found.add(top.partition(".")[0])
        return sorted(name for name in found if name.isidentifier() and not name.startswith("_"))


def read_wheel(path: Path) -> Wheel:
    """Read a wheel. Raises BadPackage, with the reason, for one that the guest cannot use."""
    name, version, is_foreign = _check_name(path.name)
    try:
        data = path.read_bytes()
        files = _unpack(path.name, data)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise BadPackage(f"{path.name} cannot be read as a wheel ({error}): download it again") from error
    compiled = {file: content for file, content in files.items() if file.endswith(_COMPILED)}
    rest = {file: content for file, content in files.items() if file not in compiled and not file.endswith(_LEFT_OUT)}
    return Wheel(
        name=name,
        version=version,
        sha256=hashlib.sha256(data).hexdigest(),
        files=rest,
        compiled={} if is_foreign else compiled,
        of_another_platform=is_foreign or not _says_any_platform(files),
    )


def requirements(wheel: Wheel) -> list[str]:
    """Return the lines Requires-Dist of a wheel."""
    metadata = next((data for path, data in wheel.files.items() if path.endswith(".dist-info/METADATA")), b"")
    parsed = HeaderParser().parsestr(metadata.decode(errors="replace"))
    return parsed.get_all("Requires-Dist") or []


def normalized(name: str) -> str:
    """Return a project's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _check_name(file_name: str) -> tuple[str, str, bool]:
    """Return name, version, and whether the compiled modules are of another platform."""
    found = _FILE_NAME.fullmatch(file_name.removesuffix(".whl")) if file_name.endswith(".whl") else None
    if found is None:
        raise BadPackage(f"{file_name} is not named like a wheel (NAME-VERSION-PYTHON-ABI-PLATFORM.whl)")
    pythons, abis, platforms = (found[part].split(".") for part in ("python", "abi", "platform"))
    name, version = normalized(found["name"]), found["version"]
    if platforms == ["any"]:
        if not {"py3", "py314", PYTHON_TAG}.intersection(pythons):
            raise BadPackage(f"{name} {version} is for {found['python']}: the sandbox runs Python {CPYTHON_VERSION}")
        return name, version, False
    if PLATFORM in platforms:
        fits = PYTHON_TAG in pythons or ("abi3" in abis and any(python.startswith("cp3") for python in pythons))
        if not fits or not {PYTHON_TAG, "abi3", "none"}.intersection(abis):
            raise BadPackage(
                f"{name} {version} is for {found['python']}-{found['abi']}: the sandbox runs Python {CPYTHON_VERSION}"
            )
        return name, version, False
    return name, version, True


def _says_any_platform(files: dict[str, bytes]) -> bool:
    """Whether one of the tags in a wheel is of any platform, or of the guest's; so it is if it has none."""
    text = next((data for path, data in files.items() if path.endswith(".dist-info/WHEEL")), b"")
    tags = HeaderParser().parsestr(text.decode(errors="replace")).get_all("Tag") or ["any"]
    return any(tag.rpartition("-")[2] in ("any", PLATFORM) for tag in tags)


def _unpack(file_name: str, data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    total = 0
    with zipfile.ZipFile(BytesIO(data)) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if len(entries) > _MOST_FILES:
            raise ValueError(f"it has {len(entries)} files")
        for entry in entries:
            path = _installed_path(entry.filename)
            total += entry.file_size
            if total > _MOST_BYTES:
                raise ValueError(f"it unpacks to more than {_MOST_BYTES >> 20} MiB")
            if path is not None:
                # `read` stops at the size that the directory gives, which is counted above.
                found[path] = archive.read(entry)
    if not any(path.endswith(".dist-info/METADATA") for path in found):
        raise ValueError(f"{file_name} has no METADATA")
    return found


def _installed_path(path: str) -> str | None:
    """Return where a file is installed below site-packages, or None for scripts, headers and data outside of it."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or "\0" in path:
        raise ValueError(f"it has a file named {path!r}")
    if parts[0].endswith(".data"):
        return "/".join(parts[2:]) if len(parts) > 2 and parts[1] in ("purelib", "platlib") else None
    return path

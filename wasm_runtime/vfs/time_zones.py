"""The time zones of the guest, where its `zoneinfo` looks for them: those of the installed package `tzdata`."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from wasm_runtime.vfs.mounted_files import BytesSource, HostFile, MountSource
from wasm_runtime.vfs.shared_files import SITE_PACKAGES

_FOLDER = "/usr/share/zoneinfo"
# Pyodide's `zoneinfo` answers an unknown name with advice for Pyodide unless this package can be imported.
_PACKAGE = f"{SITE_PACKAGES}/tzdata/__init__.py"


def zone_files() -> Mapping[str, MountSource]:
    """Return the compiled zones, and the lists of them, by their path in the guest."""
    package = files("tzdata")
    folder = Path(str(package / "zoneinfo"))
    listed: dict[str, MountSource] = {_PACKAGE: BytesSource((package / "__init__.py").read_bytes())}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.suffix.startswith(".py"):
            listed[f"{_FOLDER}/{path.relative_to(folder).as_posix()}"] = HostFile(path)
    return listed

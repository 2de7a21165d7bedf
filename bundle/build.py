"""Lays out the MCP bundle (.mcpb) of this project: `python bundle/build.py DIRECTORY`, then `mcpb pack DIRECTORY`.

The bundle contains both packages unchanged and the files that pyproject.toml needs to build them. uv installs the
dependencies on the user's machine.
"""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
OWN = ("manifest.json", "server.py")
SHARED = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "NOTICE")
PACKAGES = ("rlm_mcp", "wasm_runtime")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "build", "demo_data")
"""Also excludes files that serve only developers (building the sandbox image) or the command line (the demo)."""


def lay_out(directory: Path) -> None:
    """Fills a directory, which may exist already, with the bundle's files."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in OWN:
        shutil.copy(ROOT / "bundle" / name, directory)
    for name in SHARED:
        shutil.copy(ROOT / name, directory)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, directory / package, ignore=LEFT_OUT, dirs_exist_ok=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python bundle/build.py DIRECTORY")
    lay_out(Path(sys.argv[1]))

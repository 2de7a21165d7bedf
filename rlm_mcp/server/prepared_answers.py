"""The file with the results that early_answers.py sends: found when a server starts, written when there is none.

It is trusted only under the fingerprint of the code that made it: the version and the sources of this package, each by
size and time of modification as Python itself trusts its `.pyc` files, the versions of the SDK and of pydantic, and the
interpreter. So an upgrade or an edited description makes the next server prepare the answers again. Settings have no
part in it: the answers are made by a server without a workspace. The file lies beside the package's bytecode or, where
that cannot be written, in the cache directory.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rlm_mcp.server.early_answers import Prepared
from rlm_mcp.version import __version__

PACKAGE = Path(__file__).parent.parent
NAME = "early-answers.json"
MADE_WITH = ("mcp", "mcp_types", "pydantic", "pydantic_core")
"""Distributions that have a part in how the answers are written."""


def places(cache_dir: Path, package: Path = PACKAGE) -> Sequence[Path]:
    """Where the file may lie, the best place first."""
    return [package / "__pycache__" / NAME, cache_dir / NAME]


def find_prepared(files: Sequence[Path], fingerprint: str) -> Prepared | None:
    """The prepared answers of this code, if there are any."""
    for file in files:
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            content = json.loads(file.read_bytes())
            if content["fingerprint"] == fingerprint:
                answers: Prepared = content["answers"]
                return answers
    return None


def save_prepared(
    prepared: Prepared, files: Sequence[Path], fingerprint: str, *, beside_bytecode: bool = not sys.dont_write_bytecode
) -> Path | None:
    """Writes the file to the first place that can be written, if any; returns it.

    Without `beside_bytecode` the package gets no directory for bytecode.
    """
    from rlm_mcp.files import replacing

    for path in files:
        with suppress(OSError):
            if beside_bytecode or path != files[0]:
                path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(json.dumps({"fingerprint": fingerprint, "answers": prepared}).encode())
            return path
    return None


def code_fingerprint(package: Path = PACKAGE, search_path: Sequence[str] | None = None) -> str:
    """Names the code that the answers depend on."""
    interpreter = f"{sys.implementation.cache_tag} {sys.hexversion} -O{sys.flags.optimize}"
    distributions = _distributions(sys.path if search_path is None else search_path)
    return "\n".join([f"rlm-mcp {__version__}", interpreter, *sorted(distributions), *sorted(_sources(package))])


def _distributions(search_path: Sequence[str]) -> Iterator[str]:
    """The directories of metadata of MADE_WITH, whose names have the versions."""
    for directory in search_path:
        with suppress(OSError):
            for name in os.listdir(directory or "."):  # noqa: PTH208 - half the time of Path.iterdir
                if name.partition("-")[0] in MADE_WITH and name.endswith(".dist-info"):
                    yield name


def _sources(directory: Path | str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                about = entry.stat()
                yield f"{entry.path} {about.st_size} {int(about.st_mtime)}"
            elif entry.is_dir() and entry.name.isidentifier() and entry.name != "__pycache__":
                yield from _sources(entry.path)

"""Registers sources in child processes whose PDF parser kills them; prints what each child got.

Run by test_conversions.py as `crashing.py DATA_DIR SOURCE VERSION...`, with a child for each version of the parser; a
process of its own, because it forks. Of a version that begins with `good`, the parser reads every file as one page.
"""

import json
import os
import signal
import sys
import types
from pathlib import Path
from typing import Any

from rlm_mcp.contexts.store import conversions
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import SourceRefused


class Page(dict[str, Any]):
    def extract_text(self) -> str:
        return "the only page"


def fake_parser(version: str) -> types.ModuleType:
    def read(_: object) -> types.SimpleNamespace:
        if not version.startswith("good"):
            os.kill(os.getpid(), signal.SIGKILL)
        return types.SimpleNamespace(is_encrypted=False, pages=[Page()], root_object={}, attachments=[])

    parser = types.ModuleType("pypdf")
    parser.PdfReader = read  # type: ignore[attr-defined] # of a module that is made here
    return parser


def installed(directory: Path, version: str) -> None:
    """Makes this the installed version of the parser, and the one that is imported."""
    facts = directory / f"pypdf-{version.removeprefix('good')}.dist-info"
    facts.mkdir(parents=True, exist_ok=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pypdf\nVersion: {version.removeprefix('good')}\n")
    sys.path.insert(0, str(directory))
    sys.modules["pypdf"] = fake_parser(version)


def register(data_dir: Path, source: str) -> list[str]:
    with Store(data_dir) as store:
        store.remove_leftovers()
        try:
            context = store.register_source(source)
        except SourceRefused as error:
            return [str(error)]
        return [*context.notes, *(file.path for file in store.files(context))]


def in_child(data_dir: Path, source: str, version: str) -> list[str]:
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with os.fdopen(reader) as pipe:
            told = pipe.read()
        _, status = os.waitpid(child, 0)
        return ["killed"] if os.WIFSIGNALED(status) else list(json.loads(told))
    installed(data_dir / f"parser-{version}", version)
    with os.fdopen(writer, "w") as pipe:
        json.dump(register(data_dir, source), pipe)
    os._exit(0)


def main() -> None:
    data_dir, source, *versions = sys.argv[1:]
    assert not conversions.converter_version.cache_info().currsize
    json.dump([in_child(Path(data_dir), source, version) for version in versions], sys.stdout)


if __name__ == "__main__":
    main()

"""`python -m wasm_runtime.build [--check] [--work FOLDER]`: make the image, or prove the committed one.

    fetch (pins) ─ assemble ─ bake ─ write module.wasm.zst, assembled.wasm.zst, python_stdlib.zip, manifest.json

Every step is deterministic, so `--check` rebuilds and compares sha256 with the committed manifest.
"""

import argparse
import dataclasses
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import wasmtime
import zstandard

from wasm_runtime import compile_cache
from wasm_runtime.build import boot
from wasm_runtime.build.assemble import Binaryen, assemble
from wasm_runtime.build.bake import Addresses, bake
from wasm_runtime.build.fetch import fetch
from wasm_runtime.build.leb import read_uleb
from wasm_runtime.build.pins import BINARYEN, CPYTHON_VERSION, PYODIDE, Package
from wasm_runtime.build.wasm_file import MEMORY, WasmFile
from wasm_runtime.linking import make_linker
from wasm_runtime.machine.engine import make_engine
from wasm_runtime.machine.interpreter import Interpreter
from wasm_runtime.machine.memory import WASM_PAGE_BYTES

IMAGE_FOLDER = Path(compile_cache.__file__).parent / "image"
_INPUTS = ("pyodide.asm.wasm", "pyodide.asm.mjs", "python_stdlib.zip")


def main() -> int:
    """Build the image, then write or compare it; -> exit status."""
    parser = argparse.ArgumentParser(prog="python -m wasm_runtime.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed image instead of writing")
    parser.add_argument("--work", type=Path, help="keep downloads and intermediate files here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        built = build(work)
        if arguments.check:
            return check(built.manifest)
        write(built)
    print(f"wrote {built.manifest['outputs']}")
    return 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """The products of a build. `assembled` is the module before it is baked, to which packages are linked."""

    manifest: dict[str, object]
    baked: Path
    assembled: Path
    stdlib: Path


def build(work: Path) -> BuiltImage:
    """Build everything in `work`."""
    pyodide, binaryen = fetch(PYODIDE, work), Binaryen(fetch(BINARYEN, work))
    stdlib = pyodide / "python_stdlib.zip"
    assembled = assemble(pyodide, work, binaryen)
    baked, addresses = bake(assembled, stdlib, work, binaryen)
    inputs = [_described(PYODIDE, pyodide, _INPUTS), _described(BINARYEN, binaryen.package, ("index.js",))]
    guest = {f.name: _sha256(f) for f in sorted((IMAGE_FOLDER.parent / "guest/host").glob("*.py"))}
    manifest: dict[str, object] = {
        "cpython": CPYTHON_VERSION,
        "inputs": [*inputs, {"name": "wasm_runtime/guest/host", "sha256": guest}],
        "image": _image_facts(baked, addresses),
        "outputs": {
            "module.wasm": _sha256(baked),
            "assembled.wasm": _sha256(assembled),
            "python_stdlib.zip": _sha256(stdlib),
        },
    }
    return BuiltImage(manifest=manifest, baked=baked, assembled=assembled, stdlib=stdlib)


def write(built: BuiltImage) -> None:
    """Write the image into the package."""
    module = built.baked.read_bytes()
    (IMAGE_FOLDER / compile_cache.MODULE_FILE).write_bytes(zstandard.ZstdCompressor(level=19).compress(module))
    assembled = compile_cache.compressed_assembled(built.assembled.read_bytes(), module)
    (IMAGE_FOLDER / compile_cache.ASSEMBLED_FILE).write_bytes(assembled)
    shutil.copyfile(built.stdlib, IMAGE_FOLDER / compile_cache.STDLIB_FILE)
    (IMAGE_FOLDER / compile_cache.MANIFEST_FILE).write_text(json.dumps(built.manifest, indent=2) + "\n")


def check(manifest: dict[str, object]) -> int:
    """Compare with the committed manifest and files; -> 0 if they are equal, else 1."""
    committed = json.loads((IMAGE_FOLDER / compile_cache.MANIFEST_FILE).read_text())
    written = {
        "module.wasm": hashlib.sha256(compile_cache.module_bytes()).hexdigest(),
        "assembled.wasm": hashlib.sha256(compile_cache.assembled_bytes()).hexdigest(),
        "python_stdlib.zip": _sha256(IMAGE_FOLDER / compile_cache.STDLIB_FILE),
    }
    if json.loads(json.dumps(manifest)) == committed and written == committed["outputs"]:
        print(f"the committed image equals the one built from its inputs: {written}")
        return 0
    print(f"rebuilt: {json.dumps(manifest)}\ncommitted: {json.dumps(committed)}\nfiles: {written}", file=sys.stderr)
    return 1


def _image_facts(baked: Path, addresses: Addresses) -> dict[str, object]:
    module = WasmFile.load(baked)
    pages, _ = read_uleb(module.body(MEMORY), 2)
    return {
        "sha256": _sha256(baked),
        "memory_bytes": pages * WASM_PAGE_BYTES,
        "globals": _initial_globals(baked),
        **dataclasses.asdict(addresses),
        "stdlib_path": boot.STDLIB_ZIP,
    }


def _initial_globals(baked: Path) -> list[int]:
    engine = make_engine()
    module = wasmtime.Module.from_file(engine, str(baked))
    prelinked = make_linker(engine, module).instantiate_pre(module)
    return list(Interpreter(engine, prelinked, memory_bytes=1 << 30).globals())


def _described(package: Package, folder: Path, names: tuple[str, ...]) -> dict[str, object]:
    return {
        **dataclasses.asdict(package),
        "sha256": {name: _sha256(folder / name) for name in names},
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())

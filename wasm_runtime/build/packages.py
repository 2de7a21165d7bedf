"""Images with packages: wheels in, a folder out that `Runtime(image=…)` takes. Needs neither Node nor Binaryen.

    wheels ─ byte code (by the guest) ─ link ─ boot, import, snapshot ─> module.wasm.zst, site.zip, manifest.json

Everything is deterministic: the same wheels give the same folder, byte for byte.
"""

import dataclasses
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import zstandard

from wasm_runtime import compile_cache
from wasm_runtime.build import boot
from wasm_runtime.build.assemble import trampoline_slot
from wasm_runtime.build.bake import IMPORT_SECONDS, Additions, Addresses, bake_with
from wasm_runtime.build.byte_code import with_byte_code
from wasm_runtime.build.foreign_calls import FUNCTIONS, foreign_calls
from wasm_runtime.build.leb import read_uleb
from wasm_runtime.build.link import LinkedModule, Linker
from wasm_runtime.build.module_parts import global_values
from wasm_runtime.build.side_module import BadPackage, SideModule, read_side_module
from wasm_runtime.build.wasm_file import MEMORY, WasmFile
from wasm_runtime.build.wheel import Wheel
from wasm_runtime.machine.interpreter import GLOBALS
from wasm_runtime.machine.memory import WASM_PAGE_BYTES
from wasm_runtime.runtime import Runtime
from wasm_runtime.vfs.mounted_files import BytesSource
from wasm_runtime.vfs.shared_files import SITE_PACKAGES
from wasm_runtime.vfs.site_files import write_site

# Part of the packages' own lazy imports, which nearly every use of them needs.
_ALSO = {
    "numpy": ["numpy.random", "numpy.ma", "numpy.rec"],
    "pandas": ["pandas.io.formats.string", "pandas.io.formats.html", "pandas.io.parsers.readers"],
    "dateutil": ["dateutil.parser", "dateutil.relativedelta", "dateutil.tz"],
    "lxml": ["lxml.etree", "lxml.html"],
    "openpyxl": ["openpyxl.reader.excel"],
    "scipy": [
        f"scipy.{name}"
        for name in "cluster.hierarchy fft integrate interpolate io linalg ndimage optimize signal sparse.csgraph "
        "sparse.linalg spatial.distance special stats".split()
    ],
    "sklearn": [
        f"sklearn.{name}"
        for name in "cluster decomposition ensemble feature_extraction.text linear_model metrics model_selection "
        "naive_bayes neighbors pipeline preprocessing svm tree".split()
    ],
    "matplotlib": ["matplotlib.pyplot", "matplotlib.backends.backend_agg", "matplotlib.dates"],
    "PIL": ["PIL.Image", "PIL.ImageDraw", "PIL.PngImagePlugin", "PIL.JpegImagePlugin"],
}
# Cells that warm the image up, as in `warm_up`: what nearly every program that uses the package runs.
_CELLS = {
    "numpy": (
        "import numpy as np\na = np.arange(12.0).reshape(3, 4)\nrepr(a), a.mean(), (a @ a.T).sum(), np.random.rand(2)"
    ),
    "pandas": (
        "import io\nimport pandas as pd\n"
        "frame = pd.read_csv(io.StringIO('when,kind,n\\n2026-01-01,a,1\\n2026-01-02,b,2\\n2026-01-03,a,3\\n'))\n"
        "frame['when'] = pd.to_datetime(frame['when'])\n"
        "repr(frame), repr(frame.groupby('kind').n.agg(['sum', 'mean'])), repr(frame.describe()), "
        "repr(frame[frame.n > 1].sort_values('n').head()), repr(frame.merge(frame, on='kind')), "
        "repr(frame.kind.value_counts())"
    ),
}

# `ctypes` works while the packages are imported, and they keep it. Afterwards it is not found, as without packages, but
# with those whose functions import it when they are called. (It gives cells nothing that numpy does not: their memory.)
_NEED_CTYPES = frozenset({"scipy"})
# Every session seeds the generators before its first cell. Run often enough that CPython has specialised it, this
# writes 40 pages less there.
_RESEEDINGS = 20
# What the last line of a traceback says if an import fails for something that the sandbox does not have.
_LACKING = {
    "for another thread": "threads",
    "a thread that sleeps": "threads",
    "does not support processes": "processes",
    "Address family not supported": "sockets",
    "socket.gaierror": "the network",
}
_IMPORT = """
import importlib, os, sys, threading, traceback, warnings
import host
from host import parallel

def run_threads():
    hook, sleep = threading.excepthook, host.sleep
    threading.excepthook, host.sleep = fail, fail_to_sleep
    try:
        parallel.run_threads()
    finally:
        threading.excepthook, host.sleep = hook, sleep

def fail(thread):
    raise thread.exc_value

def fail_to_sleep(seconds):
    raise RuntimeError("it starts a thread that sleeps, while nothing else can run")

os.environ.update(HOME="/home", MPLBACKEND="agg", MPLCONFIGDIR="/tmp/matplotlib")
warnings.simplefilter("ignore")
del sys.modules["_ctypes"]
failed = []
for name in {names!r}:
    os.write(1, f"\\1{{name}}\\n".encode())
    try:
        importlib.import_module(name)
        run_threads()
    except BaseException as error:
        if name not in {optional!r}:
            os.write(1, f"\\1{{name}}\\n{{traceback.format_exc()}}".encode())
            raise
        failed.append(name)
for code in {cells!r}:
    for _ in range(3):
        exec(code, {{}})
if "numpy" in sys.modules:
    # Bound as a default, because the names of `__main__` are removed before the snapshot. Seeding with one number of 32
    # bits runs none of numpy's array code, whose pages the first cell of every session would write.
    host.seeders.append(lambda entropy, seed=sys.modules["numpy"].random.seed: seed(int.from_bytes(entropy[:4])))
for _ in range({reseedings}):
    host.reseed("00" * 32)
if "tqdm" in sys.modules:
    sys.modules["tqdm"].tqdm.monitor_interval = 0  # its monitor is a thread
if not {keep_ctypes}:
    for name in [name for name in sys.modules if name.partition(".")[0] == "ctypes"]:
        del sys.modules[name]
    sys.modules["_ctypes"] = None
warnings.resetwarnings()
os.write(1, ("\\1" + " ".join(failed)).encode())
"""
_OWN_PACKAGE = "host"
_WORK = ".bake-"  # begins the names of folders in which images are written
_STALE_SECONDS = 3600.0  # writing an image takes seconds
_MARK = "\1"  # begins what the code above reports; packages may print something while they are imported


def bake_image(
    wheels: Sequence[Wheel],
    folder: Path,
    *,
    runtime: Runtime,
    on_progress: Callable[[str], None],
    needed_only: Collection[str] = (),
    import_seconds: float = IMPORT_SECONDS,
) -> dict[str, object]:
    """Make the image in `folder`, which must not exist; -> its manifest. Raises BadPackage.

    `runtime` is of the image without packages; it compiles the Python files. `needed_only` names packages that are
    there because others require them: their import may fail, as that of packages for the network does. An import that
    takes more than `import_seconds` of processor time is a BadPackage.
    """
    on_progress("compiling the Python files of the packages")
    site = with_byte_code(runtime, _files(wheels))
    on_progress("linking the compiled modules")
    main = WasmFile.parse(compile_cache.assembled_bytes(), compile_cache.ASSEMBLED_FILE)
    slot = trampoline_slot(main)
    linked = link_wheels(main, wheels)
    on_progress("starting Python with the packages")
    addresses, failed = _bake(linked, wheels, site, runtime, slot, needed_only, import_seconds)
    if failed:
        on_progress(f"{', '.join(failed)} cannot be imported in the sandbox; the packages that need them can")
    on_progress("writing the image")
    module = linked.wasm.to_bytes()
    manifest: dict[str, object] = {
        "base": runtime.image.sha256,
        "packages": [_described(wheel, failed) for wheel in wheels],
        "image": {
            "sha256": hashlib.sha256(module).hexdigest(),
            "memory_bytes": read_uleb(linked.wasm.body(MEMORY), 2)[0] * WASM_PAGE_BYTES,
            "globals": _initial_globals(linked.wasm),
            **dataclasses.asdict(addresses),
            "stdlib_path": boot.STDLIB_ZIP,
        },
    }
    _write(folder, manifest, module, site)
    return manifest


def link_wheels(main: WasmFile, wheels: Sequence[Wheel]) -> LinkedModule:
    """Link the compiled modules of wheels into the assembled module, libraries first. Raises BadPackage."""
    linker = Linker(main)
    modules = [
        read_side_module(path, data)
        for wheel in sorted(wheels, key=lambda wheel: wheel.name)
        for path, data in sorted(wheel.compiled.items())
    ]
    wanted = {name for module in modules for name in module.needed}
    for module in _libraries_first(modules, wanted):
        linker.add(module, is_library=_file_name(module) in wanted)
    linker.replace(FUNCTIONS, foreign_calls(linker.types))
    return linker.finish()


def _libraries_first(modules: Sequence[SideModule], wanted: set[str]) -> list[SideModule]:
    """Return the modules in an order in which every library is before those that need it."""
    libraries = {_file_name(module): module for module in modules if _file_name(module) in wanted}
    ordered: dict[str, SideModule] = {}

    def visit(module: SideModule) -> None:
        for name in module.needed:
            if name in libraries and name not in ordered and libraries[name] is not module:
                ordered[name] = libraries[name]
                visit(libraries[name])

    for module in modules:
        visit(module)
    found = list(reversed(ordered.values()))
    return [*found, *(module for module in modules if module not in found)]


def _file_name(module: SideModule) -> str:
    return module.path.rpartition("/")[2]


def _files(wheels: Sequence[Wheel]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for wheel in wheels:
        for path, data in wheel.files.items():
            if found.setdefault(path, data) != data:
                raise BadPackage(
                    f"{wheel.name} {wheel.version} has another {path} than a package before it: leave one out"
                )
    return found


def _bake(
    linked: LinkedModule,
    wheels: Sequence[Wheel],
    site: Mapping[str, bytes],
    runtime: Runtime,
    slot: int,
    needed_only: Collection[str],
    import_seconds: float,
) -> tuple[Addresses, list[str]]:
    """Return the addresses, and the names that cannot be imported but need not."""
    names = [name for wheel in wheels for top in wheel.import_names for name in [top, *_ALSO.get(top, [])]]
    if _OWN_PACKAGE in names:
        raise BadPackage(f"a package has the module {_OWN_PACKAGE}, which the sandbox has itself: leave it out")
    optional = [name for wheel in wheels if wheel.name in needed_only for name in wheel.import_names]
    source = _IMPORT.format(
        names=names,
        optional=optional,
        cells=[code for top, code in _CELLS.items() if top in names],
        keep_ctypes=not _NEED_CTYPES.isdisjoint(names),
        reseedings=_RESEEDINGS,
    )
    files = {f"{SITE_PACKAGES}/{path}": BytesSource(data) for path, data in site.items()}
    try:
        addresses, printed = bake_with(
            Additions(linked=linked, files=lambda: files, source=source),
            runtime.image.stdlib,
            slot,
            import_seconds=import_seconds,
        )
    except boot.BootError as error:
        name, _, traceback = error.printed.rpartition(_MARK)[2].partition("\n")
        last = traceback.rstrip().rpartition("\n")[2]
        needs = next((f", because it needs {lacking}" for said, lacking in _LACKING.items() if said in last), "")
        raise BadPackage(
            f"{name or 'a package'} cannot be imported in the sandbox{needs}:\n{traceback or error}"
        ) from error
    return addresses, printed.rpartition(_MARK)[2].split()


def _described(wheel: Wheel, failed: Collection[str]) -> dict[str, object]:
    return {
        "name": wheel.name,
        "version": wheel.version,
        "sha256": wheel.sha256,
        "imports": [name for name in wheel.import_names if name not in failed],
        "pure_part_only": wheel.of_another_platform,
    }


def _initial_globals(module: WasmFile) -> list[int]:
    values = [value for mutable, value in global_values(module, lambda _: 0) if mutable]
    return values[: len(GLOBALS)]


def _write(folder: Path, manifest: Mapping[str, object], module: bytes, site: Mapping[str, bytes]) -> None:
    """Write the folder completely or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(folder.parent, older_than=time.time() - _STALE_SECONDS)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_WORK) as work:
        written = Path(work, folder.name)
        written.mkdir()
        compressed = zstandard.ZstdCompressor(level=9).compress(module)
        (written / compile_cache.MODULE_FILE).write_bytes(compressed)
        write_site(written / compile_cache.SITE_FILE, site)
        (written / compile_cache.MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n")
        written.rename(folder)


def remove_stale(folder: Path, *, older_than: float) -> None:
    """Remove what bakes that were killed while they wrote have left in a folder, if it is `older_than` that time."""
    for work in folder.glob(f"{_WORK}*"):
        with suppress(OSError):  # it has just been removed
            if work.stat().st_mtime < older_than:
                shutil.rmtree(work, ignore_errors=True)

"""The image that ships with the package, and the cache of the module that is compiled from it once per machine.

Deserialising a compiled module runs native code from a file. So the cache directory must belong to this user and be
closed to others, and the file must be the one that was written: its name is a hash of everything that went into it,
and a small file beside it holds its length and checksum. Any other file is ignored and compiled again.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import wasmtime
import zstandard

from wasm_runtime.errors import ImageError
from wasm_runtime.machine.engine import FLAGS, WASM_STACK_BYTES

MODULE_FILE, STDLIB_FILE, MANIFEST_FILE = "module.wasm.zst", "python_stdlib.zip", "manifest.json"
ASSEMBLED_FILE, SITE_FILE = "assembled.wasm.zst", "site.zip"
_FOLDER = "wasm-runtime"
_CHECKSUM_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The manifest's facts about an image. Addresses are in guest memory.

    `packages` are the wheels that were baked into it, as "name version", `imports` the names that Python imports;
    `site` holds their files. `package_bytes` is by how much its memory is larger than that of the image without them.
    """

    sha256: str  # of the module, not compressed
    memory_bytes: int
    globals: tuple[int, ...]
    serve: int
    worker: int
    stdout_pending: int
    stderr_pending: int
    signal_handling: int
    stack_low: int
    stdlib_path: str
    stdlib: Path
    module: Path
    packages: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    package_bytes: int = 0
    site: Path | None = None


def load_image(folder: Path | None = None) -> Image:
    """Read the manifest of the image in `folder`, by default of the one that ships with the package.

    Raises ImageError if it is missing, as in a source tree that was never built, or was baked with packages for another
    version of this package.
    """
    own = _read_manifest(_image_folder())
    stdlib = _image_folder() / STDLIB_FILE
    if folder is None:
        return Image(**_facts(own), stdlib=stdlib, module=_image_folder() / MODULE_FILE)
    manifest = _read_manifest(folder)
    if manifest.get("base") != own["image"]["sha256"]:
        raise ImageError(
            f"the image in {folder} was baked for another version of the sandbox: bake it again with "
            "`rlm-mcp packages bake`"
        )
    return Image(
        **_facts(manifest),
        stdlib=stdlib,
        module=folder / MODULE_FILE,
        packages=tuple(f"{package['name']} {package['version']}" for package in manifest["packages"]),
        imports=tuple(sorted(name for package in manifest["packages"] for name in package["imports"])),
        package_bytes=max(0, manifest["image"]["memory_bytes"] - own["image"]["memory_bytes"]),
        site=folder / SITE_FILE,
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text())
    except (OSError, ValueError) as error:
        raise ImageError(
            f"the sandbox image in {folder} is missing: make it with `python -m wasm_runtime.build`, or with "
            "`rlm-mcp packages bake` if it has packages"
        ) from error
    return manifest


def _facts(manifest: dict[str, Any]) -> dict[str, Any]:
    return {**manifest["image"], "globals": tuple(manifest["image"]["globals"])}


def module_bytes(path: Path | None = None) -> bytes:
    """Return an image's module, uncompressed; by default the committed one."""
    return zstandard.ZstdDecompressor().decompress((path or _image_folder() / MODULE_FILE).read_bytes())


def assembled_bytes() -> bytes:
    """Return the module that the image is baked from, uncompressed: packages are linked to it.

    The file is compressed against the image's module, which has the same code: 0.6 MB instead of 2.9.
    """
    packed = (_image_folder() / ASSEMBLED_FILE).read_bytes()
    return zstandard.ZstdDecompressor(dict_data=_against_module(module_bytes())).decompress(packed)


def compressed_assembled(assembled: bytes, module: bytes) -> bytes:
    """Return the content of the file that `assembled_bytes` reads."""
    parameters = zstandard.ZstdCompressionParameters.from_level(22, window_log=26, enable_ldm=True)
    packer = zstandard.ZstdCompressor(dict_data=_against_module(module), compression_params=parameters)
    return packer.compress(assembled)


def _against_module(module: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(module, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def compiled_module(
    engine: wasmtime.Engine,
    image: Image,
    cache_dir: Path | None,
    on_progress: Callable[[str], None],
    *,
    read_module: Callable[[], bytes] | None = None,
) -> wasmtime.Module:
    """Return the module from the cache, or compile it into the cache. Raises ImageError when neither works."""
    folder = _private_folder(cache_dir or default_cache_dir())
    path = folder / f"{_key(image)}.cwasm"
    module = _load(engine, path)
    if module is not None:
        return module
    with _locked(_lock_file(path)):
        module = _load(engine, path)  # another process may have compiled it while this one waited
        if module is not None:
            return module
        seconds = "about 30 s, with its packages" if image.packages else "about 10 s"
        on_progress(f"compiling the sandbox for this machine (once; {seconds})")
        _store(path, _compile(engine, read_module() if read_module else module_bytes(image.module)))
        on_progress("the sandbox is compiled")
        module = _load(engine, path)
    if module is None:
        raise ImageError(f"the compiled sandbox in {folder} cannot be read back: free some disk space, or name another")
    return module


def _compile(engine: wasmtime.Engine, module: bytes) -> bytes | bytearray:
    try:
        return wasmtime.Module(engine, module).serialize()
    except wasmtime.WasmtimeError as error:
        raise ImageError(f"the sandbox image cannot be compiled on this machine: {error}") from error


def cached(name: str, cache_dir: Path | None, make: Callable[[], bytes]) -> bytes:
    """Return what `make` returns for this name, from a file of the cache if it is there and undamaged.

    It may be of an earlier process, so the name tells all that it depends on. Raises ImageError if there is no cache.
    """
    path = _private_folder(cache_dir or default_cache_dir()) / name
    with contextlib.suppress(OSError):
        found = path.read_bytes()
        data = found[_CHECKSUM_BYTES:]
        if found == _checksum(data) + data:
            return data
    data = make()
    with contextlib.suppress(OSError):  # without space it is made each time
        _replace_file(path, _checksum(data) + data)
    return data


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "little")


def is_compiled(image: Image, cache_dir: Path | None) -> bool:
    """Whether the cache has a compiled module, without loading it."""
    return ((cache_dir or default_cache_dir()) / _FOLDER / f"{_key(image)}.cwasm").exists()


def copy_compiled(image: Image, source: Path, target: Path) -> None:
    """Put the module of an image from one cache directory into another. Raises ImageError, OSError.

    A process that may be taken over has a cache of its own, because compiled code is run as it is found.
    """
    name = f"{_key(image)}.cwasm"
    if is_compiled(image, source) and not is_compiled(image, target):
        found, folder = _private_folder(source), _private_folder(target)
        with _locked(_lock_file(folder / name)):
            if not is_compiled(image, target):
                _store(folder / name, (found / name).read_bytes())


def default_cache_dir() -> Path:
    """Return the folder for caches in this user's home."""
    return Path.home() / ".cache"


def _image_folder() -> Path:
    return Path(str(files("wasm_runtime") / "image"))


def _key(image: Image) -> str:
    parts = [image.sha256, version("wasmtime"), *FLAGS, str(WASM_STACK_BYTES), platform.system(), _cpu()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _cpu() -> str:
    """Return what code generation depends on: the architecture and, where the system lists them, the CPU's features."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return platform.machine() + line
    return platform.machine() + platform.processor()


def _private_folder(cache_dir: Path) -> Path:
    """Return our folder in the cache, with mode 0700 and owned by this user; files others could write are deleted."""
    folder = cache_dir / _FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        facts = folder.lstat()
    except OSError as error:
        raise ImageError(
            f"the cache folder {folder} cannot be made ({error.strerror}): name another (cache_dir, RLM_MCP_CACHE_DIR)"
        ) from error
    if not hasattr(os, "getuid"):
        return folder
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise ImageError(
            f"the cache folder {folder} belongs to another user or is a link: remove it, or name another "
            "(cache_dir, RLM_MCP_CACHE_DIR)"
        )
    if facts.st_mode & 0o077:
        folder.chmod(0o700)
        for file in folder.iterdir():
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
    return folder


def _load(engine: wasmtime.Engine, path: Path) -> wasmtime.Module | None:
    """Load a compiled module; None if it is missing, incomplete, another user's or made for another engine."""
    try:
        facts = path.lstat()
        expected = json.loads(path.with_suffix(".json").read_text())
        if not stat.S_ISREG(facts.st_mode) or (hasattr(os, "getuid") and facts.st_uid != os.getuid()):
            return None
        if expected["bytes"] != facts.st_size:
            return None
        # Reading 40 MB takes longer than all the rest, and is needed only if the file was touched since it was written.
        if expected["stamp"] != _stamp(facts) and expected["crc32"] != _crc32(path):
            return None
        return wasmtime.Module.deserialize_file(engine, str(path))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, wasmtime.WasmtimeError):
        return None


def _stamp(facts: os.stat_result) -> list[int]:
    """Return values that change with any write to a file; not even its owner can set back its change time."""
    return [facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns]


def _store(path: Path, compiled: bytes | bytearray) -> None:
    """Write a compiled module to the cache, completely or not at all."""
    try:
        _replace_file(path, compiled)
        facts = {"bytes": len(compiled), "crc32": zlib.crc32(compiled), "stamp": _stamp(path.lstat())}
        _replace_file(path.with_suffix(".json"), json.dumps(facts).encode())
    except OSError as error:
        raise ImageError(
            f"the compiled sandbox ({len(compiled) >> 20} MiB) cannot be written to {path.parent} ({error.strerror}): "
            "free some space, or name another folder (cache_dir, RLM_MCP_CACHE_DIR)"
        ) from error


def _replace_file(target: Path, data: bytes | bytearray) -> None:
    """Replace a file atomically; its content is on the disk before it gets its name."""
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _lock_file(compiled: Path) -> Path:
    """Each image has a lock of its own: the small one does not wait until a large one is compiled."""
    return compiled.with_name(f"lock-{compiled.stem}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time compile an image; without file locks (Windows) several may, with the same result."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""The image that ships with the package. The cache of its compiled form is tested in tests/escape."""

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import wasmtime

from wasm_runtime import Runtime, compile_cache, linking
from wasm_runtime.compile_cache import (
    MANIFEST_FILE,
    STDLIB_FILE,
    assembled_bytes,
    cached,
    default_cache_dir,
    load_image,
    module_bytes,
)

IMAGE_FOLDER = Path(compile_cache.__file__).parent / "image"
MANIFEST = json.loads((IMAGE_FOLDER / MANIFEST_FILE).read_text())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_committed_files_are_those_of_the_manifest() -> None:
    assert MANIFEST["outputs"] == {
        "module.wasm": sha256(module_bytes()),
        "assembled.wasm": sha256(assembled_bytes()),
        "python_stdlib.zip": sha256((IMAGE_FOLDER / STDLIB_FILE).read_bytes()),
    }
    assert load_image().sha256 == MANIFEST["outputs"]["module.wasm"]


def test_the_image_was_baked_from_the_committed_guest_code() -> None:
    guest = IMAGE_FOLDER.parent / "guest" / "host"
    baked = next(entry["sha256"] for entry in MANIFEST["inputs"] if entry["name"] == "wasm_runtime/guest/host")
    assert baked == {file.name: sha256(file.read_bytes()) for file in sorted(guest.glob("*.py"))}


def test_the_standard_library_is_a_sound_archive() -> None:
    with zipfile.ZipFile(load_image().stdlib) as archive:
        assert archive.testzip() is None
        assert "json/__init__.py" in archive.namelist()


def test_addresses_lie_in_the_images_memory() -> None:
    image = load_image()
    for address in (image.serve, image.stdout_pending, image.stderr_pending, image.signal_handling, image.stack_low):
        assert 1024 <= address < image.memory_bytes
    assert image.memory_bytes % (64 << 10) == 0


def test_the_cache_lies_where_this_users_programs_keep_theirs() -> None:
    assert default_cache_dir().is_absolute()
    assert default_cache_dir().is_relative_to(Path.home())


def test_a_copied_module_is_another_file(sandbox_cache: Path, tmp_path: Path) -> None:
    image = compile_cache.load_image()
    compile_cache.copy_compiled(image, tmp_path / "empty", tmp_path / "other")
    assert not compile_cache.is_compiled(image, tmp_path / "other")
    compile_cache.copy_compiled(image, sandbox_cache, tmp_path / "other")
    with Runtime(tmp_path / "other") as runtime, runtime.session() as session:
        assert session.exec("6 * 7").value == "42"
    copies = [
        next((cache / "wasm-runtime").glob("*.cwasm")).stat().st_ino for cache in (sandbox_cache, tmp_path / "other")
    ]
    assert copies[0] != copies[1]


def test_an_image_that_is_being_compiled_keeps_no_other_waiting(sandbox_cache: Path, tmp_path: Path) -> None:
    image = compile_cache.load_image()

    def read_module() -> bytes:
        compile_cache.copy_compiled(image, sandbox_cache, tmp_path)  # what waits for the lock would wait for ever
        return b"\0asm\1\0\0\0"

    large = replace(image, sha256="0" * 64)
    compile_cache.compiled_module(wasmtime.Engine(), large, tmp_path, lambda _: None, read_module=read_module)
    assert compile_cache.is_compiled(image, tmp_path)
    assert compile_cache.is_compiled(large, tmp_path)


def test_the_whole_surface_between_guest_and_host_is_short() -> None:
    names = {name for provider in linking.PROVIDERS for name in provider.FUNCTIONS}
    assert len(names) < 60
    assert not [
        name for name in names if "socket" in name or "exec" in name or "fork" in name or "js" in name.lower()[:2]
    ]


def test_what_cannot_be_kept_is_made_each_time(tmp_path: Path) -> None:
    for folder in ("wasm-runtime", "wasm-runtime/taken"):  # no file can get the name of the latter
        (tmp_path / folder).mkdir(mode=0o700)
    made = iter([b"one", b"two", b"three"])
    assert [cached("taken", tmp_path, lambda: next(made)) for _ in range(2)] == [b"one", b"two"]
    assert [cached("free", tmp_path, lambda: next(made)) for _ in range(2)] == [b"three", b"three"]

"""The compile cache: loading it runs native code, so a file that others could have written is never loaded.

A module of eight bytes replaces the image, because it compiles at once; everything else is real.
"""

import json
import os
import stat
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import wasmtime

from wasm_runtime import ImageError
from wasm_runtime.compile_cache import compiled_module, is_compiled, load_image
from wasm_runtime.machine.engine import make_engine

SMALL_MODULE = b"\x00asm\x01\x00\x00\x00"
IMAGE = replace(load_image(), sha256="of a small module")


def load(cache: Path, *, told: list[str] | None = None, engine: wasmtime.Engine | None = None) -> wasmtime.Module:
    progress = [] if told is None else told
    return compiled_module(engine or make_engine(), IMAGE, cache, progress.append, read_module=lambda: SMALL_MODULE)


def compiled(cache: Path) -> bool:
    """Whether loading had to compile."""
    told: list[str] = []
    load(cache, told=told)
    return bool(told)


def compiled_file(cache: Path) -> Path:
    return next((cache / "wasm-runtime").glob("*.cwasm"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache folder with the module in it."""
    load(tmp_path)
    return tmp_path


def test_a_module_is_compiled_once_and_then_loaded(tmp_path: Path) -> None:
    assert not is_compiled(IMAGE, tmp_path)
    assert [compiled(tmp_path) for _ in range(3)] == [True, False, False]
    assert is_compiled(IMAGE, tmp_path)


def test_folder_and_files_are_closed_to_others(cache: Path) -> None:
    folder = cache / "wasm-runtime"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(f.stat().st_mode) & 0o077 for f in folder.iterdir() if f.suffix] == [0, 0]


def test_nothing_but_the_module_its_facts_and_the_lock_is_left_behind(cache: Path) -> None:
    assert sorted(f.suffix for f in (cache / "wasm-runtime").iterdir()) == ["", ".cwasm", ".json"]


@pytest.mark.parametrize(
    "harm",
    [
        "torn",
        "changed",
        "empty",
        "no file",
        "no facts",
        "wrong facts",
        "torn facts",
        "nested facts",
        "a link",
        "a folder",
    ],
)
def test_a_file_that_was_tampered_with_is_not_loaded_but_made_again(cache: Path, harm: str) -> None:
    file = compiled_file(cache)
    facts = file.with_suffix(".json")
    data = file.read_bytes()
    match harm:
        case "torn":
            file.write_bytes(data[: len(data) // 2])
        case "changed":
            file.write_bytes(data[:1000] + b"\x00\x01\x02\x03" + data[1004:])
        case "empty":
            file.write_bytes(b"")
        case "no file":
            file.unlink()
        case "no facts":
            facts.unlink()
        case "wrong facts":
            facts.write_text(json.dumps({"bytes": len(data), "crc32": 0}))
        case "torn facts":
            facts.write_text(facts.read_text()[:5])
        case "nested facts":
            facts.write_text("[" * 100_000)
        case "a link":
            (cache / "elsewhere").write_bytes(data)
            file.unlink()
            file.symlink_to(cache / "elsewhere")
        case "a folder":
            file.unlink()
            file.mkdir()
    if harm == "a folder":
        with pytest.raises(ImageError, match="cannot be written"):
            compiled(cache)
        assert sorted(f.suffix for f in file.parent.iterdir()) == ["", ".cwasm", ".json"]
        return
    assert compiled(cache)
    assert compiled_file(cache).read_bytes() == data
    assert not compiled_file(cache).is_symlink()
    assert not compiled(cache)


def test_a_module_of_another_engine_is_made_again(cache: Path) -> None:
    other = wasmtime.Config()
    other.epoch_interruption = True
    told: list[str] = []
    load(cache, told=told, engine=wasmtime.Engine(other))
    assert told


def test_a_module_that_is_no_module_but_has_right_facts_is_made_again(cache: Path) -> None:
    file = compiled_file(cache)
    junk = b"\x7fELF" + bytes(5000)
    file.write_bytes(junk)
    file.with_suffix(".json").write_text(json.dumps({"bytes": len(junk), "crc32": zlib.crc32(junk)}))
    assert compiled(cache)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o755, 0o701])
def test_a_folder_that_others_may_enter_is_emptied_first(cache: Path, mode: int) -> None:
    (cache / "wasm-runtime").chmod(mode)
    (cache / "wasm-runtime" / "planted.cwasm").write_bytes(b"native code of somebody else")
    assert compiled(cache)
    assert stat.S_IMODE((cache / "wasm-runtime").stat().st_mode) == 0o700
    assert not (cache / "wasm-runtime" / "planted.cwasm").exists()


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "wasm-runtime").symlink_to(tmp_path / "real")
    with pytest.raises(ImageError, match="belongs to another user or is a link"):
        load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wasm-runtime").mkdir(mode=0o700)
    os.chown(tmp_path / "wasm-runtime", 65534, 65534)
    with pytest.raises(ImageError, match="belongs to another user or is a link"):
        load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_made_again(cache: Path) -> None:
    os.chown(compiled_file(cache), 65534, 65534)
    assert compiled(cache)
    assert compiled_file(cache).stat().st_uid == 0


def test_a_path_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "wasm-runtime").write_text("not a folder")
    with pytest.raises(ImageError, match="cache folder"):
        load(tmp_path)


def test_a_cache_below_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ImageError, match="cannot be made"):
        load(tmp_path / "file")


def test_many_that_start_at_once_compile_once(tmp_path: Path) -> None:
    told: list[str] = []
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: load(tmp_path, told=told), range(16)))
    assert len([text for text in told if text.startswith("compiling")]) == 1


def test_an_image_without_bytes_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be compiled"):
        compiled_module(make_engine(), IMAGE, tmp_path, lambda _: None, read_module=lambda: b"no module")
    assert not is_compiled(IMAGE, tmp_path)

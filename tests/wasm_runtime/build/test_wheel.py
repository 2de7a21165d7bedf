"""Wheels: which ones the guest can use, what is taken from them, and malformed ones."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

from tests.wasm_runtime.build.linking import side_bytes
from wasm_runtime.build.side_module import BadPackage
from wasm_runtime.build.wheel import read_wheel, requirements

OURS = "cp314-cp314-pyemscripten_2026_0_wasm32"
METADATA = b"Metadata-Version: 2.1\nName: thing\nRequires-Dist: six\nRequires-Dist: lxml>=5; extra == 'xml'\n"


def archive(files: Mapping[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return data.getvalue()


def write(folder: Path, tags: str, files: Mapping[str, bytes]) -> Path:
    path = folder / f"Thing-1.2-{tags}.whl"
    path.write_bytes(archive({"thing-1.2.dist-info/METADATA": METADATA, **files}))
    return path


@pytest.mark.parametrize("tags", ["py3-none-any", "py2.py3-none-any", OURS, "cp39-abi3-pyemscripten_2026_0_wasm32"])
def test_a_wheel_with_the_tags_of_the_guest_or_of_any_platform_is_read(tmp_path: Path, tags: str) -> None:
    module = side_bytes("")
    files = {"thing/__init__.py": b"x = 1", "thing/fast.cpython-314-wasm32-emscripten.so": module, "thing/a.pyi": b""}
    wheel = read_wheel(write(tmp_path, tags, files))
    assert (wheel.name, wheel.version, wheel.import_names) == ("thing", "1.2", ["thing"])
    assert wheel.files == {"thing-1.2.dist-info/METADATA": METADATA, "thing/__init__.py": b"x = 1"}
    assert wheel.compiled == {"thing/fast.cpython-314-wasm32-emscripten.so": module}
    assert requirements(wheel) == ["six", "lxml>=5; extra == 'xml'"]


def test_of_another_platforms_wheel_the_pure_part_is_left(tmp_path: Path) -> None:
    files = {"thing/__init__.py": b"", "thing/_fast.cpython-314-x86_64-linux-gnu.so": b"\x7fELF"}
    wheel = read_wheel(write(tmp_path, "cp314-cp314-manylinux_2_28_x86_64", files))
    assert (wheel.compiled, wheel.of_another_platform) == ({}, True)


@pytest.mark.parametrize("tags", ["cp313-cp313-pyemscripten_2026_0_wasm32", "py2-none-any"])
def test_a_wheel_for_another_python_is_refused_by_name(tmp_path: Path, tags: str) -> None:
    with pytest.raises(BadPackage, match=r"thing 1\.2 is for .*: the sandbox runs Python 3\.14"):
        read_wheel(write(tmp_path, tags, {}))


@pytest.mark.parametrize("name", ["../../evil.py", "/etc/passwd", "thing//x.py", "thing\\x.py", "thing/./x.py"])
def test_a_file_name_that_leads_out_of_site_packages_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadPackage, match="it has a file named"):
        read_wheel(write(tmp_path, "py3-none-any", {name: b""}))


def test_of_the_data_folder_only_modules_are_taken(tmp_path: Path) -> None:
    files = {f"thing-1.2.data/{part}": b"" for part in ("purelib/more.py", "scripts/run", "headers/a.h")}
    assert "more.py" in read_wheel(write(tmp_path, "py3-none-any", files)).files
    assert len(read_wheel(write(tmp_path, "py3-none-any", files)).files) == 2


def test_a_wheel_that_unpacks_to_more_than_any_real_one_is_refused_unread(tmp_path: Path) -> None:
    path = write(tmp_path, "py3-none-any", {"thing/zeros": b"\0" * 1000})
    data = path.read_bytes()
    claimed = (1 << 30).to_bytes(4, "little")
    path.write_bytes(data.replace((1000).to_bytes(4, "little"), claimed))
    with pytest.raises(BadPackage, match="it unpacks to more than 512 MiB"):
        read_wheel(path)


def test_names_that_are_not_of_wheels_and_missing_files_are_refused(tmp_path: Path) -> None:
    for name in ("thing.tar.gz", "thing-1.2.whl"):
        with pytest.raises(BadPackage, match="is not named like a wheel"):
            read_wheel(tmp_path / name)
    with pytest.raises(BadPackage, match="cannot be read as a wheel"):
        read_wheel(tmp_path / "thing-1.2-py3-none-any.whl")


GOOD = archive({"thing-1.2.dist-info/METADATA": METADATA, "thing/__init__.py": b"x = 1\n" * 20})


@hypothesis.given(strategies.data())
@hypothesis.settings(max_examples=200)
def test_a_damaged_wheel_is_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: strategies.DataObject
) -> None:
    damaged = bytearray(GOOD)
    for _ in range(data.draw(strategies.integers(1, 4))):
        damaged[data.draw(strategies.integers(0, len(damaged) - 1))] = data.draw(strategies.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "thing-1.2-py3-none-any.whl"
    path.write_bytes(damaged[: data.draw(strategies.integers(0, len(damaged)))])
    try:
        read_wheel(path)
    except BadPackage:
        return

"""The wheels that the package index has under the sandbox's tag, added, imported, used, and refused."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlm_mcp.packages.library import PackageLibrary
from rlm_mcp.packages.types import PackageRefused
from wasm_runtime import Runtime
from wasm_runtime.build.packages import bake_image
from wasm_runtime.build.side_module import BadPackage
from wasm_runtime.build.wheel import read_wheel

CODE = {
    "msgspec.json.decode(b'[1, 2.5]')": "[1, 2.5]",
    "jiter.from_json(b'{\"a\": [1]}')": "{'a': [1]}",
    "pydantic_core.SchemaValidator(pydantic_core.core_schema.int_schema()).validate_python('42')": "42",
    "python_calamine.__name__": "'python_calamine'",
}
"""An expression for each wheel, and its value."""


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The package index, from which the tests of this file download wheels."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "idna"]
    folder = tmp_path_factory.mktemp("idna")
    if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode:  # noqa: S603 - our own command
        pytest.skip("the package index cannot be reached")


@pytest.mark.usefixtures("index")
def test_each_is_imported_and_works(library: PackageLibrary, sandbox_cache: Path) -> None:
    image = library.added_image()
    assert image is not None
    with Runtime(sandbox_cache, image=image.folder) as runtime, runtime.session() as session:
        session.exec("import msgspec, jiter, pydantic_core, python_calamine")
        for code, value in CODE.items():
            assert session.exec(code).value == value
            assert session.fork().exec(code).value == value
            assert session.exec(f"parallel_map(lambda _: {code}, [0, 0])").value == f"[{value}, {value}]"


@pytest.mark.packages
def test_exceptions_of_rust_code_are_caught_in_it(library: PackageLibrary, sandbox_cache: Path) -> None:
    image = library.added_image()
    assert image is not None
    with Runtime(sandbox_cache, image=image.folder) as runtime, runtime.session() as session:
        code = "import pydantic_core as p\np.SchemaValidator(p.core_schema.int_schema()).validate_python('x')"
        error = session.exec(code).error
        assert error is not None
        assert error.type == "ValidationError"
        assert session.exec("1 + 1").value == "2"


@pytest.mark.packages
def test_the_same_wheels_give_the_same_image(library: PackageLibrary, sandbox_cache: Path) -> None:
    first = library.added_image()
    assert first is not None
    shutil.rmtree(first.folder)
    second = library.bake(library.added(), cache_dir=sandbox_cache, report=print)
    assert second == first


def write_wheel(folder: Path, name: str, source: str, requirements: Sequence[str] = ()) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requirements)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
        wheel.writestr(f"{name}/__init__.py", source)
    return path


SOCKETS = "import socket\nsocket.socket()\n"
WORKER = "import threading, queue\nwork = queue.Queue()\nthreading.Thread(target=work.get, daemon=True).start()\n"


@pytest.mark.packages
@pytest.mark.parametrize(
    ("source", "reason", "last"),
    [
        (SOCKETS, ", because it needs sockets", "Address family not supported by protocol"),
        (WORKER, ", because it needs threads", "this waits for another thread, and there is none that could run"),
        ("import subprocess\nsubprocess.run('ls')", ", because it needs processes", "does not support processes"),
        ("1 / 0", "", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_package_whose_import_fails_is_refused_with_its_traceback_and_the_set_stays(
    sandbox_cache: Path, tmp_path: Path, source: str, reason: str, last: str
) -> None:
    library = PackageLibrary(tmp_path / "data")
    with pytest.raises(PackageRefused) as raised:
        library.add([str(write_wheel(tmp_path, "failing", source))], cache_dir=sandbox_cache, report=print)
    assert str(raised.value).startswith(f"failing cannot be imported in the sandbox{reason}:\nTraceback")
    assert last in str(raised.value).splitlines()[-1]
    assert library.added() == ()


@pytest.mark.packages
@pytest.mark.parametrize("source", ["while True: pass", "sum(range(10**12))"])
def test_an_import_that_never_ends_is_refused_by_name(sandbox_cache: Path, tmp_path: Path, source: str) -> None:
    wheel = read_wheel(write_wheel(tmp_path, "endless", source))
    words = r"^endless cannot be imported in the sandbox:\nit has not ended after 2 s of processor time$"
    with Runtime(sandbox_cache) as runtime, pytest.raises(BadPackage, match=words):
        bake_image([wheel], tmp_path / "image", runtime=runtime, on_progress=print, import_seconds=2)


@pytest.mark.packages
def test_threads_that_end_run_while_a_package_is_imported(sandbox_cache: Path, tmp_path: Path) -> None:
    source = "import threading\nseen = []\nthreading.Thread(target=seen.append, args=(1,)).start()\n"
    library = PackageLibrary(tmp_path / "data")
    image = library.add([str(write_wheel(tmp_path, "threaded", source))], cache_dir=sandbox_cache, report=print)
    with Runtime(sandbox_cache, image=image.folder) as runtime, runtime.session() as session:
        assert session.exec("import threaded\nthreaded.seen").value == "[1]"


@pytest.mark.packages
def test_a_package_that_only_another_requires_may_fail_to_be_imported_and_is_told(
    sandbox_cache: Path, tmp_path: Path
) -> None:
    write_wheel(tmp_path, "rlm_mcp_sockets", "print('starting')\n" + SOCKETS)
    user = write_wheel(
        tmp_path, "user", "print('hello')\ndef fetch():\n    import rlm_mcp_sockets\n", ["rlm_mcp_sockets"]
    )
    told = list[str]()
    library = PackageLibrary(tmp_path / "data")
    image = library.add([str(user)], cache_dir=sandbox_cache, find_links=[str(tmp_path)], report=told.append)
    assert (image.packages, image.imports) == (("rlm-mcp-sockets 1.0", "user 1.0"), ("user",))
    assert "rlm_mcp_sockets cannot be imported in the sandbox; the packages that need them can" in told
    with Runtime(sandbox_cache, image=image.folder) as runtime, runtime.session() as session:
        error = session.exec("import user\nuser.fetch()").error
        assert error is not None
        assert error.type == "OSError"

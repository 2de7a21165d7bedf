"""The template of sessions: the cache keeps the byte code of the prelude, and every process makes the same one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_mcp.repl.session import PRELUDE_MODULES, SessionTemplate
from wasm_runtime import Runtime
from wasm_runtime.compile_cache import copy_compiled, load_image
from wasm_runtime.machine.mapped_pages import page_map_available

LOADED = "import prelude, sys\n[name for name in sys.modules if name in NAMES], prelude.start.__code__.co_filename"


def installed(runtime: Runtime, cache: Path) -> str | None:
    """What sessions of a new template have of the prelude."""
    template = SessionTemplate(cache).get(runtime, [])
    with runtime.session(template=template) as session:
        return session.exec(LOADED.replace("NAMES", repr(PRELUDE_MODULES))).value


def test_byte_code_of_the_prelude_is_kept_and_made_again_where_it_is_damaged(
    sandbox_cache: Path, tmp_path: Path
) -> None:
    copy_compiled(load_image(), sandbox_cache, tmp_path)
    modules = (list(PRELUDE_MODULES), "/lib/python3.14/host/prelude.py")
    with Runtime(tmp_path) as runtime:
        assert installed(runtime, tmp_path) == repr(modules)
        (kept,) = (tmp_path / "wasm-runtime").glob("prelude-*")
        whole = kept.read_bytes()
        for data in (whole, whole[:-1], whole[1:], b""):
            kept.write_bytes(data)
            assert installed(runtime, tmp_path) == repr(modules)
            assert kept.read_bytes() == whole


NAMES = ("llm_query", "budget", "search")
MAKE = """
import sys
from pathlib import Path
from rlm_mcp.repl.session import SessionTemplate
from wasm_runtime import Runtime
with Runtime(Path(sys.argv[1])) as runtime:
    print(SessionTemplate(Path(sys.argv[1])).get(runtime, sys.argv[2:]).digest)
"""


@pytest.mark.parametrize("page_map", [page_map_available(), False])
def test_every_process_makes_the_same_template(sandbox_cache: Path, tmp_path: Path, page_map: bool) -> None:
    """Also at another time, with another cache and hash seed, and where the system does not report written pages."""
    copy_compiled(load_image(), sandbox_cache, tmp_path)
    with Runtime(sandbox_cache, page_map=page_map) as runtime:
        one, other = (SessionTemplate(sandbox_cache).get(runtime, NAMES) for _ in range(2))
    assert one.state == other.state
    command = [sys.executable, "-c", MAKE, str(tmp_path), *reversed(NAMES)]
    made = subprocess.run(  # noqa: S603 - a fixed command
        command, capture_output=True, text=True, check=True, timeout=60, env=os.environ | {"PYTHONHASHSEED": "7"}
    )
    assert made.stdout.strip() == one.digest == other.digest

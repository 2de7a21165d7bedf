"""The template of sessions: the cache keeps the byte code of the prelude."""

from pathlib import Path

from rlm_mcp.repl.session import PRELUDE_MODULES, SessionTemplate
from wasm_runtime import Runtime
from wasm_runtime.compile_cache import copy_compiled, load_image

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

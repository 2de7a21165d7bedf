"""Compiles the Python files of packages to byte code, by the guest: importing source takes 3 to 20 times as long."""

import base64
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from wasm_runtime.limits import Limits
from wasm_runtime.runtime import Runtime
from wasm_runtime.vfs.shared_files import SITE_PACKAGES

_THREADS = 2
# The form of PEP 552 with a hash that is not compared: nothing in it depends on a time.
_COMPILER = """
import base64, importlib.util, warnings
from importlib._bootstrap_external import _code_to_hash_pyc

def compiled(path, source):
    data = base64.b64decode(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(data, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    return base64.b64encode(_code_to_hash_pyc(code, importlib.util.source_hash(data), False)).decode()
"""


def with_byte_code(runtime: Runtime, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files with byte code in the place of source; a file that does not compile is left as it is."""
    sources = sorted(path for path in files if path.endswith(".py"))
    with ThreadPoolExecutor(_THREADS) as threads:
        parts = threads.map(lambda n: _compile(runtime, {p: files[p] for p in sources[n::_THREADS]}), range(_THREADS))
        made = {path: code for part in parts for path, code in part.items()}
    kept = {path: data for path, data in files.items() if path not in made}
    return kept | {f"{path}c": code for path, code in made.items()}


def _compile(runtime: Runtime, sources: Mapping[str, bytes]) -> dict[str, bytes]:
    made: dict[str, bytes] = {}
    with runtime.session(limits=Limits(cell_seconds=60.0)) as session:
        session.install("byte_code", _COMPILER)
        for path, source in sources.items():
            answer = session.call("byte_code:compiled", f"{SITE_PACKAGES}/{path}", base64.b64encode(source).decode())
            if isinstance(answer, str):
                made[path] = base64.b64decode(answer)
    return made

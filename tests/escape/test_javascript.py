"""JavaScript: there is none. Every way to it that Pyodide has in a browser raises an ordinary Python error."""

import pytest

from wasm_runtime import Session


@pytest.mark.parametrize(
    "code",
    [
        "import js",
        "from js import document",
        "from js import eval",
        "import pyodide_js",
        "import pyodide",
        "import _pyodide",
        "import _pyodide_core",
        "import pyodide.ffi",
        "from pyodide.code import run_js",
        "from pyodide.code import run_js; run_js('1 + 1')",
        "from pyodide.ffi import to_js, create_proxy, JsProxy",
        "from pyodide.http import pyfetch",
        "from pyodide.webloop import WebLoop",
        "import micropip",
        "import pyodide_http",
        "import emscripten",
        "import _emscripten",
        "import __hiwire",
        "import importlib; importlib.import_module('js')",
        "__import__('js').fetch('http://127.0.0.1')",
        "import sys; sys.modules['js'].globalThis",
        "import sys; sys.modules['pyodide_js'].x",
        "import _imp; _imp.create_builtin(__import__('importlib.util').util.spec_from_loader('_pyodide_core', None)).x",
        "[c for c in object.__subclasses__() if 'Js' in c.__name__][0]",
        "().__class__.__base__.__subclasses__()[0].constructor.constructor('return process')()",
        "(lambda: 0).constructor",
        "object.prototype",
        "[].__proto__.polluted",
        "import builtins; builtins.__js__",
        "import sys; sys._emscripten_info.run('1')",
    ],
)
def test_no_door_to_javascript_opens(session: Session, code: str) -> None:
    result = session.exec(code)
    assert result.error is not None
    assert result.error.type in {"ModuleNotFoundError", "ImportError", "AttributeError", "KeyError", "IndexError"}
    assert not result.undone

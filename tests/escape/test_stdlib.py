"""The standard library: every module imports or raises ImportError, and no function of any module traps.

Pyodide's module imports 250 functions of JavaScript; those that do not exist here trap when called. So every callable
of every module is called with a few meaningless arguments, to show that none of them leads to such a function.
"""

import ast
import zipfile
from collections import defaultdict
from collections.abc import Iterator

import pytest

from wasm_runtime import ExecResult, Limits, Runtime, Session
from wasm_runtime.compile_cache import load_image

LIMITS = Limits(memory_bytes=128 << 20, cell_seconds=10)

# These need JavaScript, processes, threads, libffi, or Windows.
ABSENT = {
    "_ctypes",
    "_interpreters",
    "_multiprocessing",
    "_posixshmem",
    "_pyodide",
    "codecs",
    "js",
    "msvcrt",
    "pyodide",
}
WINDOWS = {"asyncio.windows_events", "asyncio.windows_utils"}


def modules_by_package() -> dict[str, list[str]]:
    packages = defaultdict(list)
    with zipfile.ZipFile(load_image().stdlib) as archive:
        for path in archive.namelist():
            if path.endswith(".py") and not path.endswith("__main__.py") and "site-packages" not in path:
                name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
                packages[name.partition(".")[0]].append(name)
    return packages


PACKAGES = modules_by_package()


@pytest.fixture(scope="module")
def builtin_modules(runtime: Runtime) -> Iterator[list[str]]:
    with runtime.session(limits=LIMITS) as session:
        value = session.exec("import sys; ' '.join(sys.builtin_module_names)").value
        assert value is not None
        yield value.strip("'").split()


IMPORT_ALL = """
import builtins, importlib
failed = {}
for name in NAMES:
    try: importlib.import_module(name)
    except ImportError as error: failed[name] = error.name or str(error)
failed
"""


@pytest.fixture(scope="module", params=sorted(PACKAGES))
def imported(request: pytest.FixtureRequest, runtime: Runtime) -> Iterator[tuple[list[str], Session, ExecResult]]:
    """The modules of a package, a session that has imported them once, and how that ended."""
    names = PACKAGES[request.param]
    with runtime.session(limits=LIMITS) as session:
        yield names, session, session.exec(IMPORT_ALL.replace("NAMES", repr(names)))


def test_every_module_imports_or_says_what_is_absent(imported: tuple[list[str], Session, ExecResult]) -> None:
    _, _, result = imported
    assert result.error is None
    failed = ast.literal_eval(result.value or "")
    unexplained = {name: why for name, why in failed.items() if why.partition(".")[0] not in ABSENT}
    assert set(unexplained) <= WINDOWS


def test_every_builtin_module_imports(runtime: Runtime, builtin_modules: list[str]) -> None:
    with runtime.session(limits=LIMITS) as session:
        result = session.exec(IMPORT_ALL.replace("NAMES", repr(builtin_modules)))
        assert result.error is None
        failed = ast.literal_eval(result.value or "")
        assert failed == {"_ctypes": "_ctypes"}


# These exist to end or to break the interpreter; they have tests of their own.
DEADLY = [
    *["_exit", "abort", "exit", "quit", "kill", "killpg", "raise_signal", "_shutdown", "close", "closerange", "dup2"],
    *["_sigsegv", "_sigabrt", "_sigfpe", "_stack_overflow", "_fatal_error", "_fatal_error_c_thread", "_read_null"],
    *["dump_traceback_later", "breakpoint", "set_trace", "post_mortem", "pm", "interact", "help", "cli", "main", "run"],
    *["serve_forever", "read_input", "input", "raw_input", "RemoteUnwinder"],
]
# Reads the memory of other processes; as there are none, it reads beyond the end of its own.
NOT_CALLED = {"asyncio.tools"}

EXERCISE = """
import importlib, inspect, io, signal, sys

DEADLY = set(%(deadly)r)
ARGUMENTS = [(), (0,), ('x',), (b'x',), ('x', 'x'), (0, 0), ([],), (1 << 31,)]

def callables(module):
    for name in dir(module):
        if name not in DEADLY and not name.startswith('__'):
            found = inspect.getattr_static(module, name, None)
            if callable(found) and not (isinstance(found, type) and issubclass(found, BaseException)):
                yield name, getattr(module, name)

calls = 0
for module_name in %(names)r:
    try: module = importlib.import_module(module_name)
    except ImportError: continue
    for name, function in callables(module):
        last = module_name + '.' + name
        for arguments in ARGUMENTS:
            try: function(*arguments)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt): break
            calls += 1
calls
"""


def exercise(session: Session, names: list[str]) -> None:
    """Call everything in the modules. A call that does not end by itself is stopped, which is no failure."""
    result = session.exec("last = None\n" + EXERCISE % {"deadly": DEADLY, "names": names}, seconds=0.5)
    assert result.stopped_by in {None, "deadline", "exit", "stack"}, (names, result.error, result.stdout[-500:])


def test_no_callable_of_a_module_meets_a_trap(imported: tuple[list[str], Session, ExecResult]) -> None:
    names, session, _ = imported
    session.exec("kept = 1")
    exercise(session, [name for name in names if name not in NOT_CALLED])
    session.reset()
    assert session.exec("6 * 7").value == "42"


def test_no_callable_of_a_builtin_module_meets_a_trap(runtime: Runtime, builtin_modules: list[str]) -> None:
    for name in builtin_modules:
        # CPython's own test modules contain functions that crash on purpose; a name with a dot is of a package, whose
        # private functions may trap on nonsense, which is undone.
        if not name.startswith("_test") and "." not in name:
            with runtime.session(limits=LIMITS) as session:
                exercise(session, [name])

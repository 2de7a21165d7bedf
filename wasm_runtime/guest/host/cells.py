"""Runs cells: one block of code each, in `__main__`, and tells the host what came of it."""

import ast
import builtins
import inspect
import linecache
import numbers
import signal
import sys
import time
import traceback
import types

import __main__
import host
from host import loop, parallel
from host.streams import Stream

stdout, stderr = Stream(1, "<stdout>"), Stream(2, "<stderr>")

_OWN_FILES = host.__file__.rpartition("/")[0]
_VALUE_CHARS = 1 << 20
_TRACEBACK_CHARS = 1 << 14
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

# What the namespace holds before anything ran in it; `reset` of a session starts a new guest instead.
_exchange = host.exchange
_interruptible = False


def serve():
    """Fetch one request from the host, carry it out, report. Called by the host, once a request."""
    request = _exchange({"do": "next"})["ok"]
    if "entropy" in request:
        host.reseed(request["entropy"])
        for name in request["functions"]:
            setattr(__main__, name, host.function(name))
    report = _KINDS[request["kind"]](request)
    stdout.flush()
    stderr.flush()
    _exchange({"do": "done", "report": report})


def _run_cell(request):
    """Run code as a cell; the report holds the value of its last expression, or its exception."""
    global _interruptible
    name, code = request["name"], request["code"]
    sys.stdout, sys.stderr = stdout, stderr
    try:
        _interruptible = True
        value, shown = _execute(code, name)
        parallel.run_threads()
        shown = _cut(repr(value), _VALUE_CHARS) if shown else None
        _interruptible = False
        return {"value": shown}
    except BaseException as error:
        _interruptible = False
        _remember_lines(name, code)
        return {"error": _describe(error, name)}


def _on_interrupt(signum, frame):
    # Stops are repeated until the cell has ended; one that comes late must not hit the report on it.
    if _interruptible:
        raise KeyboardInterrupt


def _execute(code, name):
    tree = ast.parse(code, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    if any(isinstance(node, _DEFINITIONS) for node in tree.body):
        _remember_lines(name, code)  # what is defined here may fail in a later cell
    if tree.body:
        _evaluate(compile(tree, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True))
    if last is None:
        return None, False
    expression = ast.Expression(last.value)
    value = _evaluate(compile(expression, name, "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True))
    return value, value is not None


def _remember_lines(name, code):
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)


def _evaluate(code):
    if code.co_flags & inspect.CO_COROUTINE:
        return loop.run(types.FunctionType(code, __main__.__dict__)())
    return eval(code, __main__.__dict__)


def _describe(error, name):
    lines = [frame.tb_lineno for frame in _frames(error.__traceback__) if frame.tb_frame.f_code.co_filename == name]
    line = lines[-1] if lines else None
    if isinstance(error, SyntaxError) and error.filename == name:
        line = error.lineno
    return {
        "type": type(error).__name__,
        "message": _message(error),
        "line": line,
        "traceback": _cut(_traceback(error), _TRACEBACK_CHARS),
    }


def _frames(tb):
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _message(error):
    try:
        return _cut(str(error), _TRACEBACK_CHARS)
    except Exception as second:
        return f"<its __str__ raised {type(second).__name__}>"


def _traceback(error):
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        tb = tb.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, tb))
    except Exception as second:
        return f"{type(error).__name__}: <its traceback cannot be shown: {type(second).__name__}>"


def _cut(text, limit):
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def _sleep(seconds):
    """time.sleep on the host, where it can be stopped. Threads that were started run first."""
    if not isinstance(seconds, numbers.Real):
        raise TypeError(f"{type(seconds).__name__!r} object cannot be interpreted as an integer or float")
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    parallel.run_threads()
    host.sleep(float(seconds))


def _call(request):
    """Call `module:function` with JSON arguments; the report holds its JSON value."""
    module, _, function = request["function"].partition(":")
    try:
        return {"value": getattr(sys.modules[module], function)(*request["args"])}
    except BaseException as error:
        return {"error": {"type": type(error).__name__, "message": _message(error)}}


def _install(request):
    """Make a module from text."""
    name = request["module"]
    module = types.ModuleType(name)
    file = f"{_OWN_FILES}/{name}.py"
    module.__file__ = file
    sys.modules[name] = module
    try:
        exec(compile(request["source"], file, "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        return {"error": {"type": type(error).__name__, "message": _message(error)}}
    return {"value": None}


_KINDS = {"cell": _run_cell, "call": _call, "install": _install}
parallel.install()
builtins.parallel_map = parallel.parallel_map
time.sleep = _sleep
# libffi's calls go through JavaScript, which is not there: `import ctypes` is an ImportError.
sys.modules["_ctypes"] = None
signal.signal(signal.SIGINT, _on_interrupt)

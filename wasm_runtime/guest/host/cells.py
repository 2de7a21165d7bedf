"""Runs cells: one block of code each, in `__main__`, and tells the host what came of it."""

import ast
import builtins
import contextlib
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
_exchange, _tell = host.exchange, host.tell
_interruptible = False

# Given up when memory has run out, so that there is room to say so: more than one arena of CPython's allocator.
_RESERVE_BYTES = (1 << 20) + (1 << 17)
_reserve = bytearray(_RESERVE_BYTES)


def serve():
    """Fetch one request from the host, carry it out, report. Called by the host, once a request."""
    try:
        _carry_out(_exchange({"do": "next"})["ok"])
    except MemoryError:  # outside the cell's own code: while it was read, or told about
        _reserve.clear()
        _tell({"do": "done", "report": {"error": {"type": "MemoryError", "message": ""}}})


def _carry_out(request):
    if "entropy" in request:
        host.reseed(request["entropy"])
        for name in request["functions"]:
            setattr(__main__, name, host.function(name))
    report = _KINDS[request["kind"]](request)
    stdout.flush()
    stderr.flush()
    try:
        _tell({"do": "done", "report": report})
    except (TypeError, ValueError, RecursionError) as error:  # what a called function returned is not JSON
        _tell({"do": "done", "report": {"error": {"type": type(error).__name__, "message": str(error)}}})
    _keep_reserve()


def _keep_reserve():
    """Take the reserve again once there is ample room; until then cells that free memory need it themselves."""
    if not _reserve:
        with contextlib.suppress(MemoryError):
            _reserve.resize(4 * _RESERVE_BYTES)
            del _reserve[_RESERVE_BYTES:]


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
        if isinstance(error, MemoryError):
            _reserve.clear()
        _remember_lines(name, code)
        return {"error": _describe(error, name)}


def _on_interrupt(signum, frame):
    # Stops are repeated until the cell has ended; one that comes late must not hit the report on it.
    if _interruptible:
        raise KeyboardInterrupt


def _execute(code, name):
    """Return the value of the last expression, and whether there is one to show."""
    tree = ast.parse(code, name)
    if any(isinstance(node, _DEFINITIONS) for node in tree.body):
        _remember_lines(name, code)  # what is defined here may fail in a later cell
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    parts = [compile(tree, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)]
    if last is not None:
        expression = ast.Expression(last.value)
        parts.append(compile(expression, name, "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True))
    # One part that awaits puts all of the cell on the loop: `asyncio.create_task` before the `await` needs it too.
    if any(map(_awaits, parts)):
        value = loop.run(_awaited(parts))
    else:
        value = [eval(part, __main__.__dict__) for part in parts][-1]
    return value, last is not None and value is not None


async def _awaited(parts):
    for part in parts:
        value = eval(part, __main__.__dict__)
        if _awaits(part):
            value = await value
    return value


def _awaits(part):
    return part.co_flags & inspect.CO_COROUTINE


def _remember_lines(name, code):
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)


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
    try:
        whole = traceback.TracebackException.from_exception(error)
        for part in _chain(whole):
            part.stack[:] = _shown_frames(part.stack)
        return "".join(whole.format())
    except Exception as second:
        return f"{type(error).__name__}: <its traceback cannot be shown: {type(second).__name__}>"


def _shown_frames(frames):
    """Leave out what runs the cell, before its first line, and our own files."""
    cells = [number for number, frame in enumerate(frames) if frame.filename.startswith("<cell")]
    return [frame for frame in frames[cells[0] if cells else 0 :] if not frame.filename.startswith(_OWN_FILES)]


def _chain(told):
    """An exception and those it came from, without the exceptions inside groups."""
    while told is not None:
        yield told
        told = told.__cause__ or told.__context__


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
# libffi's calls go through JavaScript, which is not there, and neither is what Pyodide's own packages talk to; their
# Python halves come with the standard library's zip. Importing them is an ImportError.
for _missing in ("_ctypes", "pyodide", "_pyodide", "pyodide_js"):
    sys.modules[_missing] = None
signal.signal(signal.SIGINT, _on_interrupt)

"""Lasting tricks: changes that a cell leaves stay in its session, do not stop the next cell, and end with reset."""

import pytest

from wasm_runtime import Limits, Runtime

LIMITS = Limits(memory_bytes=128 << 20, cell_seconds=2)

TRICKS = {
    "trace": "import sys; sys.settrace(lambda *a: planted.append(1))",
    "profile": "import sys; sys.setprofile(lambda *a: planted.append(1))",
    "trace that raises": "import sys; sys.settrace(lambda *a: 1 / 0)",
    "audit hook": "import sys; sys.addaudithook(lambda *a: planted.append(1))",
    "audit hook that raises": "import sys\ndef hook(*a): raise RuntimeError('no')\nsys.addaudithook(hook)",
    "monitoring": (
        "import sys; m = sys.monitoring; m.use_tool_id(1, 'x')\n"
        "m.register_callback(1, m.events.LINE, lambda *a: planted.append(1)); m.set_events(1, m.events.LINE)"
    ),
    "at exit": "import atexit; atexit.register(lambda: planted.append(1))",
    "codec": "import codecs; codecs.register(lambda name: planted.append(name))",
    "gc callback": "import gc; gc.callbacks.append(lambda *a: planted.append(1))",
    "gc off": "import gc; gc.disable(); gc.set_threshold(0)",
    "poisoned module": "import sys, types; sys.modules['json'] = sys.modules['re'] = types.ModuleType('fake')",
    "import hook": "import sys\nclass F:\n    def find_spec(self, *a): planted.append(1)\nsys.meta_path.insert(0, F())",
    "path hook": "import sys; sys.path.insert(0, '/tmp'); sys.path_hooks.insert(0, lambda p: planted.append(p))",
    "module on disk": "open('/tmp/textwrap.py', 'w').write('planted = 1'); import sys; sys.path.insert(0, '/tmp')",
    "builtins": "import builtins; builtins.len = lambda x: 42; builtins.planted_too = 1",
    "open": "import builtins, io; builtins.open = io.open = lambda *a: 5",
    "excepthook": "import sys; sys.excepthook = sys.unraisablehook = lambda *a: planted.append(1)",
    "displayhook": "import sys; sys.displayhook = lambda v: planted.append(v)",
    "breakpoint": "import sys; sys.breakpointhook = lambda: planted.append(1)",
    "stdout": "import sys, io; sys.stdout = io.StringIO()",
    "warnings": "import warnings; warnings.showwarning = lambda *a: 1 / 0; warnings.simplefilter('error')",
    "decimal context": "import decimal; decimal.getcontext().prec = 1",
    "locale": "import locale; locale.setlocale(locale.LC_ALL, 'C')",
    "recursion limit": "import sys; sys.setrecursionlimit(60)",
    "integer digits": "import sys; sys.set_int_max_str_digits(640)",
    "switch interval": "import sys; sys.setswitchinterval(1e-6)",
    "environment": "import os; os.environ['PLANTED'] = '1'",
    "directory": "import os; os.chdir('/tmp')",
    "mask": "import os; os.umask(0o777)",
    "random seed": "import random; random.seed(1); random.seed = lambda *a: None",
    "time": "import time; time.time = time.sleep = lambda *a: 0",
    "event loop policy": "import asyncio; asyncio.run = asyncio.gather = None",
    "task left running": (
        "import asyncio\nasync def tick():\n    while True: await asyncio.sleep(0)\n"
        "t = asyncio.create_task(tick())\nawait asyncio.sleep(0)\nt"
    ),
    "signal handler": "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
    "alarm": "import signal\ntry: signal.alarm(1)\nexcept Exception: pass",
    "thread left": "import threading; threading.Thread(target=lambda: planted.append(1)).start()",
    "thread hooks": "import threading; threading.settrace(print); threading.setprofile(print)",
    "ast": "import ast; ast.parse = ast.Expr = ast.FunctionDef = None",
    "linecache": "import linecache; linecache.cache.clear(); linecache.getlines = None",
    "copyreg": "import copyreg; copyreg.dispatch_table.clear()",
    "class of int": "import numbers; numbers.Number.register(str)",
    "frozen file": "import os; os.close(0); os.dup2(1, 2)",
    "descriptors": "import os; fds = [os.open('/dev/null', 0) for _ in range(500)]",
    "files": "for n in range(200): open(f'/tmp/{n}', 'w').write('x' * 1000)",
    "weak reference": "import weakref\nclass C: pass\nc = C(); weakref.finalize(c, lambda: planted.append(1)); del c",
    "immortal": "import sys; x = sys.intern('planted' * 1000)",
    "namespace": "__name__ = 'other'; __builtins__ = {'len': 5}; __file__ = '/etc/passwd'",
    "class that cannot die": "class D:\n    def __del__(self):\n        global d\n        d = self\nd = D(); del d",
    "host module": "import host; host.call = host.exchange = host.wait = None",
    "underscore names": "_ = __ = ___ = 1; __annotations__ = 5",
}

PRISTINE = """
import asyncio, decimal, gc, json, os, random, re, sys, textwrap
facts = [
    'planted' in globals(), 'planted_too' in dir(__builtins__), len('abc'), json.loads('[1]'), re.findall('a', 'aa'),
    sys.gettrace(), sys.getprofile(), gc.isenabled(), gc.callbacks, len(sys.meta_path), '/tmp' in sys.path,
    dict(os.environ), os.getcwd(), os.listdir('/tmp'), sys.getrecursionlimit() > 500, decimal.getcontext().prec,
    textwrap.dedent(' a'), sys.stdout.name, __name__, type(open('/dev/null')).__name__, echo('echo'),
    str(decimal.Decimal(1) / 3)[:6], asyncio.run(asyncio.sleep(0, 'slept')), 'host' in sys.modules,
]
"""
print_facts = PRISTINE + "facts"


@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS)
def test_a_trick_touches_no_other_session_and_is_gone_after_reset(runtime: Runtime, trick: str) -> None:
    calls = {"echo": lambda value: value}
    with runtime.session(limits=LIMITS, calls=calls) as one, runtime.session(limits=LIMITS, calls=calls) as other:
        pristine = other.exec(print_facts)
        assert pristine.error is None
        one.exec("planted = []\n" + trick)
        one.exec("x = 1\ny = [n for n in range(10)]\nprint(x)")
        with runtime.session(limits=LIMITS, calls=calls) as later:
            assert later.exec(print_facts).value == pristine.value
        other.reset()
        assert other.exec(print_facts).value == pristine.value
        one.reset()
        assert one.exec(print_facts).value == pristine.value


def test_a_trick_is_undone_with_its_cell(runtime: Runtime) -> None:
    with runtime.session(limits=LIMITS) as session:
        session.exec("import builtins, os, sys")
        session.exec("builtins.len = None; sys.modules.clear(); os.chdir('/tmp'); os._exit(1)")
        assert session.exec("len('abc'), len(sys.modules) > 100, os.getcwd()").value == "(3, True, '/home')"


def test_a_trick_is_not_in_a_checkpoint_made_before_it(runtime: Runtime) -> None:
    with runtime.session(limits=LIMITS) as session:
        session.exec("import builtins; kept = 1")
        saved = session.checkpoint()
        session.exec("builtins.abs = lambda x: 42; kept = 2")
        assert session.exec("abs(-3)").value == "42"
        session.restore(saved)
        assert session.exec("abs(-3), kept").value == "(3, 1)"


def test_a_trick_in_a_fork_stays_there(runtime: Runtime) -> None:
    with runtime.session(limits=LIMITS) as session, session.fork() as fork:
        fork.exec("import builtins; builtins.abs = lambda x: 42")
        assert (session.exec("abs(-3)").value, fork.exec("abs(-3)").value) == ("3", "42")

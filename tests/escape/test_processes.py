"""Processes and native code: none can be started, and damage inside the guest stays inside."""

import os

import pytest

from wasm_runtime import Runtime, Session


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.fork()",
        "import os; os.forkpty()",
        "import os; os.execv('/bin/sh', ['sh'])",
        "import os; os.execvp('sh', ['sh'])",
        "import os; os.posix_spawn('/bin/sh', ['sh'], {})",
        "import os; os.spawnv(os.P_WAIT, '/bin/sh', ['sh'])",
        "import os; os.popen('ls').read()",
        "import subprocess; subprocess.run(['ls'])",
        "import subprocess; subprocess.Popen('ls', shell=True)",
        "import subprocess; subprocess.check_output('id')",
        "import pty; pty.spawn('sh')",
        "import multiprocessing; multiprocessing.Process(target=print).start()",
        "import multiprocessing; multiprocessing.Pool(2).map(str, [1])",
        "import multiprocessing.shared_memory as m; m.SharedMemory(create=True, size=10)",
        "from concurrent.futures import ProcessPoolExecutor as P; list(P().map(str, [1]))",
        "import _thread; _thread.start_new_thread(print, ())",
        "import _interpreters; _interpreters.run_string(_interpreters.create(), 'import os; os.abort()')",
        "import asyncio; await asyncio.create_subprocess_exec('ls')",
        "import os; os.kill(1, 9)",
        "import os; os.killpg(1, 9)",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1, 1))",
        "import venv; venv.create('/tmp/v', with_pip=True)",
        "import webbrowser; 1 / webbrowser.open('http://127.0.0.1/')",
        "import ctypes",
        "import cffi",
        "import _ctypes",
        "import ensurepip; ensurepip.bootstrap()",
    ],
)
def test_nothing_can_be_started_or_loaded(session: Session, code: str) -> None:
    result = session.exec(code, seconds=10)
    assert result.error is not None
    assert (result.stopped_by, result.error.type) != ("trap", "SystemError"), result.error


@pytest.mark.parametrize("code", ["import os; os.system('ls > /tmp/x')", "import os; os.system('')"])
def test_a_shell_command_fails(session: Session, code: str) -> None:
    result = session.exec(code)
    assert result.value != "0" or result.error is not None
    assert session.exec("import os; os.path.exists('/tmp/x')").value == "False"


@pytest.mark.parametrize(
    "code", ["import sys; sys.exit(3)", "exit(3)", "raise SystemExit(3)", "import os; os.kill(os.getpid(), 15)"]
)
def test_leaving_ends_the_cell_only(session: Session, code: str) -> None:
    result = session.exec("print('before')\n" + code)
    assert result.stdout == "before\n"
    assert result.error is not None


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "import os; os._exit(77)",
        "import os; os.abort()",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os, signal; os.kill(os.getpid(), signal.SIGABRT)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "import faulthandler; faulthandler._sigsegv()",
        "import faulthandler; faulthandler._stack_overflow()",
        "import faulthandler; faulthandler._fatal_error_c_thread()",
        "import _testcapi; _testcapi.crash_no_current_thread()",
        "import sys; sys._debugmallocstats(); import os; os._exit(1)",
    ],
)
def test_killing_the_interpreter_is_undone(session: Session, code: str) -> None:
    result = session.exec("kept.append('lost')\n" + code)
    if not result.undone:
        assert result.error is not None
        session.exec("kept.remove('lost')")


@pytest.mark.parametrize(
    "code",
    [
        "exec((lambda: 0).__code__.replace(co_code=b'\\x09' * 1000))",
        "exec((lambda: 0).__code__.replace(co_code=bytes(range(256)) * 2))",
        "exec((lambda: 0).__code__.replace(co_stacksize=0, co_code=b'\\x65\\x00' * 100))",
        "exec((lambda: 0).__code__.replace(co_consts=(), co_code=(lambda: 0).__code__.co_code))",
        "exec((lambda: 0).__code__.replace(co_nlocals=0, co_varnames=()))",
        "exec((lambda x: x).__code__.replace(co_argcount=0, co_flags=0, co_code=b'\\x55\\xff' * 50))",
        "def g(): yield\ng.__code__ = g.__code__.replace(co_code=b'\\x50\\x00' * 40); next(g())",
        "import marshal; exec(marshal.loads(bytes([0xe3]) + bytes(range(200))))",
        "import marshal; marshal.loads(b'\\xe3' + b'\\xff' * 100)",
        "import marshal; marshal.loads(b'r\\xff\\xff\\xff\\x7f')",
        "import marshal; marshal.loads(b'[\\xff\\xff\\xff\\x7f')",
        "import pickle; pickle.loads(b'\\x80\\x04\\x95\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x7f')",
        "import pickle; pickle.loads(b'cos\\nsystem\\n(S\"ls\"\\ntR.')",
        "import pickle; pickle.loads(b'cos\\n_exit\\n(I1\\ntR.')",
        "import gc; [o.clear() for o in gc.get_objects() if type(o) is dict]",
        "import gc; [o.__dict__.clear() for o in gc.get_objects() if type(o) is type(gc) and o.__name__ != 'gc']",
        "import sys; sys.modules.clear()",
        "import sys; [sys.modules.pop(m) for m in list(sys.modules)]; import os",
        "import builtins; builtins.__dict__.clear()",
        "import host; host.__dict__.clear()",
        "import _testinternalcapi; _testinternalcapi.set_eval_frame_default()",
        "type.__call__ = None",
        "object.__new__ = None",
        "import _imp; _imp._override_multi_interp_extensions_check(1); _imp.create_builtin(None)",
        "(lambda f: f.f_back.clear())(__import__('sys')._getframe())",
        "import sys; f = sys._getframe()\nwhile f: f.f_locals.update(x=1); f = f.f_back",
        "import _asyncio; _asyncio._set_running_loop(5)",
        "import signal; signal.raise_signal(11)",
        "import io; f = io.FileIO.__new__(io.FileIO); f.read()",
        "import sqlite3; c = sqlite3.connect(':memory:'); c.enable_load_extension(True); c.load_extension('/lib/x')",
        "import sqlite3; sqlite3.connect(':memory:').execute('select ' + '(' * 5000 + '1' + ')' * 5000)",
        "import _sre; _sre.compile('', 0, [1, 2, 3], 0, {}, ())",
        "import struct; struct.unpack_from('<Q', b'x' * 8, -9)",
        "memoryview(b'abc').cast('B').__getitem__(10 ** 9)",
        "import array; array.array('q', [1]).frombytes(b'x')",
    ],
)
def test_damage_stays_inside_and_is_an_exception_or_undone(broken_session: Session, code: str) -> None:
    broken_session.exec(code, seconds=2)


def test_the_host_never_unpickles_what_a_guest_sends(runtime: Runtime) -> None:
    with runtime.session(calls={"echo": lambda value: value}) as session:
        code = """
import pickle, base64
class Evil:
    def __reduce__(self): return (exec, ('import os; os.environ["PWNED"] = "1"',))
echo(base64.b64encode(pickle.dumps(Evil())).decode())
from host.parallel import parallel_map
parallel_map(lambda n: Evil(), [1, 2])
"""
        session.exec(code, seconds=10)
    assert "PWNED" not in os.environ

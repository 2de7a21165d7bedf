"""Leaks: the guest learns nothing about the host, and sessions share no randomness."""

import ast
import getpass
import os
import platform
import socket
import sys
import time
from pathlib import Path

import pytest

from wasm_runtime import CallRefused, Checkpoint, Limits, Runtime, Session, Template

EVERYTHING = """
import gc, os, platform, sys, sysconfig, getpass, locale, time
told = [
    dict(os.environ), os.getcwd(), os.getpid(), os.getppid(), os.uname(), os.getuid(), os.cpu_count(), sys.argv,
    sys.path, sys.executable, sys.prefix, sys.flags, sys.version, platform.uname(), platform.platform(), time.tzname,
    sysconfig.get_paths(), sysconfig.get_config_vars(), os.path.expanduser('~'), locale.getlocale(), sys.orig_argv,
    [o for o in gc.get_objects() if isinstance(o, (str, bytes))],
]
for ask in [getpass.getuser, os.getlogin, platform.node, lambda: __import__('pwd').getpwall(), lambda: os.getgroups()]:
    try: told.append(ask())
    except Exception as error: told.append(error)
repr(told)
"""


def host_secrets() -> list[str]:
    """Return texts that identify this machine and this process, without short and common words."""
    secrets = [socket.gethostname(), platform.node(), str(Path.home()), str(Path.cwd()), sys.executable, sys.prefix]
    secrets += [getpass.getuser()] if getpass.getuser() not in {"root", "user", "home"} else []
    secrets += [value for name, value in os.environ.items() if len(value) > 12 and name != "LANG"]
    return [secret for secret in secrets if len(secret) > 5]


def test_nothing_that_a_guest_can_ask_for_names_this_machine(runtime: Runtime) -> None:
    with runtime.session(limits=Limits(memory_bytes=128 << 20)) as session:
        told = session.exec(EVERYTHING)
        assert told.value is not None
        assert [secret for secret in host_secrets() if secret in told.value] == []


def test_nothing_in_guest_memory_names_this_machine(runtime: Runtime) -> None:
    with runtime.session(limits=Limits(memory_bytes=128 << 20), files={"/context/a": Path(__file__)}) as session:
        session.exec("text = open('/context/a').read(); import socket; del text")
        everything = b"".join(data for _, data in session.checkpoint().runs)
        names = [s for s in host_secrets() if s.encode() in everything]
        assert names == []


def test_the_environment_is_empty_but_for_what_packages_need(session: Session, image: Path | None) -> None:
    of_packages = {"HOME": "/home", "MPLBACKEND": "agg", "MPLCONFIGDIR": "/tmp/matplotlib"}
    assert session.exec("import os; dict(os.environ)").value == repr({} if image is None else of_packages)


def test_the_process_is_nobody(session: Session) -> None:
    assert session.exec("import os; os.getpid(), os.getppid(), os.getuid(), os.getgid()").value == "(42, 1, 0, 0)"


def test_the_clock_has_no_finer_step_than_a_microsecond(session: Session) -> None:
    code = "import time as t; [n() % 1000 for n in (t.time_ns, t.monotonic_ns, t.perf_counter_ns, t.process_time_ns)]"
    assert session.exec(code).value == "[0, 0, 0, 0]"


def test_the_clock_does_not_tell_how_long_the_machine_has_been_up(session: Session) -> None:
    code = "import time; [n() < 60 for n in (time.monotonic, time.perf_counter, time.process_time)]"
    assert session.exec(code).value == "[True, True, True]"


def test_the_guest_lives_in_universal_time(session: Session) -> None:
    code = "import time; time.tzname, time.timezone, time.localtime(0)[:6] == time.gmtime(0)[:6]"
    assert session.exec(code).value == "(('UTC', 'UTC'), 0, True)"


DRAWS = [
    "__import__('random').random()",
    "__import__('random').Random().random()",
    "__import__('random').SystemRandom().random()",
    "__import__('uuid').uuid4()",
    "__import__('uuid').uuid1()",
    "__import__('secrets').token_hex()",
    "__import__('os').urandom(16)",
    "open('/dev/urandom', 'rb').read(16)",
    "__import__('tempfile').mktemp()",
]


@pytest.mark.parametrize("draw", DRAWS)
def test_randomness_differs_between_sessions(runtime: Runtime, draw: str) -> None:
    with runtime.session() as one, runtime.session() as other:
        assert one.exec(draw).value != other.exec(draw).value


@pytest.mark.parametrize(
    "draw", ["__import__('random').random()", "__import__('uuid').uuid4()", "__import__('os').urandom(9)"]
)
def test_randomness_differs_between_copies_and_after_reset_and_restore(runtime: Runtime, draw: str) -> None:
    with runtime.session() as session:
        session.exec("1")
        saved = session.checkpoint()
        with session.fork() as fork:
            drawn = [session.exec(draw).value, fork.exec(draw).value]
        session.restore(saved)
        drawn.append(session.exec(draw).value)
        session.reset()
        drawn.append(session.exec(draw).value)
        assert len(set(drawn)) == 4


@pytest.fixture
def template(runtime: Runtime) -> Template:
    """One that every process makes alike: its random bytes are known to everybody, and its clock stands still."""
    with runtime.session(reproducible=True) as session:
        code = "import datetime, os, random, secrets, tempfile, time, uuid\nrandom.random(), uuid.uuid4(), time.time()"
        assert session.exec(code).value is not None
        return runtime.template(session.checkpoint())


@pytest.mark.parametrize("draw", DRAWS)
def test_randomness_differs_between_sessions_copies_and_restored_states_of_a_template_that_is_always_the_same(
    runtime: Runtime, template: Template, draw: str
) -> None:
    with runtime.session(template=template) as one, runtime.session(template=template) as other:
        one.exec("1")
        saved = one.checkpoint().to_bytes(with_template=False)
        with one.fork() as fork:
            drawn = [session.exec(draw).value for session in (one, other, fork)]
        for session in (one, other):
            session.restore(Checkpoint.from_bytes(saved, template))
            drawn.append(session.exec(draw).value)
        one.reset()
        drawn.append(one.exec(draw).value)
    with runtime.session(reproducible=True) as session:
        drawn.append(session.exec(draw).value)
    assert None not in drawn
    assert len(set(drawn)) == 7


def test_sessions_of_a_template_that_is_always_the_same_see_todays_clocks(runtime: Runtime, template: Template) -> None:
    look = "time.time(), datetime.datetime.now().timestamp(), os.stat('/tmp/f').st_mtime"
    code = f"import time\nbefore = time.monotonic()\nopen('/tmp/f', 'w').close()\n[{look}, time.monotonic() > before]"
    with runtime.session(template=template) as one, runtime.session(template=template) as other:
        one.exec("1")
        other.restore(Checkpoint.from_bytes(one.checkpoint().to_bytes(with_template=False), template))
        for session in (one, other):
            started = time.time()
            *seen, has_moved = ast.literal_eval(session.exec(code).value or "")
            assert has_moved
            assert all(started - 1 < second < time.time() + 1 for second in seen)


def test_the_memory_of_a_closed_session_is_not_seen_by_the_next(runtime: Runtime) -> None:
    with runtime.session(limits=Limits(memory_bytes=128 << 20)) as one:
        one.exec("hoard = [('secret-%d' % i) * 20 for i in range(20_000)]")
    with runtime.session(limits=Limits(memory_bytes=128 << 20)) as other:
        other.exec("fresh = bytearray(8 << 20)")
        memory = b"".join(data for _, data in other.checkpoint().runs)
        assert b"secret-1" not in memory


def test_what_was_forgotten_by_reset_is_not_in_memory(runtime: Runtime) -> None:
    with runtime.session(limits=Limits(memory_bytes=128 << 20)) as session:
        session.exec("hoard = [('secret-%d' % i) * 20 for i in range(20_000)]")
        session.reset()
        session.exec("fresh = bytearray(8 << 20)")
        assert b"secret-1" not in b"".join(data for _, data in session.checkpoint().runs)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("password 1234"),
        OSError(2, "no", "/home/me/key"),
        KeyError("token"),
        RecursionError("secret"),
        UnicodeDecodeError("utf-8", b"secret", 0, 1, "secret"),
    ],
)
def test_an_error_of_a_host_function_shows_a_general_text_only(runtime: Runtime, error: Exception) -> None:
    def fail() -> None:
        raise error

    with runtime.session(calls={"fail": fail}) as session:
        result = session.exec("fail()")
        assert result.error is not None
        assert (result.error.type, result.error.message) == ("RuntimeError", "the host function fail failed")
        assert "secret" not in result.error.traceback
        assert __file__ not in result.error.traceback


def test_a_value_of_a_host_function_that_is_no_json_shows_a_general_text_only(runtime: Runtime) -> None:
    with runtime.session(calls={"give": lambda: Path("/home/me/secret")}) as session:
        result = session.exec("give()")
        assert result.error is not None
        assert result.error.message == "the host function give failed"


def test_a_refusal_shows_its_text(runtime: Runtime) -> None:
    def refuse() -> None:
        raise CallRefused("the budget of 3 calls is spent")

    with runtime.session(calls={"refuse": refuse}) as session:
        result = session.exec("refuse()")
        assert result.error is not None
        assert (result.error.type, result.error.message) == ("RuntimeError", "the budget of 3 calls is spent")


def test_a_traceback_names_no_file_but_the_cell(session: Session) -> None:
    result = session.exec("def f():\n    return 1 / 0\nf()")
    assert result.error is not None
    assert "/" not in result.error.traceback.replace("1 / 0", "")
    assert result.error.line == 2


def test_a_checkpoint_holds_no_text_of_a_mounted_file_that_was_not_read(runtime: Runtime) -> None:
    with runtime.session(files={"/context/a": "only-on-the-host " * 1000}) as session:
        session.exec("import os; os.path.getsize('/context/a')")
        saved = session.checkpoint()
        assert b"only-on-the-host" not in saved.files + b"".join(data for _, data in saved.runs)
        assert Checkpoint.from_bytes(saved.to_bytes()) == saved

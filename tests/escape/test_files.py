"""Files: each session has one tree of its own, which contains nothing of the host except mounted files."""

import os
import tempfile
from pathlib import Path

import pytest

from wasm_runtime import Limits, Runtime, Session

OUTSIDE = [
    "/etc/passwd",
    "/etc/hostname",
    "/proc/self/environ",
    "/proc/self/maps",
    "/proc/self/fd/0",
    "/proc/1/cmdline",
    "/sys/class/net",
    "/root/.ssh",
    "/dev/mem",
    "/dev/kmsg",
    "/dev/tty",
    "/var/run/docker.sock",
    "//etc/passwd",
    "/./etc//passwd",
    "../" * 40 + "etc/passwd",
    "/tmp/../../../../etc/passwd",
    "/context/../../etc/passwd",
    "/lib/python314.zip/../../../etc/passwd",
    "~/.bashrc",
    "file:///etc/passwd",
    "C:\\Windows\\win.ini",
    "\\\\host\\share",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_of_the_host_lead_nowhere(session: Session, path: str) -> None:
    result = session.exec(f"open({path!r}, 'rb').read()")
    assert result.error is not None
    assert result.error.type in {"FileNotFoundError", "NotADirectoryError"}


def test_the_path_of_this_very_file_leads_nowhere(session: Session) -> None:
    result = session.exec(f"import os; [os.path.exists(p) for p in {[__file__, str(Path.cwd()), str(Path.home())]!r}]")
    assert result.value == "[False, False, False]"


def test_walking_the_whole_tree_meets_only_what_a_guest_has(session: Session) -> None:
    code = "import os\nfound = sorted(os.path.join(top, f) for top, _, files in os.walk('/') for f in files)\n"
    code += "[path for path in found if not path.startswith(('/usr/share/zoneinfo/', '/usr/lib/python3.14/'))]"
    devices = [f"/dev/{name}" for name in ("host", "null", "stderr", "stdin", "stdout", "urandom", "zero")]
    assert session.exec(code).value == repr([*devices, "/lib/python314.zip"])


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/passwd", "/proc/self/root/etc/passwd", "/tmp/loop"])
def test_a_symbolic_link_leads_nowhere_outside(session: Session, target: str) -> None:
    code = f"import os\nif os.path.lexists('/tmp/loop'): os.unlink('/tmp/loop')\nos.symlink({target!r}, '/tmp/loop')"
    assert session.exec(code).error is None
    result = session.exec("open('/tmp/loop').read()")
    assert result.error is not None
    assert result.error.type in {"FileNotFoundError", "OSError"}


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("'a\\0b'", "ValueError"),
        ("'/tmp/' + 'x' * 10**6", "OSError"),
        ("'x/' * 10**5 + 'y'", "OSError"),
        ("''", "FileNotFoundError"),
        ("'/tmp/\\ud800'", "OSError"),
        ("b'/tmp/\\xff\\xfe'", None),
        ("'/tmp/' + 'n' * 256", "OSError"),
    ],
)
def test_odd_paths_are_refused_by_an_exception(session: Session, path: str, error: str | None) -> None:
    result = session.exec(f"open({path}, 'w').close()")
    assert (result.error and result.error.type in {error, "UnicodeEncodeError"}) or (result.error, error) == (
        None,
        None,
    )


def test_no_small_descriptor_reads_anything(session: Session) -> None:
    code = """
import os
found = {}
for fd in [*range(-3, 300), 1023, 1024, 2**31 - 1]:
    if fd == 3: continue
    try: found[fd] = os.read(fd, 100)
    except OSError: pass
found
"""
    assert session.exec(code).value == "{0: b''}"


def test_standard_input_is_empty(session: Session) -> None:
    result = session.exec("input()")
    assert result.error is not None
    assert result.error.type == "EOFError"


@pytest.mark.parametrize(
    "code",
    [
        "open('/context/notes.txt', 'w')",
        "open('/context/notes.txt', 'a')",
        "open('/context/notes.txt', 'r+')",
        "open('/context/new.txt', 'w')",
        "os.unlink('/context/notes.txt')",
        "os.rename('/context/notes.txt', '/tmp/notes.txt')",
        "os.rename('/tmp', '/context/tmp')",
        "os.truncate('/context/notes.txt', 0)",
        "os.chmod('/context/notes.txt', 0o777)",
        "os.chown('/context/notes.txt', 1, 1)",
        "os.utime('/context/notes.txt')",
        "os.mkdir('/context/dir')",
        "os.rmdir('/context')",
        "os.symlink('/tmp', '/context/link')",
        "os.link('/context/notes.txt', '/tmp/hard')",
        "shutil.rmtree('/context')",
        "open('/lib/python314.zip', 'r+b')",
        "os.unlink('/lib/python314.zip')",
        "os.unlink('/dev/host')",
        "os.rename('/dev/null', '/tmp/null')",
        "os.mkdir('/new')",
        "os.chmod('/', 0o777)",
        "os.mknod('/tmp/node', 0o20666, os.makedev(1, 1))",
        "os.mkfifo('/tmp/fifo')",
        "os.chroot('/tmp')",
        "os.mount('/tmp', '/context')",
    ],
)
def test_what_belongs_to_the_host_cannot_be_changed(runtime: Runtime, tmp_path: Path, code: str) -> None:
    (tmp_path / "notes.txt").write_text("as it was")
    files = {"/context/notes.txt": tmp_path / "notes.txt"}
    with runtime.session(limits=Limits(memory_bytes=128 << 20), files=files) as session:
        result = session.exec("import os, shutil\n" + code)
        assert result.error is not None
        assert result.error.type in {"OSError", "PermissionError", "AttributeError", "FileExistsError"}
        assert session.exec("open('/context/notes.txt').read()").value == "'as it was'"
    assert (tmp_path / "notes.txt").read_text() == "as it was"


def test_a_descriptor_of_a_mounted_file_takes_no_writes(runtime: Runtime) -> None:
    with runtime.session(files={"/context/a": b"as it was"}) as session:
        code = "import os\nfd = os.open('/context/a', os.O_RDONLY)\nos.write(fd, b'x')"
        result = session.exec(code)
        assert result.error is not None
        assert result.error.message.startswith("[Errno 8]")
        for call in ["os.ftruncate(fd, 0)", "os.fchmod(fd, 0o777)", "os.pwrite(fd, b'x', 0)"]:
            assert session.exec(call).error is not None
        assert session.exec("open('/context/a').read()").value == "'as it was'"


def test_a_mounted_file_replaced_by_a_link_to_a_secret_is_not_followed(runtime: Runtime, tmp_path: Path) -> None:
    shown, secret = tmp_path / "shown", tmp_path / "secret"
    shown.write_text("public")
    secret.write_text("secret")
    with runtime.session(files={"/context/shown": shown}) as session:
        assert session.exec("open('/context/shown').read()").value == "'public'"
        shown.unlink()
        shown.symlink_to(secret)
        result = session.exec("open('/context/shown').read()")
        assert result.error is not None
        assert result.error.type == "OSError"


def test_a_mounted_file_cut_short_under_the_guest_is_an_error_and_no_crash(runtime: Runtime, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.write_bytes(bytes(1 << 20))
    with runtime.session(files={"/context/shown": shown}) as session:
        session.exec("f = open('/context/shown', 'rb'); len(f.read(10))")
        os.truncate(shown, 5)
        result = session.exec("len(f.read())")
        assert result.error is not None
        assert result.error.type == "OSError"


def test_what_is_written_to_tmp_is_not_on_the_host(session: Session) -> None:
    name = "escape-canary-7f3a"
    assert (
        session.exec(f"open('/tmp/{name}', 'w').write('x'); import os; os.path.exists('/tmp/{name}')").value == "True"
    )
    assert not Path("/tmp", name).exists()
    assert not Path(tempfile.gettempdir(), name).exists()


def test_one_session_does_not_see_the_files_of_another(runtime: Runtime) -> None:
    with runtime.session() as one, runtime.session() as other:
        one.exec("open('/tmp/mine', 'w').write('secret')")
        assert other.exec("import os; os.listdir('/tmp')").value == "[]"
        fork = one.fork()
        fork.exec("open('/tmp/mine', 'a').write(' and more'); open('/tmp/new', 'w').close()")
        assert one.exec("import os; (open('/tmp/mine').read(), os.listdir('/tmp'))").value == "('secret', ['mine'])"
        fork.close()


def test_files_of_an_undone_cell_are_undone(session: Session) -> None:
    session.exec("import os; open('/tmp/kept', 'w').write('before')")
    code = "open('/tmp/kept', 'w').write('after'); open('/tmp/new', 'w').close(); os.chdir('/tmp'); os._exit(0)"
    assert session.exec(code).undone
    assert (
        session.exec("(open('/tmp/kept').read(), os.listdir('/tmp'), os.getcwd())").value
        == "('before', ['kept'], '/home')"
    )


def test_closing_every_descriptor_is_undone(session: Session) -> None:
    assert session.exec("import os; os.closerange(0, 1024)").undone
    assert session.exec("print('still here')").stdout == "still here\n"


def test_replacing_the_descriptor_of_the_host_channel_is_undone(session: Session) -> None:
    code = "import os; os.dup2(os.open('/tmp/fake', os.O_RDWR | os.O_CREAT), 3)"
    assert session.exec(code).undone


def test_opening_files_until_none_can_be_opened_uses_none_of_the_host(session: Session) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    code = "import os\nfds = []\nwhile True: fds.append(os.open('/lib/python314.zip', os.O_RDONLY))"
    result = session.exec(code, seconds=5)
    assert result.error is not None
    assert (result.error.type, result.error.message[:10]) == ("OSError", "[Errno 33]")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    session.exec("for fd in fds: os.close(fd)")


def test_mapping_a_mounted_file_for_writing_is_refused(runtime: Runtime) -> None:
    with runtime.session(files={"/context/a": b"as it was"}) as session:
        code = "import mmap, os\nmmap.mmap(os.open('/context/a', os.O_RDONLY), 9)[0]"
        result = session.exec(code)
        assert result.error is not None
        assert result.error.type in {"OSError", "PermissionError"}
        assert session.exec("open('/context/a').read()").value == "'as it was'"


def test_times_and_sizes_at_the_ends_of_their_ranges_are_refused_or_kept(session: Session) -> None:
    code = """
import os
path = '/tmp/extreme'
open(path, 'w').close()
for action in [
    lambda: os.utime(path, ns=(2**63 - 1, 2**63 - 1)), lambda: os.utime(path, (2**62, 2**62)),
    lambda: os.utime(path, ns=(-2**63, -2**63)), lambda: os.truncate(path, 2**40), lambda: os.truncate(path, 2**63 - 1),
    lambda: os.lseek(os.open(path, os.O_RDWR), 2**63 - 1, 0), lambda: os.pwrite(os.open(path, os.O_RDWR), b'x', 2**62),
    lambda: os.stat(path), lambda: os.statvfs('/tmp'), lambda: os.truncate(path, 2**40 - 1), lambda: os.stat(path),
]:
    try: action()
    except (OSError, OverflowError): pass
os.unlink(path)
"""
    assert session.exec(code).error is None

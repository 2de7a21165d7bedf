"""A worker on a system that lacks a part of its confinement has the rest, and says what is missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("Linux confines workers", allow_module_level=True)

import landlockpy
import seccompy

CHILD = """
import json, os, sys
from pathlib import Path
from rlm_mcp.server.workers.confinement import Confinement, confine
%s
base = Path(sys.argv[1])
hidden = tuple(base.glob("tokens"))
lacks = confine(Confinement(data_dir=base, cache_dir=base, temp_dir=base, hidden=hidden, parent=os.getppid()))
print(json.dumps(lacks), flush=True)
%s
"""
REFUSED = "import seccompy; calls = seccompy.Filter(); calls.errno('%s', %d); calls.load()"
FILES = "Workers can read and write all files of the server's user"
CALLS = "Workers have the network and all system calls of the server's user"


def told(directory: Path, before: str = "") -> list[str]:
    """What a process that confines itself after `before` says it lacks."""
    child = [sys.executable, "-c", CHILD % (before, ""), str(directory)]
    ended = subprocess.run(child, stdout=subprocess.PIPE, timeout=60, check=True)  # noqa: S603 - our own script
    lacks: list[str] = json.loads(ended.stdout)
    return lacks


@pytest.mark.parametrize(
    ("before", "lack"),
    [
        ("sys.modules['landlockpy'] = None", f"{FILES}: `pip install landlockpy` to confine them."),
        ("sys.modules['seccompy'] = None", f"{CALLS}: `pip install seccompy` to confine them."),
        (
            REFUSED % ("landlock_create_ruleset", 38),
            f"{FILES}: this system has no Landlock, or one that is older than Linux 5.19.",
        ),
        (
            REFUSED % ("landlock_create_ruleset", 1),
            f"{FILES}: Landlock failed ([Errno 1] Operation not permitted).",
        ),
        (
            REFUSED % ("landlock_restrict_self", 1),
            f"{FILES}: Landlock failed ([Errno 1] Operation not permitted).",
        ),
        (REFUSED % ("seccomp", 1), f"{CALLS}: seccomp failed ([Errno 1] Operation not permitted)."),
        (
            REFUSED % ("capset", 1),
            "Workers keep the privileges of the server: capset failed (Operation not permitted).",
        ),
        (
            "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
            "Threads of a worker that began before it was confined can open all files: 1.",
        ),
    ],
)
def test_what_a_system_lacks_is_told(before: str, lack: str, tmp_path: Path) -> None:
    if landlockpy.abi_version() < 6 or not seccompy.supported():
        pytest.skip("this kernel does not confine workers")
    assert told(tmp_path, before) == [lack]


def test_a_token_file_in_a_directory_of_workers_is_told(tmp_path: Path) -> None:
    if landlockpy.abi_version() < 6:
        pytest.skip("this kernel does not confine workers")
    (tmp_path / "tokens").touch()
    sentence = f"Workers can read {tmp_path / 'tokens'}: move it out of {tmp_path}, to which they write."
    assert told(tmp_path) == [sentence]


def test_a_worker_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    worker = [sys.executable, "-c", CHILD % ("", "import time; time.sleep(600)"), str(tmp_path)]
    starter = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", *worker]
    with subprocess.Popen(starter, stdout=subprocess.PIPE) as started:  # noqa: S603 - our own script
        assert started.stdout is not None
        assert json.loads(started.stdout.readline()) == []
        started.kill()
        assert started.stdout.read() == b""  # the worker, which holds the other end as well, has ended

"""What a confined process can reach of the machine: each line of EXPECTED is an attempt of confined.py."""

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("Linux confines workers", allow_module_level=True)

import landlockpy
import seccompy

from rlm_mcp.server.workers.confinement import FETCHES as CAN_CONNECT

CONFINED = Path(__file__).parent / "confined.py"
ABI = landlockpy.abi_version()

EXPECTED = {
    "read below a root": "plain",
    "read the token file": "EACCES",
    "read the token file on another thread": "EACCES",
    "read the token file by a link": "EACCES",
    "read a key in the home directory": "EACCES",
    "read another file in the home directory": "plain",
    "list a root": "['notes.txt', 'tokens']",
    "list what lies beside the roots": "EACCES",
    "read the passwords of the system": "EACCES",
    "write below a root": "EACCES",
    "write beside the directories": "EACCES",
    "remove below a root": "EACCES",
    "move between own directories": "moved",
    "execute what it wrote": "EACCES",
    "read the environment of the parent": "EACCES",
    "read the command of the parent": "EACCES",
    "open the memory of the parent": "EACCES",
    "copy the memory of the parent": "EPERM",
    "trace the parent": "EPERM",
    "signal the parent": "EPERM",
    "limit the parent": "EPERM",
    "slow the parent": "EPERM",
    "pin the parent": "EPERM",
    "start and kill a program": "-9",
    "connect by TCP": "EACCES",
    "connect by UDP": "EACCES",
    "open a raw socket": "EACCES",
    "open a netlink socket": "EACCES",
    "connect to an abstract socket": "EACCES",
    "connect to a unix socket": "EACCES",
    "turn a TCP socket to an address": "EACCES",
    "send with a TCP socket to an address": "EPERM",
    "bind a TCP socket": "EACCES",
    "send from a pair of datagram sockets": "EACCES",
    "send from a pair of raw sockets": "EACCES",
    "make a pair of another family": "EACCES",
    "make a pair of stream sockets": "1",
    "bind a unix socket": "EACCES",
    "make closing a socket wait": "EPERM",
    "make a user namespace": "1",
    "clone into a user namespace": "EPERM",
    "load a BPF program": "EPERM",
    "make a ring": "EPERM",
    "handle page faults": "EPERM",
    "use keyrings": "EPERM",
    "call as x32": "ENOSYS",
    "type into the terminal": "EPERM",
    "type into the terminal with a longer number": "EPERM",
    "outlive the server": "EPERM",
    "place among those that the kernel ends": "1000",
    "be ended later": "EACCES",
    "may gain privileges": "False",
    "memory in a core": "00000000",
    "size of a core": "(0, 0)",
    "allow a core": "ValueError",
    "allocate the bound": "MemoryError",
    "allocate half of it": str(256 << 20),
    "allocate the bound in a program": "MemoryError\n",
    "raise the bound": "ValueError",
}

HIDES = [
    "Workers cannot read files that are put into BASE/root itself from now on, since BASE/root/tokens is hidden there.",
    "Workers cannot read files that are put into BASE/home itself from now on, since BASE/home/.ssh is hidden there.",
]

FETCHES = {
    "connect by TCP": "connected",
    "connect by UDP": "connected",
    "turn a TCP socket to an address": "None",
    "bind a unix socket": "bound",
}
"""What else a worker can that fetches sources."""


@pytest.fixture
def results(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    if ABI < 6 or not seccompy.supported():
        pytest.skip(f"this kernel has Landlock ABI {ABI} and {'a' if seccompy.supported() else 'no'} seccomp filter")
    if platform.machine() != "x86_64":
        pytest.skip("the numbers of system calls are those of x86-64")
    base = tmp_path
    for name in ("data", "cache", "temp", "root", "home/.ssh"):
        (base / name).mkdir(parents=True)
    for name, text in (("root/notes.txt", "plain"), ("root/tokens", "secret"), ("home/.ssh/id", "secret")):
        (base / name).write_text(text)
    (base / "home" / "notes.txt").write_text("plain")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket() as unconnected,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        abstract.bind(f"\0rlm-mcp-test-{os.getpid()}")
        named.bind(str(base / "socket"))
        datagrams.bind(str(base / "datagrams"))
        for listening in (abstract, named):
            listening.listen()
        port, descriptor = server.getsockname()[1], unconnected.fileno()
        printed = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, CONFINED, base, str(port), str(descriptor), request.param],
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(base / "temp"), "HOME": str(base / "home")},
            check=True,
            text=True,
        ).stdout
        yield json.loads(printed.replace(str(base), "BASE"))


@pytest.mark.parametrize("results", [""], indirect=True)
def test_a_confined_process_can_do_what_is_expected_and_lacks_nothing(results: dict[str, Any]) -> None:
    assert results == EXPECTED | {"lacks": HIDES}


@pytest.mark.parametrize("results", ["fetches"], indirect=True)
def test_a_process_that_fetches_sources_can_connect_and_says_so(results: dict[str, Any]) -> None:
    assert results == EXPECTED | FETCHES | {"lacks": [CAN_CONNECT, *HIDES]}

"""A worker process that attacks the machine: confines itself, tries everything below, and prints what came of it.

    python confined.py DIRECTORY PORT TCP_DESCRIPTOR [fetches]

DIRECTORY is laid out by test_confinement.py. The output is {name of the attempt: what it returned, or its error}.
"""

import ctypes
import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from rlm_mcp.server.workers.confinement import Confinement, confine

BASE, PORT, TCP = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
DATA, ROOT = BASE / "data", BASE / "root"
PARENT = os.getppid()
MEMORY_BYTES = 512 << 20

LIBC = ctypes.CDLL(None, use_errno=True)
X86_64 = {"process_vm_readv": 310, "ptrace": 101, "bpf": 321, "io_uring_setup": 425, "userfaultfd": 323, "keyctl": 250}
PR_SET_PDEATHSIG, PR_GET_NO_NEW_PRIVS, CLONE_NEWUSER, TIOCSTI, X32 = 1, 39, 0x10000000, 0x5412, 0x40000000


def system_call(number: int, *arguments: int) -> str:
    result = LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(argument) for argument in arguments))
    return "allowed" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def connect(family: int, kind: int, address: object) -> str:
    with socket.socket(family, kind) as made:
        made.connect(address)  # type: ignore[arg-type] # of any family
    return "connected"


def sent_from_a_pair(kind: int) -> int:
    """Sends with a socket that nothing connected to the address."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours, theirs:
        return ours.sendto(b"x", str(BASE / "datagrams"))


def paired() -> int:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        return ours.send(b"x")


def bound_from_a_pair() -> str:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.bind(f"\0rlm-mcp-bound-{PARENT}")
    return "bound"


def renamed() -> str:
    (DATA / "one").mkdir()
    (DATA / "two").mkdir()
    (DATA / "one" / "file").write_text("moved")
    (DATA / "one" / "file").rename(DATA / "two" / "file")
    return (DATA / "two" / "file").read_text()


def linked() -> str:
    (DATA / "link").symlink_to(ROOT / "tokens")
    return (DATA / "link").read_text()


def executed() -> int:
    shutil.copy2("/bin/true", DATA / "program")
    return subprocess.run([DATA / "program"], check=False).returncode


def started_and_killed() -> int:
    child = subprocess.Popen(["/bin/sleep", "60"])
    child.kill()
    return child.wait()


def threaded() -> str:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(attempt(lambda: (ROOT / "tokens").read_text())))
    thread.start()
    thread.join()
    return found[0]


def allocated_by_a_child() -> str:
    code = f"bytearray({MEMORY_BYTES})"
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False).stderr[-12:]


ATTEMPTS: dict[str, Callable[[], object]] = {
    # --- files
    "read below a root": lambda: (ROOT / "notes.txt").read_text(),
    "read the token file": lambda: (ROOT / "tokens").read_text(),
    "read the token file on another thread": threaded,
    "read the token file by a link": linked,
    "read a key in the home directory": lambda: (BASE / "home" / ".ssh" / "id").read_text(),
    "read another file in the home directory": lambda: (BASE / "home" / "notes.txt").read_text(),
    "list a root": lambda: sorted(os.listdir(ROOT)),
    "list what lies beside the roots": lambda: os.listdir(BASE),
    "read the passwords of the system": lambda: Path("/etc/shadow").read_text(),
    "write below a root": lambda: (ROOT / "notes.txt").write_text("x"),
    "write beside the directories": lambda: (BASE / "new").write_text("x"),
    "remove below a root": lambda: (ROOT / "notes.txt").unlink(),
    "move between own directories": renamed,
    "execute what it wrote": executed,
    # --- other processes
    "read the environment of the parent": lambda: Path(f"/proc/{PARENT}/environ").read_text(),
    "read the command of the parent": lambda: Path(f"/proc/{PARENT}/cmdline").read_text(),
    "open the memory of the parent": lambda: Path(f"/proc/{PARENT}/mem").open("rb"),
    "copy the memory of the parent": lambda: system_call(X86_64["process_vm_readv"], PARENT, 0, 0, 0, 0, 0),
    "trace the parent": lambda: system_call(X86_64["ptrace"], 0x4206, PARENT, 0, 0),
    "signal the parent": lambda: os.kill(PARENT, 0),
    "limit the parent": lambda: resource.prlimit(PARENT, resource.RLIMIT_CPU),
    "slow the parent": lambda: os.setpriority(os.PRIO_PROCESS, PARENT, 19),
    "pin the parent": lambda: os.sched_setaffinity(PARENT, {0}),
    "start and kill a program": started_and_killed,
    # --- network
    "connect by TCP": lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", PORT)),
    "connect by UDP": lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", PORT)),
    "open a raw socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "open a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "connect to an abstract socket": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, f"\0rlm-mcp-test-{PARENT}"),
    "connect to a unix socket": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, str(BASE / "socket")),
    "turn a TCP socket to an address": lambda: socket.socket(fileno=os.dup(TCP)).connect(("127.0.0.1", PORT)),
    "send with a TCP socket to an address": lambda: socket.socket(fileno=os.dup(TCP)).sendto(
        b"x", socket.MSG_FASTOPEN, ("127.0.0.1", PORT)
    ),
    "bind a TCP socket": lambda: socket.socket(fileno=os.dup(TCP)).bind(("127.0.0.1", 0)),
    "send from a pair of datagram sockets": lambda: sent_from_a_pair(socket.SOCK_DGRAM),
    "send from a pair of raw sockets": lambda: sent_from_a_pair(socket.SOCK_RAW | socket.SOCK_NONBLOCK),
    "make a pair of another family": lambda: socket.socketpair(socket.AF_TIPC, socket.SOCK_SEQPACKET),
    "make a pair of stream sockets": paired,
    "bind a unix socket": bound_from_a_pair,
    "make closing a socket wait": lambda: socket.socket(fileno=os.dup(TCP)).setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 100)
    ),
    # --- the kernel
    "make a user namespace": lambda: (
        subprocess.run(["unshare", "-U", "true"], capture_output=True, check=False).returncode
    ),
    "clone into a user namespace": lambda: system_call(56, CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0),
    "load a BPF program": lambda: system_call(X86_64["bpf"], 0, 0, 0),
    "make a ring": lambda: system_call(X86_64["io_uring_setup"], 1, 0),
    "handle page faults": lambda: system_call(X86_64["userfaultfd"], 0),
    "use keyrings": lambda: system_call(X86_64["keyctl"], 0, 0),
    "call as x32": lambda: system_call(X32 | 39),
    "type into the terminal": lambda: fcntl.ioctl(0, TIOCSTI, b"x"),
    "type into the terminal with a longer number": lambda: system_call(16, 0, TIOCSTI | 1 << 32, 0),
    # --- privileges, memory
    "outlive the server": lambda: system_call(157, PR_SET_PDEATHSIG, 0),
    "place among those that the kernel ends": lambda: Path("/proc/self/oom_score_adj").read_text().strip(),
    "be ended later": lambda: Path("/proc/self/oom_score_adj").write_text("0"),
    "may gain privileges": lambda: not LIBC.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
    "memory in a core": lambda: Path("/proc/self/coredump_filter").read_text().strip(),
    "size of a core": lambda: resource.getrlimit(resource.RLIMIT_CORE),
    "allow a core": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)),
    "allocate the bound": lambda: len(bytearray(MEMORY_BYTES)),
    "allocate half of it": lambda: len(bytearray(MEMORY_BYTES // 2)),
    "allocate the bound in a program": allocated_by_a_child,
    "raise the bound": lambda: resource.setrlimit(resource.RLIMIT_DATA, (2 * MEMORY_BYTES, 2 * MEMORY_BYTES)),
}


def attempt(do: Callable[[], object]) -> str:
    try:
        return str(do())
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except (MemoryError, ValueError) as error:
        return type(error).__name__


if __name__ == "__main__":
    lacks = confine(
        Confinement(
            data_dir=DATA,
            cache_dir=BASE / "cache",
            temp_dir=BASE / "temp",
            roots=(ROOT, BASE / "home"),
            hidden=(ROOT / "tokens",),
            fetches="fetches" in sys.argv,
            memory_bytes=MEMORY_BYTES,
            parent=PARENT,
        )
    )
    results = {name: attempt(do) for name, do in ATTEMPTS.items()}
    json.dump({"lacks": lacks, **results}, sys.stdout)

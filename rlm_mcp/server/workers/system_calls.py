"""The system calls that a worker may not make, by seccomp.

The list names what is refused, and not what is allowed: programs that a worker starts (git, ripgrep, converters) and
later versions of Python and Wasmtime need calls that nobody can list. It refuses the network, access to other
processes, everything that creates or enters a namespace, kernel interfaces with a history of faults that no program
here uses, and memory that no limit counts.

No socket can be made, bound or connected: connections to the endpoints of models come from the server's egress broker,
and a socket that is connected already cannot be turned to another address. A worker that fetches sources, for which git
connects by itself, may make sockets of the internet, bind them (the resolver of musl does) and connect them; still none
of unix, so that no service of this machine that listens on one can be asked. Pairs of stream sockets, which event loops
and pipes need, are the exception; datagram sockets of a pair could send to any address.

`seccompy` was chosen because it needs no compiled library: `pyseccomp` has been unmaintained since 2021 and needs
libseccomp, which is missing in some containers.
"""

import errno
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seccompy import Filter

OTHER_PROCESSES = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "kcmp"),
    *("pidfd_getfd", "move_pages", "migrate_pages"),
)
NAMESPACES = (
    *("unshare", "setns", "chroot", "pivot_root", "mount", "umount2", "move_mount", "mount_setattr"),
    *("open_tree", "open_tree_attr", "fsopen", "fsconfig", "fsmount", "fspick"),
)
KERNEL = (
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("add_key", "request_key", "keyctl", "init_module", "finit_module", "delete_module"),
    *("kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd"),
    *("fanotify_init", "open_by_handle_at", "name_to_handle_at", "lookup_dcookie", "syslog", "vhangup"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname"),
    *("iopl", "ioperm", "modify_ldt", "uselib", "nfsservctl"),
)
UNCOUNTED_MEMORY = ("shmget", "shmat", "msgget", "semget", "mq_open", "memfd_secret")
NETWORK = ("socket", "bind", "connect")
INTERNET = (socket.AF_INET, socket.AF_INET6)

NEW_NAMESPACES = (0x00000080, 0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
"""CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET of linux/sched.h."""

ONLY_OF_ITSELF = ("prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler")
"""Their first argument is a process; 0 is the calling one."""

PRIO_PROCESS, IOPRIO_WHO_PROCESS = 0, 1

PR_SET_PDEATHSIG = 1
"""Without it a worker would outlive the server that started it."""

TIOCSTI, TIOCLINUX = 0x5412, 0x541C
"""They put characters into the terminal of the server as if they had been typed."""

MSG_FASTOPEN = 0x20000000
SO_LINGER = 13
"""With it, closing a socket that was passed to the server would block the server."""

X32, ONLY_X32 = 0x40000000, range(512, 548)
"""On x86-64, calls of the x32 ABI are numbers with this bit under the same architecture; some exist only there."""

SOCK_TYPE_MASK = 0xF
"""The other bits of the type of a socket are flags."""

_INT = 0xFFFFFFFF
"""The kernel ignores the upper half of an argument that is an int, so a comparison with all 64 bits could be evaded."""


def restrict_system_calls(*, fetches: bool) -> list[str]:
    """Applies the filter to all threads. Returns a sentence if the system has none."""
    lack = "Workers have the network and all system calls of the server's user"
    try:
        from seccompy import Filter, FilterFlag, SeccompError, UnsupportedError
    except ImportError:
        return [f"{lack}: `pip install seccompy` to confine them."]
    calls = Filter(flags=FilterFlag.TSYNC | FilterFlag.TSYNC_ESRCH)
    try:
        _refuse_arguments(calls)  # first: the kernel remembers what is allowed with any arguments, and looks these up
        _refuse_network(calls, fetches=fetches)
        _refuse_calls(calls)
        calls.load()
    except (SeccompError, UnsupportedError) as error:
        return [f"{lack}: seccomp failed ({error})."]
    return []


def _refuse_network(calls: "Filter", *, fetches: bool) -> None:
    from seccompy import CmpOp

    if fetches:
        calls.errno("socket", errno.EACCES, args=[(0, CmpOp.NE, family) for family in INTERNET])
    else:
        for name in NETWORK:
            calls.errno(name, errno.EACCES)


def _refuse_calls(calls: "Filter") -> None:
    from seccompy.syscalls import X86_64_SYSCALLS, arch, syscall_nr

    for name in (*OTHER_PROCESSES, *NAMESPACES, *KERNEL, *UNCOUNTED_MEMORY):
        with suppress(ValueError):  # this architecture does not have it
            calls.errno(syscall_nr(name), errno.EPERM)
    calls.errno("clone3", errno.ENOSYS)  # a filter cannot see its flags; programs fall back to clone
    if arch() == "x86_64":
        for number in {*X86_64_SYSCALLS.values(), *ONLY_X32}:
            calls.errno(X32 | number, errno.ENOSYS)


def _refuse_arguments(calls: "Filter") -> None:
    from seccompy import CmpOp

    for flag in NEW_NAMESPACES:
        calls.errno("clone", errno.EPERM, args=[(0, CmpOp.MASKED_EQ, flag, flag)])
    for name, position in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
        calls.errno(name, errno.EPERM, args=[(position, CmpOp.MASKED_EQ, MSG_FASTOPEN, MSG_FASTOPEN)])
    lingering = [(1, CmpOp.MASKED_EQ, socket.SOL_SOCKET, _INT), (2, CmpOp.MASKED_EQ, SO_LINGER, _INT)]
    calls.errno("setsockopt", errno.EPERM, args=lingering)
    calls.errno("socketpair", errno.EACCES, args=[(0, CmpOp.NE, socket.AF_UNIX)])
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):  # which is the same for unix sockets
        calls.errno("socketpair", errno.EACCES, args=[(1, CmpOp.MASKED_EQ, kind, SOCK_TYPE_MASK)])
    for request in (TIOCSTI, TIOCLINUX):
        calls.errno("ioctl", errno.EPERM, args=[(1, CmpOp.MASKED_EQ, request, _INT)])
    calls.errno("prctl", errno.EPERM, args=[(0, CmpOp.MASKED_EQ, PR_SET_PDEATHSIG, _INT)])
    for name in ONLY_OF_ITSELF:
        calls.errno(name, errno.EPERM, args=[(0, CmpOp.NE, 0)])
    for name, process in (("setpriority", PRIO_PROCESS), ("ioprio_set", IOPRIO_WHO_PROCESS)):
        calls.errno(name, errno.EPERM, args=[(0, CmpOp.NE, process)])
        calls.errno(name, errno.EPERM, args=[(1, CmpOp.NE, 0)])

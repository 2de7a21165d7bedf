"""Limits of a worker process itself, by prctl, capset and rlimits: one call of the C library each.

Memory is bounded by RLIMIT_DATA, which counts private writable pages: those of Python, of the allocator and of guest
memories. RLIMIT_AS cannot be used, because Wasmtime reserves gigabytes of addresses for each guest without using them;
such a reservation is not writable and is not counted. Over the bound, the allocation fails that asked for more: a
MemoryError in Python, a failing cell or a session that cannot be opened in the sandbox. Each program that the worker
starts has the same bound of its own. Shared memory is not counted, so the worker also volunteers to be the first that
the kernel ends when the machine is out of memory.

No library is used: `resource` knows no prctl, and the bindings of libcap on the package index are unmaintained.
"""

import ctypes
import os
import signal
from pathlib import Path

# linux/prctl.h and linux/capability.h
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_CAPABILITY_VERSION = 0x20080522
_CAP_DAC_OVERRIDE = 1
_MOST_CAPABILITIES = 64

_OOM_FIRST = "1000"
"""The highest value of oom_score_adj. Raising it needs no privilege."""


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapSets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop_privileges(*, parent: int | None, memory_bytes: int | None) -> list[str]:
    """Applies all limits. Returns a sentence for each that the system refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    lacks = [_threads(), _end_with(parent, libc), _dump_no_memory(), _be_first_to_go(), _bound_memory(memory_bytes)]
    lacks.append(_keep_no_capabilities(libc))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        lacks.append(f"Workers may run set-user-ID programs: PR_SET_NO_NEW_PRIVS failed ({_reason()}).")
    return [lack for lack in lacks if lack]


def _threads() -> str:
    others = len(list(Path("/proc/self/task").iterdir())) - 1
    return f"Threads of a worker that began before it was confined can open all files: {others}." if others else ""


def _end_with(parent: int | None, libc: ctypes.CDLL) -> str:
    if parent is None:
        return ""
    failed = libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call above
        os._exit(1)
    return f"A worker may outlive the server: PR_SET_PDEATHSIG failed ({_reason()})." if failed else ""


def _dump_no_memory() -> str:
    """Neither to a file, which the limit prevents, nor to a program in core_pattern, to which no limit applies.

    PR_SET_DUMPABLE would do both, but hide /proc/self/pagemap from this process, with which sessions are copied.
    """
    import resource  # Windows has none

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return _written("coredump_filter", "0", "A crash of a worker may write its memory to disk")


def _be_first_to_go() -> str:
    return _written("oom_score_adj", _OOM_FIRST, "Out of memory, the kernel may end another process before a worker")


def _written(name: str, value: str, otherwise: str) -> str:
    """Writes to a file of this process in /proc. Returns a sentence if that fails."""
    try:
        Path("/proc/self", name).write_text(value, "ascii")
    except OSError as error:
        return f"{otherwise}: {error.filename}: {error.strerror}."
    return ""


def _bound_memory(memory_bytes: int | None) -> str:
    import resource

    if memory_bytes is not None:
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        except (OSError, ValueError) as error:
            return f"The memory of workers is not bounded at {memory_bytes:,} bytes: {error}."
    return ""


def _keep_no_capabilities(libc: ctypes.CDLL) -> str:
    """Keeps at most access to files of other users, which a server that runs as root needs for its roots."""
    for capability in range(_MOST_CAPABILITIES):
        if capability != _CAP_DAC_OVERRIDE:
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails without CAP_SETPCAP: then nothing can be gained
    header = _CapHeader(_CAPABILITY_VERSION, 0)
    kept = 1 << _CAP_DAC_OVERRIDE if os.geteuid() == 0 else 0
    for low in dict.fromkeys((kept, 0)):  # a root without that one keeps none
        if not libc.capset(ctypes.byref(header), (_CapSets * 2)(_CapSets(low, low, 0), _CapSets(0, 0, 0))):
            return ""
    return f"Workers keep the privileges of the server: capset failed ({_reason()})."


def _reason() -> str:
    return os.strerror(ctypes.get_errno())

"""The memory of a worker, and how much of it is too much.

The operating system bounds what a worker may map (privileges.py). That has to leave room for pages to which nothing is
written: 32 MB of each session, which touches 3 of them, and the stacks of threads. The front therefore also looks at
the memory that a worker really has, and kills one that has too much.
"""

import re
from pathlib import Path

LEAST_MEMORY_BYTES = 1 << 30
"""For the worker itself and a document that it reads, where the machine has little memory."""

UNTOUCHED_BYTES = 8 << 30
"""For 200 sessions with a thread each."""

_COUNTED = re.compile(rb"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB$", re.MULTILINE)


def most_memory(share: int | None) -> int | None:
    """The memory limit of a worker whose sessions may use `share` bytes: half as much again. None: no limit."""
    return None if share is None else max(LEAST_MEMORY_BYTES, share * 3 // 2)


def most_mapped(share: int | None) -> int | None:
    """The address space that such a worker may map, whether it writes there or not."""
    most = most_memory(share)
    return None if most is None else most + UNTOUCHED_BYTES


def memory_of(process: int) -> int:
    """The bytes of a process that are backed by no file; 0 where the system does not tell, or for one that has ended.

    Memory files that the process does not map are not counted; the kernel frees them when it ends this process first.
    """
    try:
        status = Path(f"/proc/{process}/status").read_bytes()
    except OSError:
        return 0
    return sum(int(kilobytes) << 10 for kilobytes in _COUNTED.findall(status))

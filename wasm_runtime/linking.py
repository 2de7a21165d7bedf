"""The linker that all sessions share: its host functions belong to the engine, not to a store.

Theory of operation. Defining 53 functions for each session would cost milliseconds, so they are defined once.
A host function finds the guest that called it in a thread-local that `active_guest` sets around every entry into
wasm: a store runs on one thread at a time, and a thread runs one guest at a time (a copy made inside a host
call runs on another thread, or nests and restores the outer guest).

No host function may raise: wasmtime-py carries a Python exception through one process-global slot, and two
threads can get each other's. `guard` turns a bad pointer into EFAULT and any other exception into EIO, and keeps
the exception in `Guest.failure`; the session raises it once the guest has returned.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import wasmtime

from wasm_runtime.errno import Errno
from wasm_runtime.errors import ImageError
from wasm_runtime.imports import emscripten, syscalls, wasi
from wasm_runtime.imports.guest import Guest
from wasm_runtime.machine.callbacks import ImportFunction, define_import
from wasm_runtime.machine.memory import BadPointer

PROVIDERS = (wasi, syscalls, emscripten)


class _ActiveGuest(threading.local):
    guest: Guest | None = None


_active = _ActiveGuest()


@contextmanager
def active_guest(guest: Guest) -> Iterator[None]:
    """Have host functions that are called on this thread act on `guest`."""
    outer, _active.guest = _active.guest, guest
    guest.start_clock()
    try:
        yield
    finally:
        guest.stop_clock()
        _active.guest = outer


def make_linker(engine: wasmtime.Engine, module: wasmtime.Module) -> wasmtime.Linker:
    """Return a linker that has every import of `module`; ImageError names the first one that no file provides."""
    linker = wasmtime.Linker(engine)
    seen: set[tuple[str, str]] = set()
    for entry in module.imports:
        name, signature = entry.name or "", entry.type
        if (entry.module, name) in seen:
            continue
        seen.add((entry.module, name))
        providers = [(p.FUNCTIONS[name], p.ERRNO_SIGN) for p in PROVIDERS if name in p.FUNCTIONS]
        if len(providers) != 1 or not isinstance(signature, wasmtime.FuncType):
            raise ImageError(
                f"the image imports {entry.module}.{name}, which {len(providers)} files provide: rebuild it"
            )
        function, sign = providers[0]
        define_import(linker, entry.module, name, signature, guard(function, signature, sign))
    return linker


def guard(function: ImportFunction, signature: wasmtime.FuncType, errno_sign: int) -> ImportFunction:
    """Return `function` bound to the guest that runs on the calling thread, in a form that never raises."""
    fault: int | float | None = errno_sign * Errno.EFAULT
    failed: int | float | None = errno_sign * Errno.EIO
    if not signature.results:
        fault = failed = None
    elif str(signature.results[0]) == "f64":
        fault = failed = 0.0

    def call(*args: int) -> int | float | None:
        guest = _active.guest
        if guest is None:
            return failed
        try:
            return function(guest, *args)
        except BadPointer:
            return fault
        except BaseException as error:  # noqa: BLE001 - see the theory of operation
            guest.failure = guest.failure or error
            return failed

    return call

"""One linker for all sessions: host functions belong to the engine, not to a store.

Theory of operation. Defining 53 functions for each session would cost milliseconds, so they are defined once.
A host function finds the guest that called it in a thread-local that `running` sets around every entry into
wasm: a store runs on one thread at a time, and a thread runs one guest at a time (a fork made inside a host
call runs on another thread, or nests and puts the outer guest back).

No host function may raise: wasmtime-py carries a Python exception through one process-global slot, and two
threads can get each other's. `guarded` turns a bad pointer into EFAULT, and anything else into EIO with the
exception kept in `Guest.failure`, which the session raises once the guest has returned.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import wasmtime

from wasm_runtime.errno import Errno
from wasm_runtime.errors import ImageError
from wasm_runtime.imports import emscripten, syscalls, wasi
from wasm_runtime.imports.guest import Guest
from wasm_runtime.machine.callbacks import define
from wasm_runtime.machine.memory import BadPointer

PROVIDERS = (wasi, syscalls, emscripten)


class _Running(threading.local):
    guest: Guest | None = None


_running = _Running()


@contextmanager
def running(guest: Guest) -> Iterator[None]:
    """Let host functions called on this thread act on `guest`."""
    outer, _running.guest = _running.guest, guest
    guest.enter()
    try:
        yield
    finally:
        guest.leave()
        _running.guest = outer


def make_linker(engine: wasmtime.Engine, module: wasmtime.Module) -> wasmtime.Linker:
    """Return a linker that has every import of `module`; ImageError names one that no file provides."""
    linker = wasmtime.Linker(engine)
    seen: set[tuple[str, str]] = set()
    for entry in module.imports:
        name, signature = entry.name or "", entry.type
        if (entry.module, name) in seen:
            continue
        seen.add((entry.module, name))
        providers = [(p.FUNCTIONS[name], p.ERRNO_SIGN) for p in PROVIDERS if name in p.FUNCTIONS]
        if len(providers) != 1 or not isinstance(signature, wasmtime.FuncType):
            raise ImageError(f"the image imports {entry.module}.{name}, provided by {len(providers)} files: rebuild it")
        function, sign = providers[0]
        define(linker, entry.module, name, signature, guarded(function, signature, sign))
    return linker


def guarded(
    function: Callable[..., int | float | None], signature: wasmtime.FuncType, errno_sign: int
) -> Callable[..., int | float | None]:
    """Return `function` bound to the guest that runs on the calling thread, with no way to raise."""
    fault: int | float | None = errno_sign * Errno.EFAULT
    broken: int | float | None = errno_sign * Errno.EIO
    if not signature.results:
        fault = broken = None
    elif str(signature.results[0]) == "f64":
        fault = broken = 0.0

    def call(*args: int) -> int | float | None:
        guest = _running.guest
        if guest is None:
            return broken
        try:
            return function(guest, *args)
        except BadPointer:
            return fault
        except BaseException as error:  # noqa: BLE001 - see the theory of operation
            guest.failure = guest.failure or error
            return broken

    return call

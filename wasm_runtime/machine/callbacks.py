"""Host functions in the form that Wasmtime calls fastest: raw words in, a raw word out.

`Linker.define_func` of wasmtime-py looks up types and makes an object of each value on every call, which takes 10 to
25 us. The C API's unchecked functions get the address of an array of 16-byte slots, which holds the arguments and
then, in the first slot, the result. That takes 2 us; a cell makes four such calls, and a host call two. The binding of
that function is private to wasmtime-py, whose release is pinned; without it `define_import` uses the public function,
which is slower and does the same.

A callback returns 0: it never traps and never raises (see linking).
"""

import ctypes
import struct
from collections.abc import Callable

import wasmtime

try:
    from wasmtime import _ffi as _binding
except ImportError:
    _binding = None  # type: ignore[assignment] # absent on this system

ImportFunction = Callable[..., int | float | None]

_FORMATS = {"i32": "i12x", "i64": "q8x", "f64": "d8x"}
_MASKS = {"i32": (1 << 32) - 1, "i64": (1 << 64) - 1}
_RESULT_FORMATS = {"i32": "<I", "i64": "<Q", "f64": "<d"}
_SLOT = 16
# size_t callback(env, caller, slots, count), with every pointer as a number
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_size_t, *[ctypes.c_void_p] * 3, ctypes.c_size_t)
_FINALIZER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

# Wasmtime keeps only the address, for as long as the engine lives, so callbacks are never freed: 60 per Runtime.
_kept: list[object] = []


def define_import(
    linker: wasmtime.Linker, module: str, name: str, signature: wasmtime.FuncType, function: ImportFunction
) -> None:
    """Define a host function of i32, i64 and f64. It must not raise, and its result must fit `signature`."""
    unchecked = getattr(_binding, "wasmtime_linker_define_func_unchecked", None)
    if unchecked is None:
        linker.define_func(module, name, signature, function)
        return
    callback = _CALLBACK(_raw(function, signature))
    _kept.append(callback)
    where = [ctypes.create_string_buffer(text.encode()) for text in (module, name)]
    error = unchecked(
        linker.ptr(),
        where[0],
        len(where[0]) - 1,
        where[1],
        len(where[1]) - 1,
        signature.ptr(),
        ctypes.cast(callback, _binding.wasmtime_func_unchecked_callback_t),
        None,
        _FINALIZER(0),
    )
    if error:
        raise wasmtime.WasmtimeError._from_ptr(error)  # noqa: SLF001 - the only way to read it


def _raw(function: ImportFunction, signature: wasmtime.FuncType) -> Callable[[int, int, int, int], int]:
    arguments = struct.Struct("<" + "".join(_FORMATS[str(kind)] for kind in signature.params)).unpack_from
    results = [str(kind) for kind in signature.results]
    slots = ctypes.c_char * (_SLOT * max(len(signature.params), len(results), 1))
    if not results:

        def no_result(_env: int, _caller: int, address: int, _count: int) -> int:
            function(*arguments(slots.from_address(address)))
            return 0

        return no_result
    store, mask = struct.Struct(_RESULT_FORMATS[results[0]]).pack_into, _MASKS.get(results[0])

    def number(_env: int, _caller: int, address: int, _count: int) -> int:
        values = slots.from_address(address)
        result = function(*arguments(values)) or 0
        store(values, 0, result if mask is None else int(result) & mask)
        return 0

    return number

"""The part of libffi, which `ctypes` calls C functions with, that Pyodide has in JavaScript; here it is a side module.

A WebAssembly function can only be called with its own signature, so the module has one `call_indirect` for each
signature that occurs in the linked module, found by a key of two bits for each parameter. The layouts are those of
libffi on wasm32: `ffi_cif` has its number of arguments at 4, their types at 8, the type of the result at 12; `ffi_type`
has its kind, a number of 16 bits, at 6.

A call with structures by value, with variable arguments or with a signature of no function traps, which undoes the
cell. Python functions as C callbacks would need new functions at run time: `ctypes` raises RuntimeError for them.
"""

from collections.abc import Iterable, Sequence

import wasmtime

from wasm_runtime.build.leb import signed32, uleb
from wasm_runtime.build.module_parts import FunctionType
from wasm_runtime.build.side_module import SideModule, read_side_module
from wasm_runtime.build.wasm_file import HEADER

FUNCTIONS = ("ffi_call_js", "ffi_closure_alloc_js", "ffi_closure_free_js", "ffi_prep_closure_loc_js")
_I32, _I64, _F32, _F64 = 0x7F, 0x7E, 0x7D, 0x7C
_NAMES = {_I32: "i32", _I64: "i64", _F32: "f32", _F64: "f64"}
# Keys have 32 bits: a 1 that marks the beginning, two for each parameter, three for the result.
_MOST_PARAMETERS = 14  # 1 + 2 x 14 + 3 = 32 bits
_NO_RESULT = 4
_LOADS = {
    # kind of ffi_type (FFI_TYPE_INT = 1 …): the instruction that reads a value, and its WebAssembly type
    1: ("i32.load", _I32),
    2: ("f32.load", _F32),
    3: ("f64.load", _F64),
    5: ("i32.load8_u", _I32),
    6: ("i32.load8_s", _I32),
    7: ("i32.load16_u", _I32),
    8: ("i32.load16_s", _I32),
    9: ("i32.load", _I32),
    10: ("i32.load", _I32),
    11: ("i64.load", _I64),
    12: ("i64.load", _I64),
    14: ("i32.load", _I32),  # a pointer
}
_VOID = 0
_BAD_ABI = 2
# `ctypes` allocates a closure when it is imported, and frees it; none can be prepared.
_CLOSURES = f"""
(func (export "ffi_closure_alloc_js") (param $size i32) (param $code i32) (result i32)
    (i32.store (local.get $code) (i32.const 0)) (call $malloc (local.get $size)))
(func (export "ffi_closure_free_js") (param i32) (call $free (local.get 0)))
(func (export "ffi_prep_closure_loc_js") (param i32 i32 i32 i32 i32) (result i32) (i32.const {_BAD_ABI}))
"""
# Arguments are brought to one form in a buffer on the C stack: eight bytes each, extended as C does.
_CALL = f"""
(func (export "ffi_call_js") (param $cif i32) (param $function i32) (param $result i32) (param $values i32)
    (local $key i32) (local $number i32) (local $buffer i32)
    (local.set $buffer (i32.sub (global.get $sp) (i32.const {8 * (_MOST_PARAMETERS + 2)})))
    (global.set $sp (local.get $buffer))
    (local.set $key (i32.const 1))
    (block $read (loop $next
        (br_if $read (i32.ge_u (local.get $number) (i32.load offset=4 (local.get $cif))))
        (if (i32.ge_u (local.get $number) (i32.const {_MOST_PARAMETERS})) (then (unreachable)))
        (local.set $key (i32.or (i32.shl (local.get $key) (i32.const 2)) (call $argument
            (call $kind (i32.load (call $word (i32.load offset=8 (local.get $cif)) (local.get $number))))
            (i32.load (call $word (local.get $values) (local.get $number)))
            (i32.add (local.get $buffer) (i32.shl (local.get $number) (i32.const 3))))))
        (local.set $number (i32.add (local.get $number) (i32.const 1)))
        (br $next)))
    (call $by_signature
        (i32.or
            (i32.shl (local.get $key) (i32.const 3))
            (call $code (call $kind (i32.load offset=12 (local.get $cif)))))
        (local.get $function) (local.get $result) (local.get $buffer))
    (global.set $sp (i32.add (local.get $buffer) (i32.const {8 * (_MOST_PARAMETERS + 2)}))))
(func $word (param $array i32) (param $number i32) (result i32)
    (i32.add (local.get $array) (i32.shl (local.get $number) (i32.const 2))))
(func $kind (param $type i32) (result i32) (i32.load16_u offset=6 (local.get $type)))
"""


def foreign_calls(types: Iterable[FunctionType]) -> SideModule:
    """Return a module with `FUNCTIONS`, which calls functions of these types."""
    by_key = {signed32(_key(kind)): kind for kind in types if _can_be_called(kind)}
    text = f"""(module
        (import "env" "memory" (memory 0))
        (import "env" "__indirect_function_table" (table 0 funcref))
        (import "env" "__stack_pointer" (global $sp (mut i32)))
        (import "env" "malloc" (func $malloc (param i32) (result i32)))
        (import "env" "free" (func $free (param i32)))
        {_CLOSURES}
        {_CALL}
        {_code_function()}
        {_argument_function()}
        (func $by_signature (param $key i32) (param $function i32) (param $result i32) (param $buffer i32)
            {_branches(sorted(by_key.items()))} (unreachable)))"""
    code = bytes(wasmtime.wat2wasm(text))
    section = _text("dylink.0") + b"\x01\x04\0\0\0\0"  # no memory, no slots
    return read_side_module("libffi.so", HEADER + b"\0" + uleb(len(section)) + section + code[len(HEADER) :])


def _can_be_called(kind: FunctionType) -> bool:
    values = {*kind.params, *kind.results}
    return len(kind.params) <= _MOST_PARAMETERS and len(kind.results) < 2 and values <= _NAMES.keys()


def _key(kind: FunctionType) -> int:
    key = 1
    for value in kind.params:
        key = key << 2 | _code(value)
    return key << 3 | (_code(kind.results[0]) if kind.results else _NO_RESULT)


def _code(value: int) -> int:
    return list(_NAMES).index(value)


def _code_function() -> str:
    """Return the function of the code in a key for a kind of result."""
    cases = [f"{_if_kind(kind)} (then (return (i32.const {_code(value)}))))" for kind, (_, value) in _LOADS.items()]
    void = f"{_if_kind(_VOID)} (then (return (i32.const {_NO_RESULT}))))"
    return f"(func $code (param $kind i32) (result i32) {void} {' '.join(cases)} (unreachable))"


def _argument_function() -> str:
    """Return the function that copies an argument to the buffer and returns its code."""
    cases = [
        f"{_if_kind(kind)} (then ({_NAMES[value]}.store (local.get $to) ({load} (local.get $value)))"
        f" (return (i32.const {_code(value)}))))"
        for kind, (load, value) in _LOADS.items()
    ]
    parameters = "(param $kind i32) (param $value i32) (param $to i32) (result i32)"
    return f"(func $argument {parameters} {' '.join(cases)} (unreachable))"


def _if_kind(kind: int) -> str:
    return f"(if (i32.eq (local.get $kind) (i32.const {kind}))"


def _branches(cases: Sequence[tuple[int, FunctionType]]) -> str:
    """Return a binary search for the key, which calls a function of the type found and returns."""
    if len(cases) > 1:
        middle = len(cases) // 2
        less = f"(i32.lt_s (local.get $key) (i32.const {cases[middle][0]}))"
        return f"(if {less} (then {_branches(cases[:middle])}) (else {_branches(cases[middle:])}))"
    if not cases:
        return ""
    key, kind = cases[0]
    return f"(if (i32.eq (local.get $key) (i32.const {key})) (then {_one_call(kind)} (return)))"


def _one_call(kind: FunctionType) -> str:
    parameters = "".join(f" (param {_NAMES[value]})" for value in kind.params)
    arguments = "".join(
        f" ({_NAMES[value]}.load offset={8 * number} (local.get $buffer))" for number, value in enumerate(kind.params)
    )
    if not kind.results:
        return f"(call_indirect{parameters}{arguments} (local.get $function))"
    result = _NAMES[kind.results[0]]
    called = f"(call_indirect{parameters} (result {result}){arguments} (local.get $function))"
    return f"({result}.store (local.get $result) {called})"


def _text(text: str) -> bytes:
    return uleb(len(text)) + text.encode()

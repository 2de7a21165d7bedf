"""`ffi_call_js` in a main module that has it: arguments of every kind, results, and what traps."""

import struct

import pytest
import wasmtime

from tests.wasm_runtime.build.linking import MAIN, Running
from wasm_runtime.build.foreign_calls import FUNCTIONS, foreign_calls
from wasm_runtime.build.link import Linker
from wasm_runtime.build.wasm_file import WasmFile

# libffi's numbers of the kinds.
VOID, FLOAT, DOUBLE, UINT8, SINT8, SINT16, SINT32, SINT64, STRUCT, POINTER = 0, 2, 3, 5, 6, 8, 10, 12, 13, 14
FORMATS = {FLOAT: "<f", DOUBLE: "<d", UINT8: "<B", SINT8: "<b", SINT16: "<h", SINT32: "<i", SINT64: "<q", POINTER: "<i"}
CIF, RESULT, LISTS, VALUES, TYPES = 1100, 1140, 1200, 1400, 1600
# What is called, at table slots 2 to 6, and the function that is replaced.
CALLED = """
  (func $mixed (param i32 f64 i64 f32) (result f64)
    (f64.add (f64.add (f64.convert_i32_s (local.get 0)) (local.get 1))
             (f64.add (f64.convert_i64_s (local.get 2)) (f64.promote_f32 (local.get 3)))))
  (func $store (param i32 i32) (i32.store (local.get 0) (local.get 1)))
  (func $long (result i64) (i64.const -5))
  (func $ffi (export "ffi_call_js") (param i32 i32 i32 i32) (unreachable))
  (func $alloc (export "ffi_closure_alloc_js") (param i32 i32) (result i32) (i32.const 0))
  (func (export "ffi_closure_free_js") (param i32))
  (func $prepare (export "ffi_prep_closure_loc_js") (param i32 i32 i32 i32 i32) (result i32) (unreachable))
  (func (export "malloc") (param i32) (result i32) (i32.add (local.get 0) (i32.const 3000)))
  (func (export "free") (param i32))
  (func (export "prepare") (param i32) (result i32)
    (call $prepare
      (call $alloc (i32.const 40) (i32.const 1900)) (local.get 0) (i32.const 0) (i32.const 0) (i32.const 0)))
  (func (export "call_foreign") (param i32 i32 i32 i32)
    (call $ffi (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (elem (i32.const 2) $mixed $store $long)
"""
MIXED, STORE, LONG, DOUBLED = 2, 3, 4, 1


@pytest.fixture(scope="module")
def running() -> Running:
    text = MAIN.replace("2 funcref", "5 funcref").rstrip().removesuffix(")") + CALLED + ")"
    linker = Linker(WasmFile.parse(bytes(wasmtime.wat2wasm(text)), "main"))
    linker.replace(FUNCTIONS, foreign_calls(linker.types))
    return Running(linker.finish())


def call(running: Running, slot: int, result: int, *arguments: tuple[int, float]) -> float | int | None:
    """Lay out an `ffi_cif`, its types and the arguments, call the function in a slot, and read its result."""
    for kind in range(15):
        running.write(TYPES + 8 * kind, struct.pack("<IHH", 0, 0, kind))
    types = [TYPES + 8 * kind for kind, _ in arguments]
    running.write(LISTS, struct.pack(f"<{len(types)}I", *types))
    running.write(LISTS + 64, struct.pack(f"<{len(types)}I", *(VALUES + 8 * n for n in range(len(types)))))
    for number, (kind, value) in enumerate(arguments):
        running.write(VALUES + 8 * number, struct.pack(FORMATS.get(kind, "<i"), value))
    running.write(CIF, struct.pack("<IIII", 1, len(arguments), LISTS, TYPES + 8 * result))
    running.call("call_foreign", CIF, slot, RESULT, LISTS + 64)
    return None if result == VOID else struct.unpack_from(FORMATS[result], running.read(RESULT, 8))[0]


def test_arguments_of_all_types_arrive_and_the_result_is_written(running: Running) -> None:
    arguments = ((SINT32, -7), (DOUBLE, 0.5), (SINT64, 1 << 40), (FLOAT, 0.25))
    assert call(running, MIXED, DOUBLE, *arguments) == (1 << 40) - 6.25


@pytest.mark.parametrize(
    ("kind", "value"), [(UINT8, 200), (SINT8, -100), (SINT16, -30_000), (SINT32, -(1 << 31)), (POINTER, 4096)]
)
def test_small_numbers_are_extended(running: Running, kind: int, value: int) -> None:
    assert call(running, STORE, VOID, (POINTER, 1900), (kind, value)) is None
    assert struct.unpack("<i", running.read(1900, 4)) == (value,)


def test_results_of_64_bits_and_of_functions_without_arguments(running: Running) -> None:
    assert call(running, LONG, SINT64) == -5
    assert call(running, DOUBLED, SINT32, (SINT32, 21)) == 42


def test_closures_are_allocated_and_cannot_be_prepared(running: Running) -> None:
    assert running.call("prepare", CIF) == 2  # FFI_BAD_ABI


@pytest.mark.parametrize(
    ("slot", "result", "arguments"),
    [
        (LONG, SINT32, ()),  # another result than it has
        (STORE, VOID, ((SINT32, 1),)),
        (DOUBLED, SINT32, ((STRUCT, 1),)),
        (DOUBLED, STRUCT, ((SINT32, 1),)),
        (DOUBLED, SINT32, ((SINT32, 1),) * 15),
        (0, VOID, ()),
        (1 << 20, VOID, ()),
    ],
)
def test_calls_that_fit_no_function_trap(
    running: Running, slot: int, result: int, arguments: tuple[tuple[int, float], ...]
) -> None:
    with pytest.raises(wasmtime.Trap):
        call(running, slot, result, *arguments)

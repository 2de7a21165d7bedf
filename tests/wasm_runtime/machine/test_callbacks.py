"""Host functions called from wasm: arguments arrive and results fit, whichever way the function was defined."""

import gc
import struct

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from wasm_runtime.machine import callbacks
from wasm_runtime.machine.engine import make_engine

ENGINE = make_engine()
TYPES = {"i32": wasmtime.ValType.i32(), "i64": wasmtime.ValType.i64(), "f64": wasmtime.ValType.f64()}
Number = int | float


class Bridge:
    """A module that passes its arguments to one host function and returns the result."""

    def __init__(self, params: list[str], result: str | None) -> None:
        self.seen: list[tuple[Number, ...]] = []
        self.answer: Number | None = 0
        words = " ".join(params)
        signature = f"(param {words}) " + (f"(result {result})" if result else "")
        passed = " ".join(f"(local.get {n})" for n in range(len(params)))
        text = f'(module (import "host" "f" (func $f {signature})) (func (export "f") {signature} (call $f {passed})))'
        module = wasmtime.Module(ENGINE, text)
        linker = wasmtime.Linker(ENGINE)
        kind = wasmtime.FuncType([TYPES[p] for p in params], [TYPES[result]] if result else [])
        callbacks.define_import(linker, "host", "f", kind, self._note)
        self._store = wasmtime.Store(ENGINE)
        found = linker.instantiate(self._store, module).exports(self._store)["f"]
        assert isinstance(found, wasmtime.Func)
        self._function = found

    def _note(self, *args: Number) -> Number | None:
        self.seen.append(args)
        return self.answer

    def __call__(self, *args: Number) -> Number | None:
        returned = self._function(self._store, *args)
        assert returned is None or isinstance(returned, int | float)
        return returned


EXTREMES: dict[str, list[Number]] = {
    "i32": [0, 1, -1, (1 << 31) - 1, -(1 << 31)],
    "i64": [0, 1, -1, (1 << 63) - 1, -(1 << 63), 1 << 32],
    "f64": [0.0, -1.5, 1e308, float("inf"), 5e-324],
}


@pytest.mark.parametrize("kind", EXTREMES)
def test_extremes_of_each_type_go_in_and_come_out(kind: str) -> None:
    bridge = Bridge([kind], kind)
    for value in EXTREMES[kind]:
        bridge.answer = value
        assert bridge(value) == value
    assert bridge.seen == [(value,) for value in EXTREMES[kind]]


def test_arguments_of_all_types_arrive_in_order() -> None:
    bridge = Bridge(["i32", "i64", "f64", "i64", "i32", "i32", "i32"], None)
    assert bridge(-1, 1 << 40, 2.5, -5, 7, 8, 9) is None
    assert bridge.seen == [(-1, 1 << 40, 2.5, -5, 7, 8, 9)]


def test_a_function_of_nothing_that_gives_nothing_is_called() -> None:
    bridge = Bridge([], None)
    bridge.answer = None
    assert bridge() is None
    assert bridge.seen == [()]


def test_a_result_without_arguments_has_room() -> None:
    bridge = Bridge([], "f64")
    bridge.answer = 1.25
    assert bridge() == 1.25


@given(st.integers(-(1 << 70), 1 << 70))
def test_an_integer_result_too_large_is_cut_to_its_type(value: int) -> None:
    for kind, layout in (("i32", "<i"), ("i64", "<q")):
        bridge = BRIDGES[kind]
        bridge.answer = value
        size = struct.calcsize(layout)
        cut = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        assert bridge() == struct.unpack(layout, cut)[0]


BRIDGES = {kind: Bridge([], kind) for kind in ("i32", "i64")}


def test_callbacks_live_as_long_as_their_engine() -> None:
    bridges = [Bridge(["i32"], "i32") for _ in range(50)]
    gc.collect()
    for number, bridge in enumerate(bridges):
        bridge.answer = number
        assert bridge(number) == number

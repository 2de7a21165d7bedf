"""The tools of the build, applied to modules that are small enough to read."""

import ctypes
import threading
from pathlib import Path

import pytest
import wasmtime

from wasm_runtime import compile_cache
from wasm_runtime.build.assemble import CHECK
from wasm_runtime.build.call_graph import cycles, entries_to_check, feedback_vertices
from wasm_runtime.build.leb import read_uleb, sleb, uleb
from wasm_runtime.build.module_parts import function_types
from wasm_runtime.build.opcodes import instructions, loop_body_offsets
from wasm_runtime.build.wasm_file import Export, Import, WasmFile
from wasm_runtime.machine.engine import make_engine
from wasm_runtime.machine.memory import KILL_ADDRESS

_LOOPING = """
(module
  (import "env" "unused" (func (param i32) (result i32)))
  (memory (export "memory") 1 4)
  (global (export "counter") (mut i32) (i32.const 7))
  (global (mut i32) (i32.const -1))
  (table 2 funcref)
  (func (export "spin") (loop $again (br $again)))
  (func (export "count") (param i32) (result i32)
    (local $n i32)
    (block $out
      (loop $again
        (br_if $out (i32.ge_u (local.get $n) (local.get 0)))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br $again)))
    (local.get $n))
  (data (i32.const 16) "old"))
"""


@pytest.fixture
def module(tmp_path: Path) -> WasmFile:
    return _load(_LOOPING, tmp_path)


def _load(text: str, folder: Path) -> WasmFile:
    path = folder / "module.wasm"
    path.write_bytes(wasmtime.wat2wasm(text))
    return WasmFile.load(path)


def _instance(module: WasmFile, folder: Path) -> tuple[wasmtime.Store, wasmtime.Instance]:
    path = folder / "edited.wasm"
    module.save(path)
    engine = make_engine()
    compiled = wasmtime.Module.from_file(engine, str(path))
    linker = wasmtime.Linker(engine)
    linker.define_unknown_imports_as_traps(compiled)
    store = wasmtime.Store(engine)
    return store, linker.instantiate(store, compiled)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31, 2**32 - 1])
def test_unsigned_numbers_survive_their_encoding(value: int) -> None:
    assert read_uleb(b"\xff" + uleb(value) + b"\xff", 1) == (value, 1 + len(uleb(value)))


def test_signed_numbers_are_encoded_as_the_specification_does() -> None:
    assert [sleb(n) for n in (0, 63, 64, -1, -64, -65, 128)] == [
        b"\x00", b"\x3f", b"\xc0\x00", b"\x7f", b"\x40", b"\xbf\x7f", b"\x80\x01",
    ]  # fmt: skip


def test_saving_what_was_loaded_gives_the_same_bytes(module: WasmFile, tmp_path: Path) -> None:
    module.save(tmp_path / "again.wasm")
    assert (tmp_path / "again.wasm").read_bytes() == (tmp_path / "module.wasm").read_bytes()


def test_sections_are_read_as_they_were_written(module: WasmFile) -> None:
    assert module.imports() == [Import("env", "unused", 0, b"\x00")]
    assert module.exports() == [
        Export("memory", 2, 0), Export("counter", 3, 0), Export("spin", 0, 1), Export("count", 0, 2),
    ]  # fmt: skip
    assert module.mutable_globals() == [0, 1]
    assert function_types(module)[0] == (b"\x7f", b"\x7f")


def test_data_globals_memory_and_exports_can_be_replaced(module: WasmFile, tmp_path: Path) -> None:
    module.set_active_data([(16, b"new!"), (70_000, b"far")])
    module.set_memory_minimum(2)
    module.set_mutable_i32_globals({0: 0x9000_0000})
    module.set_exports([e for e in module.exports() if e.name in ("memory", "counter")])
    store, instance = _instance(module, tmp_path)
    exports = instance.exports(store)
    memory, counter = exports["memory"], exports["counter"]
    assert isinstance(memory, wasmtime.Memory)
    assert isinstance(counter, wasmtime.Global)
    assert (bytes(memory.read(store, 16, 20)), bytes(memory.read(store, 70_000, 70_003))) == (b"new!", b"far")
    assert counter.value(store) == 0x9000_0000 - (1 << 32)
    assert sorted(exports) == ["counter", "memory"]


def test_a_loop_with_a_check_computes_what_it_did_before(module: WasmFile, tmp_path: Path) -> None:
    assert module.insert_checks(CHECK, entries=frozenset()) == 2
    store, instance = _instance(module, tmp_path)
    count = instance.exports(store)["count"]
    assert isinstance(count, wasmtime.Func)
    assert count(store, 1000) == 1000


def test_an_endless_loop_with_a_check_traps_once_its_word_is_set_from_another_thread(
    module: WasmFile, tmp_path: Path
) -> None:
    module.insert_checks(CHECK, entries=frozenset())
    store, instance = _instance(module, tmp_path)
    exports = instance.exports(store)
    memory, spin = exports["memory"], exports["spin"]
    assert isinstance(memory, wasmtime.Memory)
    assert isinstance(spin, wasmtime.Func)
    word = ctypes.c_uint32.from_address(ctypes.addressof(memory.data_ptr(store).contents) + KILL_ADDRESS)
    started = threading.Event()

    def stop() -> None:
        started.wait()
        word.value = 1

    thread = threading.Thread(target=stop)
    thread.start()
    started.set()
    with pytest.raises(wasmtime.Trap) as trap:
        spin(store)
    thread.join()
    assert trap.value.trap_code == wasmtime.TrapCode.UNREACHABLE


def test_checks_stand_at_the_heads_of_loops_and_at_the_entries_that_are_named(module: WasmFile) -> None:
    before = list(module.function_bodies())
    assert module.insert_checks(CHECK, entries=frozenset({1})) == 2
    after = list(module.function_bodies())
    assert after[0] == before[0].replace(b"\x03\x40", b"\x03\x40" + CHECK)
    one_local_of_i32 = b"\x01\x01\x7f"
    with_loop = before[1].replace(b"\x03\x40", b"\x03\x40" + CHECK)
    assert after[1] == one_local_of_i32 + CHECK + with_loop.removeprefix(one_local_of_i32)


_RECURSIVE = """
(module
  (type $unary (func (param i32) (result i32)))
  (table 3 funcref)
  (elem (i32.const 0) $through_table $leaf)
  (memory (export "memory") 1 4)
  (func $leaf (type $unary) (local.get 0))
  (func $even (param i32) (result i32) (call $odd (local.get 0)))
  (func $odd (param i32) (result i32) (call $even (local.get 0)))
  (func $itself (param i32) (result i32) (call $itself (local.get 0)))
  (func $through_table (type $unary) (call $calls_table (local.get 0)))
  (func $calls_table (param i32) (result i32) (call_indirect (type $unary) (local.get 0) (i32.const 0)))
  (func (export "twice") (param i32)
    (if (local.get 0) (then
      (call 6 (i32.sub (local.get 0) (i32.const 1)))
      (call 6 (i32.sub (local.get 0) (i32.const 1)))))))
"""


def test_every_cycle_of_calls_gets_a_check_and_functions_on_none_get_none(tmp_path: Path) -> None:
    leaf, even, odd, itself, through_table, calls_table, twice = range(7)
    entries = entries_to_check(_load(_RECURSIVE, tmp_path))
    assert {itself, through_table, twice} <= entries
    assert len(entries & {even, odd}) == 1
    assert not entries & {leaf, calls_table}


@pytest.mark.parametrize(
    ("graph", "needed"),
    [
        ({0: [1], 1: [2], 2: []}, 0),
        ({0: [0]}, 1),
        ({0: [1], 1: [0], 2: [3], 3: [2]}, 2),
        ({0: [1, 2], 1: [0], 2: [0]}, 1),
    ],
)
def test_feedback_vertices_leave_no_cycle(graph: dict[int, list[int]], needed: int) -> None:
    cut = feedback_vertices(graph)
    assert len(cut) == needed
    assert (
        cycles({node: [t for t in targets if t not in cut] for node, targets in graph.items() if node not in cut}) == []
    )


def test_recursion_without_a_loop_traps_once_its_word_is_set(tmp_path: Path) -> None:
    module = _load(_RECURSIVE, tmp_path)
    module.insert_checks(CHECK, entries=entries_to_check(module))
    store, instance = _instance(module, tmp_path)
    exports = instance.exports(store)
    memory, twice = exports["memory"], exports["twice"]
    assert isinstance(memory, wasmtime.Memory)
    assert isinstance(twice, wasmtime.Func)
    twice(store, 10)
    memory.write(store, b"\1", KILL_ADDRESS)
    with pytest.raises(wasmtime.Trap) as trap:
        twice(store, 60)
    assert trap.value.trap_code == wasmtime.TrapCode.UNREACHABLE


def test_an_unknown_instruction_stops_the_build_by_name() -> None:
    no_locals, unknown = b"\x00", b"\x27"
    with pytest.raises(ValueError, match="0x27"):
        loop_body_offsets(no_locals + unknown)


@pytest.mark.parametrize("wanted", [{0x03}, {0x06, 0x0B}, {0x10, 0x11, 0x28, 0xFC}, {0x0E, 0x41, 0x43}, set()])
def test_wanted_instructions_are_those_among_all_of_a_function(wanted: set[int]) -> None:
    module = WasmFile.parse(compile_cache.assembled_bytes(), compile_cache.ASSEMBLED_FILE)
    for function in list(module.function_bodies())[::200]:
        among_all = [(opcode, start) for opcode, start in instructions(function) if opcode in wanted]
        assert list(instructions(function, frozenset(wanted))) == among_all


def test_a_file_that_is_not_wasm_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.wasm"
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"text\.wasm does not start with the WebAssembly header"):
        WasmFile.load(path)

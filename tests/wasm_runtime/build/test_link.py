"""Side modules in the main module: symbols, addresses, function pointers, checks; and modules that are refused."""

import struct

import hypothesis
import pytest
import wasmtime
from hypothesis import strategies

from tests.wasm_runtime.build.linking import Running, link, new_linker, side, side_bytes
from wasm_runtime.build.side_module import BadPackage, SideModule, read_side_module
from wasm_runtime.machine.memory import KILL_ADDRESS

# PyInit_module(x) is what a test calls: through the table, as Python does.
WORD = "(type $word (func (param i32) (result i32)))"
DOUBLE = '(import "env" "double" (func $double (param i32) (result i32)))'


def run(module: SideModule, argument: int = 0) -> int | None:
    linked = link(module)
    return Running(linked).call("call", linked.python_modules["package.module"], argument)


def module_that_returns(expression: str, declarations: str = "") -> SideModule:
    return side(f'{declarations} (func (export "PyInit_module") (param i32) (result i32) {expression})')


def test_functions_of_the_main_module_are_called_directly() -> None:
    assert run(module_that_returns("(call $double (local.get 0))", DOUBLE), 21) == 42


def test_data_of_the_main_module_is_found_at_its_address() -> None:
    got = '(import "GOT.mem" "answer" (global $answer (mut i32)))'
    assert run(module_that_returns("(i32.load8_u (global.get $answer))", got)) == 42


def test_own_data_lies_in_memory_that_nothing_else_has() -> None:
    data = '(data (global.get $memory) "\\07")'
    first = side(f'(func (export "PyInit_a") (param i32) (result i32) (global.get $memory)) {data}', "a.so", memory=100)
    second = side(
        f'(func (export "PyInit_b") (param i32) (result i32) (global.get $memory)) {data}', "b.so", memory=100
    )
    linked = link(first, second)
    running = Running(linked)
    addresses = [running.call("call", linked.python_modules[name], 0) for name in ("a", "b")]
    assert addresses == [2048, 2160]
    assert linked.heap_start == 2272


def test_a_function_keeps_its_place_in_the_table_so_that_pointers_compare_equal() -> None:
    got = '(import "GOT.func" "double" (global $pointer (mut i32)))'
    assert run(module_that_returns("(global.get $pointer)", got)) == 1


def test_a_function_that_had_no_place_in_the_table_gets_one() -> None:
    got = WORD + '(import "GOT.func" "not_in_table" (global $pointer (mut i32)))'
    assert run(module_that_returns("(call_indirect (type $word) (local.get 0) (global.get $pointer))", got), 21) == 42


def test_own_functions_in_the_table_are_called_through_it() -> None:
    declarations = WORD + "(func $seven (type $word) (i32.const 7)) (elem (global.get $table) func $seven)"
    assert run(module_that_returns("(call_indirect (type $word) (i32.const 0) (global.get $table))", declarations)) == 7


def test_relocations_and_constructors_run_once_and_in_order() -> None:
    declarations = """
      (func (export "__wasm_call_ctors")
        (i32.store8 (global.get $memory) (i32.mul (i32.load8_u (global.get $memory)) (i32.const 10))))
      (func (export "__wasm_apply_data_relocs") (i32.store8 (global.get $memory) (i32.const 4)))
    """
    assert run(module_that_returns("(i32.load8_u (global.get $memory))", declarations)) == 40


@pytest.mark.parametrize(
    "computed",
    [
        "(global.set $mine (i32.add (global.get $memory) (i32.const 3)))",
        "(local i32) (global.set $mine (local.tee 0 (i32.add (global.get $memory) (i32.const 3))))",
        "(local i32) (local.set 0 (i32.add (global.get $memory) (i32.const 3))) (global.set $mine (local.get 0))",
    ],
)
def test_addresses_that_the_start_function_computes_become_constants(computed: str) -> None:
    declarations = f"""
      (global $mine (mut i32) (i32.const 0))
      (func $begin {computed})
      (start $begin)
    """
    linked = link(module_that_returns("(global.get $mine)", declarations))
    assert Running(linked).call("call", linked.python_modules["package.module"], 0) == 2048 + 3
    assert len(linked.wasm.mutable_globals()) == 1  # the stack pointer


def test_state_in_a_webassembly_global_is_refused_because_sessions_do_not_save_it() -> None:
    declarations = "(global $mine (mut i32) (i32.const 0))"
    module = module_that_returns("(global.set $mine (local.get 0)) (i32.const 0)", declarations)
    with pytest.raises(
        BadPackage, match=r"package/module\.so cannot be linked \(a function keeps state in a WebAssembly"
    ):
        link(module)


def test_symbols_of_a_library_are_there_for_modules_after_it() -> None:
    library = side('(func (export "triple") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 3)))', "lib.so")
    user = module_that_returns(
        "(call $triple (local.get 0))", '(import "env" "triple" (func $triple (param i32) (result i32)))'
    )
    linked = link(library, user)
    assert Running(linked).call("call", linked.python_modules["package.module"], 14) == 42


def test_symbols_that_nobody_provides_are_named() -> None:
    declarations = '(import "env" "pthread_create" (func (param i32))) (import "GOT.mem" "environ" (global (mut i32)))'
    with pytest.raises(BadPackage) as raised:
        link(module_that_returns("(i32.const 0)", declarations))
    assert str(raised.value) == (
        "package/module.so needs environ, pthread_create, which neither the interpreter nor a library of the package "
        "provides"
    )


def test_a_weak_symbol_that_is_missing_is_null_and_its_function_traps() -> None:
    module = side(
        """(import "env" "maybe" (func $maybe (param i32) (result i32)))
        (import "GOT.func" "maybe" (global $pointer (mut i32)))
        (func (export "PyInit_module") (param i32) (result i32)
          (if (local.get 0) (then (return (call $maybe (i32.const 0))))) (global.get $pointer))""",
        weak=("maybe",),
    )
    assert run(module) == 0
    with pytest.raises(wasmtime.Trap):
        run(module, 1)


def test_a_function_with_another_signature_is_refused() -> None:
    with pytest.raises(BadPackage, match="it calls double with another signature"):
        link(module_that_returns("(i32.const 0)", '(import "env" "double" (func (param i64)))'))


@pytest.mark.parametrize(
    "body",
    [
        "(loop $again (br $again)) (i32.const 0)",
        "(call $itself (local.get 0))",
        "(call_indirect (type $word) (local.get 0) (global.get $table))",
    ],
    ids=["loop", "direct recursion", "recursion through the table"],
)
def test_endless_code_is_stopped_by_the_word_that_the_host_writes(body: str) -> None:
    module = side(
        f"""{WORD} (func $itself (export "PyInit_module") (type $word) {body})
        (elem (global.get $table) func $itself)"""
    )
    linked = link(module)
    running = Running(linked)
    running.write(KILL_ADDRESS, struct.pack("<I", 1))
    with pytest.raises(wasmtime.Trap, match="unreachable"):
        running.call("call", linked.python_modules["package.module"], 0)


def test_a_function_of_the_main_module_that_gets_into_the_table_is_checked_too() -> None:
    module = module_that_returns(
        "(global.get $pointer)", '(import "GOT.func" "not_in_table" (global $pointer (mut i32)))'
    )
    linked = link(module)
    running = Running(linked)
    pointer = running.call("call", linked.python_modules["package.module"], 0)
    assert pointer is not None
    running.write(KILL_ADDRESS, struct.pack("<I", 1))
    with pytest.raises(wasmtime.Trap, match="unreachable"):
        running.call("call", pointer, 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(global i64 (i64.const 1))", "only i32 can be linked"),
        ('(data "x")', "a data segment with flags 1"),
        ("(elem (i32.const 0) func $f) (func $f)", "an element segment lies outside of its part of the table"),
        ("(type $s (struct))", "only function types can be linked"),
        ("(func (drop (ref.null func)))", "instruction 0xd0 cannot be linked"),
    ],
)  # fmt: skip
def test_what_compilers_for_emscripten_do_not_make_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadPackage, match=reason):
        link(side(text))


def test_a_module_may_not_ask_for_more_memory_than_any_real_one_does() -> None:
    with pytest.raises(BadPackage, match="it asks for 1073741824 bytes"):
        side("", memory=1 << 30)


EVERYTHING = side_bytes(
    f"""{WORD} {DOUBLE} (import "GOT.mem" "answer" (global $answer (mut i32)))
    (import "env" "__cpp_exception" (tag $thrown (param i32)))
    (func $own (export "PyInit_module") (type $word) (local i64)
      (loop $again (br_if $again (i32.eqz (i32.const 1))))
      try (result i32) (call_indirect (type $word) (call $double (local.get 0)) (global.get $table))
      catch $thrown (i32.add (global.get $answer)) catch_all (i32.const 3) end)
    (elem (global.get $table) func $own) (data (global.get $memory) "abc")""",
    needed=("libother.so",),
    weak=("double",),
)


@hypothesis.given(strategies.data())
@hypothesis.settings(max_examples=300)
def test_a_damaged_module_is_refused_and_nothing_else(data: strategies.DataObject) -> None:
    damaged = bytearray(EVERYTHING)
    for _ in range(data.draw(strategies.integers(1, 3))):
        damaged[data.draw(strategies.integers(0, len(damaged) - 1))] = data.draw(strategies.integers(0, 255))
    cut = data.draw(strategies.integers(0, len(damaged)))
    for content in (bytes(damaged), bytes(damaged[:cut])):
        linker = new_linker()
        try:
            linker.add(read_side_module("package/module.so", content))
        except BadPackage:
            continue
        linker.finish().wasm.to_bytes()

"""Legacy exceptions after their translation: each program gives what the legacy semantics prescribe."""

import pytest
import wasmtime

from tests.wasm_runtime.build.linking import Running, link, side

DECLARATIONS = """
(type $word (func (param i32) (result i32)))
(import "env" "throw" (func $throw (param i32) (result i32)))
(import "env" "__cpp_exception" (tag $thrown (param i32)))
(tag $other (param i32 i32))
(func $maybe (param i32) (result i32) (if (local.get 0) (then (throw $thrown (local.get 0)))) (i32.const 5))
(func $pair (param i32) (result i32) (throw $other (local.get 0) (i32.const 100)))
"""


def run(body: str, argument: int = 0, functions: str = "") -> int | None:
    text = f'{DECLARATIONS} {functions} (func (export "PyInit_module") (param i32) (result i32) (local $n i32) {body})'
    linked = link(side(text))
    return Running(linked).call("call", linked.python_modules["package.module"], argument)


CASES = {
    "no exception": ("try (result i32) local.get 0 catch $thrown end", 3, 3),
    "its value is caught": ("try (result i32) local.get 0 call $throw catch $thrown i32.const 1 i32.add end", 6, 7),
    "from an own function": ("try (result i32) local.get 0 call $maybe catch $thrown end", 9, 9),
    "all are caught": ("try (result i32) local.get 0 call $throw catch_all i32.const 8 end", 6, 8),
    "the first handler that fits": (
        "try (result i32) local.get 0 call $pair catch $thrown catch $other i32.sub catch_all i32.const 1 end", 30, -70,
    ),
    "caught outside": (
        """try (result i32) try (result i32) local.get 0 call $pair catch $thrown end
        catch $other i32.add end""", 1, 101,
    ),
    "thrown again": (
        """try (result i32)
             try (result i32) local.get 0 call $throw catch $thrown drop rethrow 0 end
           catch $thrown i32.const 1000 i32.add end""", 6, 1006,
    ),
    "thrown again from a handler in a handler": (
        """try (result i32)
             try (result i32) local.get 0 call $throw
             catch $thrown drop
               try (result i32) i32.const 77 call $throw catch $thrown drop rethrow 1 end
             end
           catch $thrown end""", 6, 6,
    ),
    "delegated to a try around it": (
        """try (result i32)
             try (result i32)
               try (result i32) local.get 0 call $throw delegate 1
             catch_all i32.const 1 end
           catch $thrown i32.const 50 i32.add end""", 6, 56,
    ),
    "delegated, and nothing thrown": (
        """try (result i32)
             try (result i32) local.get 0 delegate 0
           catch_all i32.const 1 end""", 6, 6,
    ),
    "delegated to a block, which is what is around it": (
        """try (result i32)
             (block $b (result i32) try (result i32) local.get 0 call $throw delegate 0)
           catch $thrown i32.const 2 i32.mul end""", 6, 12,
    ),
    "delegated from a handler": (
        """try (result i32)
             try (result i32) local.get 0 call $throw
             catch $thrown drop
               try (result i32) i32.const 40 call $throw delegate 0
             end
           catch $thrown i32.const 2 i32.add end""", 6, 42,
    ),
    "a try without handlers": ("try (result i32) local.get 0 end", 4, 4),
    "delegated to a try without handlers": (
        """try (result i32)
             try (result i32) try (result i32) local.get 0 call $throw delegate 0 end
           catch $thrown end""", 6, 6,
    ),
    "branches leave a try and a handler": (
        """(block $out (result i32)
             try (result i32)
               (br_if $out (i32.const 11) (local.get 0)) drop i32.const 3 call $throw
             catch $thrown drop (br $out (i32.const 12)) end)""", 1, 11,
    ),
    "in a loop": (
        """(loop $again
             try local.get $n call $throw drop
             catch $thrown i32.const 1 i32.add local.set $n end
             (br_if $again (i32.lt_u (local.get $n) (i32.const 10))))
           local.get $n""", 0, 10,
    ),
    "a table of branches": (
        """try (result i32)
             (block $a (block $b (br_table $a $b (local.get 0))) (return (i32.const 21))) i32.const 9 call $throw
           catch $thrown end""", 0, 9,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "argument", "value"), CASES.values(), ids=CASES)
def test_a_program_with_legacy_exceptions_gives_the_same_value(body: str, argument: int, value: int) -> None:
    assert run(body, argument) == value


def test_an_exception_that_is_delegated_to_the_caller_is_caught_there() -> None:
    inner = "(func $inner (param i32) (result i32) try (result i32) local.get 0 call $throw delegate 0)"
    assert run("try (result i32) local.get 0 call $inner catch $thrown end", 6, inner) == 6
    assert run("local.get 0 call $inner drop i32.const 1", 0, inner.replace("call $throw", "call $maybe")) == 1


def test_an_exception_that_nothing_catches_leaves_the_module() -> None:
    with pytest.raises(wasmtime.Trap, match="thrown Wasm exception"):
        run("local.get 0 call $throw", 1)

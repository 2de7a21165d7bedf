"""The boundary between wasm and host: no exception crosses it, and every import has exactly one provider."""

import ctypes
from collections.abc import Callable

import pytest
import wasmtime

from wasm_runtime import ImageError
from wasm_runtime.errno import Errno
from wasm_runtime.imports.guest import Guest
from wasm_runtime.linking import PROVIDERS, active_guest, guard, make_linker
from wasm_runtime.machine.engine import make_engine
from wasm_runtime.machine.memory import BadPointer, GuestMemory
from wasm_runtime.vfs.filesystem import Vfs
from wasm_runtime.vfs.quota import FixedQuota

I32, F64 = wasmtime.ValType.i32(), wasmtime.ValType.f64()
RETURNS_I32 = wasmtime.FuncType([I32], [I32])
RETURNS_F64 = wasmtime.FuncType([], [F64])
RETURNS_NOTHING = wasmtime.FuncType([I32], [])


def make_guest() -> Guest:
    vfs = Vfs(clock=lambda: 0, quota=FixedQuota(0))
    return Guest(memory=GuestMemory(0, 0), vfs=vfs, grow=lambda _: False)


def fail_with(error: BaseException) -> Callable[..., int]:
    def function(*_: object) -> int:
        raise error

    return function


def test_a_host_function_acts_on_the_guest_that_runs() -> None:
    one, other = make_guest(), make_guest()
    seen: list[Guest] = []

    def note(guest: Guest, n: int) -> int:
        seen.append(guest)
        return n

    function = guard(note, RETURNS_I32, -1)
    with active_guest(one):
        assert function(5) == 5
        with active_guest(other):
            function(6)
        function(7)
    assert [guest is one for guest in seen] == [True, False, True]


def test_a_host_function_called_while_no_guest_runs_fails() -> None:
    assert guard(lambda guest, n: n, RETURNS_I32, -1)(5) == -Errno.EIO


@pytest.mark.parametrize(
    ("signature", "sign", "result"),
    [(RETURNS_I32, -1, -Errno.EFAULT), (RETURNS_I32, 1, Errno.EFAULT), (RETURNS_I32, 0, 0), (RETURNS_F64, 0, 0.0),
     (RETURNS_NOTHING, 0, None)],
)  # fmt: skip
def test_a_bad_pointer_is_told_the_guest_and_nobody_else(
    signature: wasmtime.FuncType, sign: int, result: object
) -> None:
    guest = make_guest()
    with active_guest(guest):
        assert guard(fail_with(BadPointer()), signature, sign)(1) == result
    assert guest.failure is None


@pytest.mark.parametrize("error", [ValueError("a"), MemoryError(), KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_any_other_exception_is_kept_for_the_session(error: BaseException) -> None:
    guest = make_guest()
    with active_guest(guest):
        assert guard(fail_with(error), RETURNS_I32, -1)(1) == -Errno.EIO
        assert guard(fail_with(ValueError("second")), RETURNS_I32, -1)(1) == -Errno.EIO
    assert guest.failure is error


def test_the_guest_before_is_back_after_an_exception() -> None:
    guest = make_guest()
    with active_guest(guest):
        with pytest.raises(ZeroDivisionError), active_guest(make_guest()):
            raise ZeroDivisionError
        assert guard(lambda found, _: int(found is guest), RETURNS_I32, -1)(0) == 1


def test_each_import_is_provided_by_one_file() -> None:
    names = [name for provider in PROVIDERS for name in provider.FUNCTIONS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "text",
    [
        '(module (import "env" "__syscall_socket" (func (param i32) (result i32))))',
        '(module (import "env" "emscripten_run_script" (func (param i32))))',
        '(module (import "env" "memory" (memory 1)))',
        '(module (import "GOT.func" "fd_read" (global i32)))',
    ],
)
def test_an_import_that_nobody_provides_is_named(text: str) -> None:
    engine = make_engine()
    with pytest.raises(ImageError, match=r"the image imports .+ rebuild it"):
        make_linker(engine, wasmtime.Module(engine, text))


def test_memory_is_bounds_checked_at_both_ends() -> None:
    block = (ctypes.c_ubyte * 100)()
    memory = GuestMemory(ctypes.addressof(block), 100)
    assert len(memory.view(0, 100)) == 100
    assert len(memory.view(100, 0)) == 0
    for address, length in [(0, 101), (100, 1), (-1, 1), (0, -1), (1 << 32, 101), (0xFFFFFFFF, 1), (50, 1 << 62)]:
        with pytest.raises(BadPointer):
            memory.view(address, length)
    block[99] = 1
    with pytest.raises(BadPointer):
        memory.c_string(99)
    block[99] = 0
    assert memory.c_string(99) == b""


def test_a_guests_clocks_begin_at_zero_and_its_own_time_leaves_waiting_out() -> None:
    now = 0
    guest = make_guest()
    guest.monotonic_ns = lambda: now
    with active_guest(guest):
        now = 10
    now = 1000
    with active_guest(guest):
        now = 1005
        assert guest.cpu_ns() == 15
    assert make_guest().monotonic_ns() < 60 * 10**9

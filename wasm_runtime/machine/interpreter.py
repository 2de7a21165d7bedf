"""One instance of the interpreter: its store, its memory and the exports that the host calls."""

import ctypes
from typing import TypeVar

import wasmtime

from wasm_runtime.errors import ImageError, OutOfMemoryBudget
from wasm_runtime.machine.memory import WASM_PAGE_BYTES, GuestMemory

_Extern = TypeVar("_Extern", wasmtime.Memory, wasmtime.Global, wasmtime.Func)

# Together with memory these are the whole state of the interpreter: the stack pointer and Emscripten's setjmp words.
GLOBALS = ("global_0", "global_1", "global_2", "global_3")


class Interpreter:
    """A store with one instance in it. Used by one thread at a time."""

    def __init__(self, engine: wasmtime.Engine, prelinked: wasmtime.InstancePre, *, memory_bytes: int) -> None:
        """`memory_bytes` limits linear memory: growth beyond it fails, which CPython reports as MemoryError.

        Raises OutOfMemoryBudget where the operating system gives this process no more memory.
        """
        self.store = wasmtime.Store(engine)
        self.store.set_limits(memory_size=memory_bytes)
        try:
            instance = prelinked.instantiate(self.store)
        except wasmtime.WasmtimeError as error:
            self.store.close()
            raise OutOfMemoryBudget(f"no session can be opened ({error}): close others, or try again later") from error
        self._exports = instance.exports(self.store)
        self._memory = self._export("memory", wasmtime.Memory)
        self._globals = [self._export(name, wasmtime.Global) for name in GLOBALS]
        base = ctypes.addressof(self._memory.data_ptr(self.store).contents)
        self.memory = GuestMemory(base, self._memory.data_len(self.store))

    def call(self, name: str, *args: int) -> int:
        """Call an exported function of i32s; -> its result, or 0 if it has none. Raises wasmtime.Trap."""
        return self._export(name, wasmtime.Func)(self.store, *args) or 0

    def address(self, name: str) -> int:
        """Return the address of an exported C variable."""
        return int(self._export(name, wasmtime.Global).value(self.store))

    def globals(self) -> tuple[int, ...]:
        """Return the mutable globals, in the order of `GLOBALS`."""
        return tuple(int(g.value(self.store)) for g in self._globals)

    def set_globals(self, values: tuple[int, ...]) -> None:
        """Set the mutable globals to values that `globals` returned."""
        for cell, value in zip(self._globals, values, strict=True):
            cell.set_value(self.store, value)

    def grow(self, size: int) -> bool:
        """Extend linear memory to at least `size` bytes; False if its limit does not allow that."""
        missing = size - self.memory.size
        if missing > 0:
            try:
                self._memory.grow(self.store, -(-missing // WASM_PAGE_BYTES))
            except wasmtime.WasmtimeError:
                return False
            self.memory.resize(self._memory.data_len(self.store))
        return True

    def close(self) -> None:
        """Free the memory now instead of at the next garbage collection."""
        self.store.close()

    def _export(self, name: str, kind: type[_Extern]) -> _Extern:
        found = self._exports[name]
        if not isinstance(found, kind):
            raise ImageError(f"export {name} of the image is a {type(found).__name__}: rebuild the image")
        return found

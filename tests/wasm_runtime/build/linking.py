"""A main module and side modules that are small enough to read, and what runs them."""

import wasmtime

from wasm_runtime.build.leb import uleb
from wasm_runtime.build.link import INITIALIZE, LinkedModule, Linker
from wasm_runtime.build.side_module import SideModule, read_side_module
from wasm_runtime.build.wasm_file import HEADER, WasmFile
from wasm_runtime.machine.engine import make_engine

MAIN = """
(module
  (type $word (func (param i32) (result i32)))
  (memory (export "memory") 1 1000)
  (table (export "__indirect_function_table") 2 funcref)
  (global $sp (export "__stack_pointer") (mut i32) (i32.const 1024))
  (global (export "__heap_base") i32 (i32.const 2048))
  (global (export "answer") i32 (i32.const 512))
  (tag $thrown (export "__cpp_exception") (param i32))
  (func $double (export "double") (type $word) (i32.mul (local.get 0) (i32.const 2)))
  (func $not_in_table (export "not_in_table") (type $word) (call $double (local.get 0)))
  (func (export "call") (param i32 i32) (result i32)
    (call_indirect (type $word) (local.get 1) (local.get 0)))
  (func (export "throw") (type $word) (throw $thrown (local.get 0)))
  (elem (i32.const 1) $double)
  (data (i32.const 512) "\\2a"))
"""
# What every side module imports.
HEAD = """
(import "env" "memory" (memory 0))
(import "env" "__indirect_function_table" (table 0 funcref))
(import "env" "__stack_pointer" (global $sp (mut i32)))
(import "env" "__memory_base" (global $memory i32))
(import "env" "__table_base" (global $table i32))
"""


def side_bytes(
    text: str, *, memory: int = 64, slots: int = 4, needed: tuple[str, ...] = (), weak: tuple[str, ...] = ()
) -> bytes:
    """The bytes of a side module with `HEAD` and the section dylink.0."""
    parts = [_part(1, uleb(memory) + uleb(2) + uleb(slots) + uleb(0))]
    parts.append(_part(2, uleb(len(needed)) + b"".join(_text(name) for name in needed)))
    parts.append(_part(4, uleb(len(weak)) + b"".join(_text("env") + _text(name) + b"\x01" for name in weak)))
    section = _text("dylink.0") + b"".join(parts)
    code = bytes(wasmtime.wat2wasm(f"(module {HEAD} {text})"))
    return HEADER + b"\0" + uleb(len(section)) + section + code[len(HEADER) :]


def side(text: str, path: str = "package/module.so", **facts: object) -> SideModule:
    """The side module of a text."""
    return read_side_module(path, side_bytes(text, **facts))  # type: ignore[arg-type] # the keywords of side_bytes


def new_linker() -> Linker:
    return Linker(WasmFile.parse(bytes(wasmtime.wat2wasm(MAIN)), "main"))


def link(*modules: SideModule) -> LinkedModule:
    """The main module with these in it; all but the last are libraries."""
    linker = new_linker()
    for module in modules:
        linker.add(module, is_library=module is not modules[-1])
    return linker.finish()


class Running:
    """An instance of a linked module, initialised."""

    def __init__(self, linked: LinkedModule) -> None:
        engine = make_engine()
        self.store = wasmtime.Store(engine)
        module = wasmtime.Module(engine, linked.wasm.to_bytes())
        self.exports = wasmtime.Instance(self.store, module, []).exports(self.store)
        self.call(INITIALIZE)

    def call(self, name: str, *args: int) -> int | None:
        function = self.exports[name]
        assert isinstance(function, wasmtime.Func)
        result = function(self.store, *args)
        assert result is None or isinstance(result, int)
        return result

    def read(self, address: int, size: int) -> bytes:
        memory = self.exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        return bytes(memory.read(self.store, address, address + size))

    def write(self, address: int, data: bytes) -> None:
        memory = self.exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        memory.write(self.store, data, address)


def _part(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + uleb(len(data)) + data


def _text(text: str) -> bytes:
    return uleb(len(text)) + text.encode()

"""Sections of a WebAssembly module as lists of Python values, for the parts that the linker merges.

Only what C, C++ and Rust compile to is read: function types, i32 globals, active data, plain element segments. Anything
else is a ValueError that names it.
"""

from collections.abc import Callable
from typing import NamedTuple

from wasm_runtime.build.leb import read_sleb, read_uleb, signed32, uleb
from wasm_runtime.build.wasm_file import DATA, ELEMENT, FUNCTION, GLOBAL, TAG, TYPE, WasmFile

I32 = 0x7F
_VALUE_TYPES = frozenset([0x7F, 0x7E, 0x7D, 0x7C, 0x7B, 0x70, 0x6F, 0x69])  # numbers, vectors, funcref … exnref
_CONST, _GLOBAL_GET, _ADD, _END, _REF_FUNC = 0x41, 0x23, 0x6A, 0x0B, 0xD2

GlobalValue = Callable[[int], int]


class ElementSegment(NamedTuple):
    """Functions by index, and where in the table they are put: None for a segment that only declares them."""

    offset: int | None
    functions: list[int]


class FunctionType(NamedTuple):
    """Parameter and result types, one byte each."""

    params: bytes
    results: bytes

    def encoded(self) -> bytes:
        """Return the entry of a type section."""
        return b"\x60" + uleb(len(self.params)) + self.params + uleb(len(self.results)) + self.results


def function_types(module: WasmFile) -> list[FunctionType]:
    """Return the type section."""
    data = module.body(TYPE)
    count, position = read_uleb(data, 0) if data else (0, 0)
    found: list[FunctionType] = []
    for _ in range(count):
        if data[position] != 0x60:
            raise ValueError(f"type {len(found)} has form {data[position]:#x}: only function types can be linked")
        params, position = _value_types(data, position + 1)
        results, position = _value_types(data, position)
        found.append(FunctionType(params, results))
    return found


def _value_types(data: bytes, position: int) -> tuple[bytes, int]:
    length, start = read_uleb(data, position)
    types = data[start : start + length]
    if len(types) < length or not _VALUE_TYPES.issuperset(types):
        raise ValueError(f"value types {types.hex()} cannot be linked")
    return types, start + length


def types_of_functions(module: WasmFile) -> list[int]:
    """Return the type index of each defined function."""
    data = module.body(FUNCTION)
    return _numbers(data, 0)[0] if data else []


def types_of_tags(module: WasmFile) -> list[int]:
    """Return the type index of each defined tag."""
    data = module.body(TAG)
    count, position = read_uleb(data, 0) if data else (0, 0)
    found = []
    for _ in range(count):
        kind, position = read_uleb(data, position + 1)
        found.append(kind)
    return found


def _numbers(data: bytes, position: int) -> tuple[list[int], int]:
    count, position = read_uleb(data, position)
    found = []
    for _ in range(count):
        number, position = read_uleb(data, position)
        found.append(number)
    return found, position


def constant(data: bytes, position: int, global_value: GlobalValue) -> tuple[int, int]:
    """Evaluate a constant expression of i32s; -> (value, position behind its end)."""
    stack: list[int] = []
    while data[position] != _END:
        opcode = data[position]
        if opcode == _CONST:
            value, position = read_sleb(data, position + 1)
            stack.append(value)
        elif opcode == _GLOBAL_GET:
            number, position = read_uleb(data, position + 1)
            stack.append(global_value(number))
        elif opcode == _ADD and len(stack) > 1:
            position += 1
            stack.append(stack.pop() + stack.pop())
        else:
            raise ValueError(f"a constant expression with instruction {opcode:#x} cannot be linked")
    if len(stack) != 1:
        raise ValueError(f"a constant expression leaves {len(stack)} values")
    return signed32(stack[0]), position + 1


def global_values(module: WasmFile, imported: GlobalValue) -> list[tuple[bool, int]]:
    """Return (is mutable, initial value) of each defined global."""
    data = module.body(GLOBAL)
    count, position = read_uleb(data, 0) if data else (0, 0)
    found: list[tuple[bool, int]] = []
    for _ in range(count):
        if data[position] != I32:
            raise ValueError(f"global {len(found)} has type {data[position]:#x}: only i32 can be linked")
        mutable = data[position + 1] == 1
        value, position = constant(data, position + 2, imported)
        found.append((mutable, value))
    return found


def element_segments(module: WasmFile, global_value: GlobalValue) -> list[ElementSegment]:
    """Return the segments of table 0."""
    data = module.body(ELEMENT)
    count, position = read_uleb(data, 0) if data else (0, 0)
    found = []
    for _ in range(count):
        flags, position = read_uleb(data, position)
        offset: int | None = None
        if flags in (2, 6):
            table, position = read_uleb(data, position)
            if table:
                raise ValueError(f"an element segment of table {table} cannot be linked")
        if flags not in (1, 3, 5, 7):
            offset, position = constant(data, position, global_value)
        if flags not in (0, 4):
            position += 1  # the kind or type of the elements
        length, position = read_uleb(data, position)
        functions = []
        for _ in range(length):
            if flags & 4:
                if data[position] != _REF_FUNC:
                    raise ValueError("an element segment holds something other than functions")
                position += 1
            number, position = read_uleb(data, position)
            position += flags >> 2 & 1  # the end of the expression
            functions.append(number)
        found.append(ElementSegment(offset, functions))
    return found


def data_segments(module: WasmFile, global_value: GlobalValue) -> list[tuple[int, bytes]]:
    """Return (address, bytes) of each segment; all must be active ones of memory 0."""
    data = module.body(DATA)
    count, position = read_uleb(data, 0) if data else (0, 0)
    found = []
    for _ in range(count):
        flags, position = read_uleb(data, position)
        if flags:
            raise ValueError(f"a data segment with flags {flags} cannot be linked")
        address, position = constant(data, position, global_value)
        length, position = read_uleb(data, position)
        if position + length > len(data):
            raise ValueError("a data segment is cut short")
        found.append((address, data[position : position + length]))
        position += length
    return found

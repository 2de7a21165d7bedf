"""A WebAssembly binary as a list of sections that can be edited.

It implements only what the build needs. Sections that are not edited keep their bytes. Encoding: WebAssembly 3.0,
chapter 5 (binary format).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wasm_runtime.build.leb import read_uleb, signed32, sleb, uleb
from wasm_runtime.build.opcodes import entry_offset, loop_body_offsets

CUSTOM, TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START, ELEMENT, CODE, DATA, DATA_COUNT, TAG = range(14)
FUNC_KIND, TABLE_KIND, MEMORY_KIND, GLOBAL_KIND, TAG_KIND = range(5)
HEADER = b"\0asm\1\0\0\0"


class Import(NamedTuple):
    """One entry of the import section; `descriptor` is the encoded type behind the kind byte."""

    module: str
    name: str
    kind: int
    descriptor: bytes


class Export(NamedTuple):
    """One entry of the export section."""

    name: str
    kind: int
    number: int


def _name(data: bytes, position: int) -> tuple[str, int]:
    length, position = read_uleb(data, position)
    return data[position : position + length].decode(), position + length


def _encoded_name(name: str) -> bytes:
    encoded = name.encode()
    return uleb(len(encoded)) + encoded


@dataclass(slots=True)
class WasmFile:
    """The sections of one module, in file order: (id, body)."""

    sections: list[tuple[int, bytes]]

    @classmethod
    def load(cls, path: Path) -> "WasmFile":
        """Split the file at `path` into sections; ValueError when it is not a wasm binary."""
        return cls.parse(path.read_bytes(), path.name)

    @classmethod
    def parse(cls, data: bytes, name: str) -> "WasmFile":
        """Split the bytes of module `name` into sections; ValueError when they are not a wasm binary."""
        if not data.startswith(HEADER):
            raise ValueError(f"{name} does not start with the WebAssembly header: it is not a wasm module")
        sections, position = [], len(HEADER)
        while position < len(data):
            number = data[position]
            length, start = read_uleb(data, position + 1)
            position = start + length
            if position > len(data):
                raise ValueError(f"{name} is cut short in section {number}")
            sections.append((number, data[start:position]))
        return cls(sections)

    def save(self, path: Path) -> None:
        """Write the module to `path`."""
        path.write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the binary."""
        return HEADER + b"".join(bytes([n]) + uleb(len(body)) + body for n, body in self.sections)

    def body(self, number: int) -> bytes:
        """Return the body of the first section `number`, empty if there is none."""
        return next((body for n, body in self.sections if n == number), b"")

    def replace(self, number: int, body: bytes | None) -> None:
        """Replace the body of section `number`, or remove the section."""
        kept = ((n, body if n == number else old) for n, old in self.sections)
        self.sections = [(n, b) for n, b in kept if b is not None]

    def imports(self) -> list[Import]:
        """Return the entries of the import section."""
        data = self.body(IMPORT)
        count, position = read_uleb(data, 0) if data else (0, 0)
        found = []
        for _ in range(count):
            module, position = _name(data, position)
            name, position = _name(data, position)
            kind, start = data[position], position + 1
            if kind == FUNC_KIND:
                _, position = read_uleb(data, start)
            elif kind == GLOBAL_KIND:
                position = start + 2
            elif kind == MEMORY_KIND:
                position = _behind_limits(data, start)
            elif kind == TABLE_KIND:
                position = _behind_limits(data, start + 1)
            elif kind == TAG_KIND:
                _, position = read_uleb(data, start + 1)
            else:
                raise ValueError(f"import {module}.{name} has kind {kind}, which this build does not know")
            found.append(Import(module, name, kind, data[start:position]))
        return found

    def set_imports(self, imports: list[Import]) -> None:
        """Replace the import section; indices follow the order of `imports`."""
        body = b"".join(
            _encoded_name(i.module) + _encoded_name(i.name) + bytes([i.kind]) + i.descriptor for i in imports
        )
        self.replace(IMPORT, uleb(len(imports)) + body)

    def exports(self) -> list[Export]:
        """Return the entries of the export section."""
        data = self.body(EXPORT)
        count, position = read_uleb(data, 0) if data else (0, 0)
        found = []
        for _ in range(count):
            name, position = _name(data, position)
            index, behind = read_uleb(data, position + 1)
            found.append(Export(name, data[position], index))
            position = behind
        return found

    def set_exports(self, exports: list[Export]) -> None:
        """Replace the export section."""
        body = b"".join(_encoded_name(e.name) + bytes([e.kind]) + uleb(e.number) for e in exports)
        self.replace(EXPORT, uleb(len(exports)) + body)

    def set_memory_minimum(self, pages: int) -> None:
        """Set the initial size of the module's only memory, in pages of 64 KiB; its maximum stays."""
        data = self.body(MEMORY)
        count, position = read_uleb(data, 0)
        if count != 1 or data[position] != 1:
            raise ValueError("the module must define exactly one memory, with a maximum")
        _, behind = read_uleb(data, position + 1)
        self.replace(MEMORY, data[: position + 1] + uleb(pages) + data[behind:])

    def set_mutable_i32_globals(self, values: Mapping[int, int]) -> None:
        """Set initial values of defined globals: index among the *defined* ones -> value."""
        data = self.body(GLOBAL)
        count, position = read_uleb(data, 0)
        out = bytearray(uleb(count))
        for index in range(count):
            value_type, mutable, opcode = data[position], data[position + 1], data[position + 2]
            if (value_type, opcode) != (0x7F, 0x41):
                raise ValueError(f"global {index} is not an i32 constant")
            behind = position + 3
            while data[behind] & 0x80:
                behind += 1
            behind += 2  # the last byte of the number and `end`
            if index in values:
                out += bytes([value_type, mutable, opcode]) + sleb(signed32(values[index])) + b"\x0b"
            else:
                out += data[position:behind]
            position = behind
        self.replace(GLOBAL, bytes(out))

    def mutable_globals(self) -> list[int]:
        """Return the indices, among the defined globals, of the mutable ones."""
        data = self.body(GLOBAL)
        count, position = read_uleb(data, 0)
        found: list[int] = []
        for index in range(count):
            if data[position + 1]:
                found.append(index)
            position += 3
            while data[position] & 0x80:
                position += 1
            position += 2
        return found

    def set_active_data(self, runs: list[tuple[int, bytes]]) -> None:
        """Replace all data segments by active ones of memory 0: (address, bytes). The data count is removed."""
        body = b"".join(b"\x00\x41" + sleb(signed32(at)) + b"\x0b" + uleb(len(part)) + part for at, part in runs)
        self.replace(DATA, uleb(len(runs)) + body)
        self.replace(DATA_COUNT, None)

    def function_bodies(self) -> Iterator[bytes]:
        """Yield the body (locals and instructions) of each defined function."""
        data = self.body(CODE)
        count, position = read_uleb(data, 0) if data else (0, 0)
        for _ in range(count):
            length, position = read_uleb(data, position)
            yield data[position : position + length]
            position += length

    def insert_checks(self, check: bytes, *, entries: frozenset[int]) -> int:
        """Insert the stack-neutral instructions `check` at the head of every loop; -> the number of loops.

        The functions `entries`, named by their index among the defined ones, also get it at their entry.
        """
        loops, out = 0, []
        for index, function in enumerate(self.function_bodies()):
            heads = loop_body_offsets(function)
            loops += len(heads)
            offsets = [entry_offset(function), *heads] if index in entries else heads
            pieces = [function[a:b] for a, b in zip([0, *offsets], [*offsets, len(function)], strict=True)]
            body = check.join(pieces)
            out.append(uleb(len(body)) + body)
        self.replace(CODE, uleb(len(out)) + b"".join(out))
        return loops


def _behind_limits(data: bytes, position: int) -> int:
    has_maximum = data[position] & 1
    _, position = read_uleb(data, position + 1)
    if has_maximum:
        _, position = read_uleb(data, position)
    return position

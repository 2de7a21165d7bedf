"""Side modules: the compiled parts of a wheel, as Emscripten links them for loading at run time.

Their custom section `dylink.0` (WebAssembly tool conventions, "Dynamic Linking") says how much memory and how many
table slots they need, which libraries they were linked to, and which of their imports may be missing (weak symbols).
"""

import struct
from dataclasses import dataclass, field

from wasm_runtime.build.leb import read_uleb
from wasm_runtime.build.module_parts import FunctionType, function_types, types_of_functions, types_of_tags
from wasm_runtime.build.wasm_file import CUSTOM, FUNC_KIND, GLOBAL_KIND, START, TAG_KIND, Export, Import, WasmFile

_MEMORY_INFO, _NEEDED, _IMPORT_INFO = 1, 2, 4
_WEAK = 1
# Far above any real module (the largest of scipy has 7 MB): memory for them is part of every session's address space.
_MOST_MEMORY, _MOST_SLOTS, _MOST_ALIGNMENT = 256 << 20, 1 << 20, 16
_PREFIX = "PyInit_"

MALFORMED = (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError, struct.error)


class BadPackage(Exception):
    """A wheel, or a module in it, cannot be used; the text names it and says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideModule:
    """One `.so` file of a wheel. `path` is where it lies in the wheel."""

    path: str
    wasm: WasmFile = field(repr=False)
    memory_bytes: int
    memory_alignment: int  # as a power of two
    table_slots: int
    needed: tuple[str, ...]
    weak: frozenset[str]
    types: list[FunctionType] = field(repr=False)
    imports: list[Import] = field(repr=False)
    exports: dict[str, Export] = field(repr=False)
    functions: list[int] = field(repr=False)  # the type index of each
    tags: list[int] = field(repr=False)  # the type index of each that it defines itself
    start: int | None

    def imported(self, kind: int) -> list[Import]:
        """Return the imports of one kind; indices of that kind begin with them."""
        return [entry for entry in self.imports if entry.kind == kind]

    @property
    def python_module(self) -> str | None:
        """The dotted name under which Python imports it; None for a library."""
        base = self.path.rpartition("/")[2].partition(".")[0]
        if f"{_PREFIX}{base}" not in self.exports:
            return None
        folder = self.path.rpartition("/")[0]
        return ".".join([*folder.split("/"), base] if folder else [base])

    @property
    def init_function(self) -> str:
        """The name of the export that makes the Python module."""
        return _PREFIX + (self.python_module or "").rpartition(".")[2]


def read_side_module(path: str, data: bytes) -> SideModule:
    """Return the module in the bytes of a `.so` file. Raises BadPackage."""
    try:
        return _read(path, WasmFile.parse(data, path))
    except MALFORMED as error:
        raise BadPackage(f"{path} is not a side module that can be linked ({error})") from error


def _read(path: str, wasm: WasmFile) -> SideModule:
    memory, alignment, slots = 0, 0, 0
    needed: tuple[str, ...] = ()
    weak: frozenset[str] = frozenset()
    for kind, part in _subsections(_dylink(wasm)):
        if kind == _MEMORY_INFO:
            memory, position = read_uleb(part, 0)
            alignment, position = read_uleb(part, position)
            slots, _ = read_uleb(part, position)
        elif kind == _NEEDED:
            needed = tuple(_strings(part))
        elif kind == _IMPORT_INFO:
            weak = frozenset(_weak_imports(part))
    if memory > _MOST_MEMORY or slots > _MOST_SLOTS or alignment > _MOST_ALIGNMENT:
        raise ValueError(f"it asks for {memory} bytes of memory, aligned to 2^{alignment}, and {slots} table slots")
    types = function_types(wasm)
    start = wasm.body(START)
    module = SideModule(
        path=path,
        wasm=wasm,
        memory_bytes=memory,
        memory_alignment=alignment,
        table_slots=slots,
        needed=needed,
        weak=weak,
        types=types,
        imports=wasm.imports(),
        exports={entry.name: entry for entry in wasm.exports()},
        functions=types_of_functions(wasm),
        tags=types_of_tags(wasm),
        start=read_uleb(start, 0)[0] if start else None,
    )
    _check_indices(module)
    return module


def _check_indices(module: SideModule) -> None:
    count = {
        FUNC_KIND: len(module.imported(FUNC_KIND)) + len(module.functions),
        TAG_KIND: len(module.imported(TAG_KIND)) + len(module.tags),
    }
    of_imports = (read_uleb(entry.descriptor, 0)[0] for entry in module.imported(FUNC_KIND))
    if any(kind >= len(module.types) for kind in (*module.functions, *module.tags, *of_imports)):
        raise ValueError("a function has a type that does not exist")
    if any(e.number >= count[e.kind] for e in module.exports.values() if e.kind in count):
        raise ValueError("an export does not exist")
    if sum(1 for _ in module.wasm.function_bodies()) != len(module.functions):
        raise ValueError("functions and their bodies differ in number")
    if any(entry.kind == GLOBAL_KIND and entry.descriptor[:1] != b"\x7f" for entry in module.imports):
        raise ValueError("it imports a global that is not an i32")


def _dylink(wasm: WasmFile) -> bytes:
    number, body = wasm.sections[0] if wasm.sections else (CUSTOM, b"\0")
    length, start = read_uleb(body, 0)
    if number != CUSTOM or body[start : start + length] != b"dylink.0":
        raise ValueError("it does not begin with the section dylink.0")
    return body[start + length :]


def _subsections(data: bytes) -> list[tuple[int, bytes]]:
    found, position = [], 0
    while position < len(data):
        kind = data[position]
        length, start = read_uleb(data, position + 1)
        position = start + length
        found.append((kind, data[start:position]))
    return found


def _strings(data: bytes) -> list[str]:
    count, position = read_uleb(data, 0)
    found = []
    for _ in range(count):
        text, position = _string(data, position)
        found.append(text)
    return found


def _string(data: bytes, position: int) -> tuple[str, int]:
    length, start = read_uleb(data, position)
    if start + length > len(data):
        raise ValueError("a name is cut short")
    return data[start : start + length].decode(), start + length


def _weak_imports(data: bytes) -> list[str]:
    count, position = read_uleb(data, 0)
    found = []
    for _ in range(count):
        _, position = _string(data, position)
        name, position = _string(data, position)
        flags, position = read_uleb(data, position)
        if flags & 3 == _WEAK:
            found.append(name)
    return found

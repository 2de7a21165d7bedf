"""Links side modules into the main module before it is baked, so that sessions run one module as always.

    assembled.wasm + side modules ─ translate exceptions, relocate, check ─> one module, its Python modules by name

Types are merged; functions, element segments and data are appended. Static data lies from the main module's
`__heap_base` on, and the heap begins behind it. A symbol is looked up in the main module, then in the libraries linked
before, then in the module itself: Emscripten's order at run time. A function that has a place in the table keeps it,
because function pointers are compared. The relocations and constructors of all modules run in one exported function,
once, while the image is baked.

Checks (see `assemble`). The main module calls side modules through the table only, so every cycle of calls between them
passes a function in the table: each of those that calls anything is checked at its entry, as is a function of the main
module that linking puts into the table. What is left are cycles of direct calls inside the side modules, which
`feedback_vertices` cuts. Loops are checked while code is relocated.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from wasm_runtime.build.assemble import CHECK
from wasm_runtime.build.call_graph import feedback_vertices
from wasm_runtime.build.exceptions import has_legacy_exceptions, translate
from wasm_runtime.build.leb import read_uleb, signed32, sleb, uleb
from wasm_runtime.build.module_parts import (
    FunctionType,
    data_segments,
    element_segments,
    function_types,
    global_values,
    types_of_functions,
    types_of_tags,
)
from wasm_runtime.build.relocation import (
    Constant,
    FunctionCalls,
    Indices,
    SharedGlobal,
    calls_anything,
    relocate,
    values_that_start_sets,
    with_entry_check,
)
from wasm_runtime.build.side_module import MALFORMED, BadPackage, SideModule
from wasm_runtime.build.wasm_file import (
    CODE,
    DATA,
    DATA_COUNT,
    ELEMENT,
    FUNC_KIND,
    FUNCTION,
    GLOBAL_KIND,
    MEMORY,
    TABLE,
    TAG,
    TAG_KIND,
    TYPE,
    Export,
    Import,
    WasmFile,
)
from wasm_runtime.machine.memory import WASM_PAGE_BYTES

INITIALIZE = "initialize_linked_modules"
_INITIALIZERS = ("__wasm_apply_data_relocs", "__wasm_call_ctors")
_TRAP = b"\x00\x00\x0b"  # no locals; unreachable; end
# The main program of Fortran code, which its run-time library calls; a library has none.
_PROGRAMS = frozenset({"MAIN__"})
_LEAST_ALIGNMENT = 4  # 16 bytes, as malloc gives
# Room for the heap while the image is baked, so that its first growth is not a host call.
_SPARE_PAGES = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedModule:
    """The main module with the side modules in it."""

    wasm: WasmFile = field(repr=False)
    python_modules: dict[str, int]  # dotted name -> table index of the function that makes it
    heap_start: int


@dataclass(frozen=True, slots=True)
class _Function:
    index: int
    kind: FunctionType


class Linker:
    """Collects side modules, libraries before the modules that need them; `finish` writes the result."""

    def __init__(self, main: WasmFile) -> None:
        """`main` is the assembled module: it imports functions only, and its globals are i32 constants."""
        self._main = main
        self._types = function_types(main)
        self._type_index = {kind: number for number, kind in reversed(list(enumerate(self._types)))}
        self._exports = {entry.name: entry for entry in reversed(main.exports())}
        imported = [read_uleb(entry.descriptor, 0)[0] for entry in main.imports()]
        self._main_functions = [*imported, *types_of_functions(main)]
        self._imported_count = len(imported)
        self._tags = types_of_tags(main)
        self._globals = global_values(main, _no_imported_global)
        self._table_size = _table_size(main)
        self._slots: dict[int, int] = {}
        for offset, functions in element_segments(main, _no_imported_global):
            for place, function in enumerate(functions):
                self._slots.setdefault(function, (offset or 0) + place)
        self._libraries: dict[str, _Function | int] = {}  # symbols of libraries: functions, addresses
        self._memory_end = self._globals[self._exports["__heap_base"].number][1]
        self._new_types: list[int] = []
        self._bodies: list[bytes] = []
        self._calls: list[FunctionCalls] = []
        self._segments: list[tuple[int, list[int]]] = []
        self._data: list[tuple[int, bytes]] = []
        self._initializers: list[int] = []
        self._in_main_checked: set[int] = set()
        self._python_modules: dict[str, int] = {}
        self._replaced: dict[int, bytes] = {}  # bodies of the main module, by their number

    def add(self, module: SideModule, *, is_library: bool = False) -> None:
        """Link one module; the symbols of a library are there for the modules after it. Raises BadPackage."""
        try:
            self._add(module, is_library=is_library)
        except MALFORMED as error:
            raise BadPackage(f"{module.path} cannot be linked ({error})") from error

    def replace(self, names: Iterable[str], module: SideModule) -> None:
        """Link a module, and have functions of the main module call those of the same name in it."""
        linking = self._add(module, is_library=False)
        for name in names:
            number, function = self._exports[name].number, linking.own_function(name)
            arguments = b"".join(b"\x20" + uleb(n) for n in range(len(function.kind.params)))
            body = b"\x00" + arguments + b"\x10" + uleb(function.index) + b"\x0b"
            # What it calls may call it again.
            self._replaced[number - self._imported_count] = with_entry_check(body, CHECK)

    def finish(self) -> LinkedModule:
        """Return the linked module."""
        self._check_entries()
        self._append_initializer()
        main = self._main
        main.replace(TYPE, uleb(len(self._types)) + b"".join(kind.encoded() for kind in self._types))
        own = self._main_functions[self._imported_count :]
        main.replace(FUNCTION, uleb(len(own) + len(self._new_types)) + b"".join(map(uleb, [*own, *self._new_types])))
        main.replace(TABLE, _with_table_size(main.body(TABLE), self._table_size))
        main.replace(TAG, uleb(len(self._tags)) + b"".join(b"\0" + uleb(kind) for kind in self._tags))
        _append(main, ELEMENT, [_encoded_segment(at, functions) for at, functions in self._segments])
        self._write_code()
        _append(main, DATA, [b"\0\x41" + sleb(at) + b"\x0b" + uleb(len(part)) + part for at, part in self._data])
        main.replace(DATA_COUNT, None)
        heap_start = -(-self._memory_end // 16) * 16
        pages, _ = read_uleb(main.body(MEMORY), 2)
        main.set_memory_minimum(max(pages, -(-heap_start // WASM_PAGE_BYTES) + _SPARE_PAGES))
        return LinkedModule(wasm=main, python_modules=self._python_modules, heap_start=heap_start)

    @property
    def types(self) -> Sequence[FunctionType]:
        """The function types of all modules so far."""
        return self._types

    def next_function(self) -> int:
        """Return the index that the next function gets."""
        return len(self._main_functions) + len(self._new_types)

    def _type(self, kind: FunctionType) -> int:
        found = self._type_index.get(kind)
        if found is None:
            found = self._type_index[kind] = len(self._types)
            self._types.append(kind)
        return found

    def _add(self, module: SideModule, *, is_library: bool) -> "_Linking":
        linking = _Linking(self, module)
        first = self.next_function()
        self._new_types += [self._type(module.types[kind]) for kind in module.functions]
        self._new_types += [self._type(kind) for kind in linking.stubs]
        bodies = linking.bodies()  # first, because exceptions need types of their own
        indices = linking.indices()
        start = None if module.start is None else module.start - len(module.imported(FUNC_KIND))
        for number, body in enumerate(bodies):
            relocated, calls = relocate(body, indices, CHECK, is_start=number == start)
            self._bodies.append(relocated)
            self._calls.append(calls)
        for _ in linking.stubs:
            self._bodies.append(_TRAP)
            self._calls.append(FunctionCalls())
        if len(self._bodies) != len(self._new_types) or self.next_function() - first < len(module.functions):
            raise ValueError("functions and their bodies differ in number")
        self._data += data_segments(module.wasm, linking.global_value)
        for name in _INITIALIZERS:
            if name in module.exports:
                self._initializers.append(linking.own_function(name).index)
        if module.python_module is not None:
            self._python_modules[module.python_module] = self.slot_of(linking.own_function(module.init_function))
        if is_library:
            for name in module.exports:
                symbol = linking.own_symbol(name)
                if symbol is not None:
                    self._libraries.setdefault(name, symbol)
        return linking

    def symbol(self, name: str) -> _Function | int | None:
        """Return what the main module or a library calls `name`: a function, or an address."""
        entry = self._exports.get(name)
        if entry is not None and entry.kind == FUNC_KIND:
            return _Function(entry.number, self._types[self._main_functions[entry.number]])
        if entry is not None and entry.kind == GLOBAL_KIND:
            return self._globals[entry.number][1]
        return self._libraries.get(name)

    def slot_of(self, function: _Function) -> int:
        """Return the function's place in the table, where it is put now if it has none."""
        if function.index not in self._slots:
            self._slots[function.index] = self._table_size
            self._segments.append((self._table_size, [function.index]))
            self._table_size += 1
            if self._imported_count <= function.index < len(self._main_functions):
                self._in_main_checked.add(function.index - self._imported_count)
        return self._slots[function.index]

    def reserve_memory(self, size: int, alignment: int) -> int:
        """Return the address of `size` bytes of static data."""
        unit = 1 << max(alignment, _LEAST_ALIGNMENT)
        address = -(-self._memory_end // unit) * unit
        self._memory_end = address + size
        return address

    def reserve_slots(self, count: int) -> int:
        """Return the first of `count` new table slots."""
        self._table_size += count
        return self._table_size - count

    def tag(self, name: str) -> int:
        """Return the index of a tag of the main module."""
        entry = self._exports.get(name)
        if entry is None or entry.kind != TAG_KIND:
            raise ValueError(f"it needs the exception tag {name}, which nothing provides")
        return entry.number

    def new_tag(self, kind: FunctionType) -> int:
        """Return the index of a new tag."""
        self._tags.append(self._type(kind))
        return len(self._tags) - 1

    def types_of(self, module: SideModule) -> list[int]:
        """Return the linked index of each type of a module."""
        return [self._type(kind) for kind in module.types]

    @property
    def stack_pointer(self) -> int:
        """The index of the stack pointer, which all modules share."""
        return self._exports["__stack_pointer"].number

    def initialize_with(self, function: int) -> None:
        """Have a function run while the image is baked, after those that were named before."""
        self._initializers.append(function)

    def put_into_table(self, offset: int, functions: list[int]) -> None:
        """Add an element segment."""
        self._segments.append((offset, functions))
        for place, function in enumerate(functions):
            self._slots.setdefault(function, offset + place)

    def _check_entries(self) -> None:
        first = len(self._main_functions)
        in_table = {function - first for _, functions in self._segments for function in functions if function >= first}
        checked = {n for n in in_table if self._calls[n].direct or self._calls[n].indirect}
        graph = {
            number: []
            if number in checked
            else sorted(f - first for f in calls.direct if f - first not in checked and f >= first)
            for number, calls in enumerate(self._calls)
        }
        for number in checked | feedback_vertices(graph):
            self._bodies[number] = with_entry_check(self._bodies[number], CHECK)

    def _append_initializer(self) -> None:
        function = self.next_function()
        self._new_types.append(self._type(FunctionType(b"", b"")))
        self._bodies.append(b"\x00" + b"".join(b"\x10" + uleb(index) for index in self._initializers) + b"\x0b")
        self._main.set_exports([*self._main.exports(), Export(INITIALIZE, FUNC_KIND, function)])

    def _write_code(self) -> None:
        bodies = [
            with_entry_check(body, CHECK) if n in self._in_main_checked and calls_anything(body) else body
            for n, body in enumerate(self._main.function_bodies())
        ]
        for number, body in self._replaced.items():
            bodies[number] = body
        bodies += self._bodies
        self._main.replace(CODE, uleb(len(bodies)) + b"".join(uleb(len(body)) + body for body in bodies))


class _Linking:
    """One side module on its way into the main one: where its imports lead."""

    def __init__(self, linker: Linker, module: SideModule) -> None:
        self._linker, self._module = linker, module
        self._memory = linker.reserve_memory(module.memory_bytes, module.memory_alignment)
        self._table = linker.reserve_slots(module.table_slots)
        self._first = linker.next_function()
        self._types = linker.types_of(module)
        self._imported_globals = module.imported(GLOBAL_KIND)
        self._imported_functions = module.imported(FUNC_KIND)
        # Globals of the module that hold its addresses are known first, then those of the others.
        self._values: list[int | None] = [self._base(entry.name) for entry in self._imported_globals]
        own = global_values(module.wasm, self.global_value)
        self._own_globals = [value for _, value in own]
        self.stubs: list[FunctionType] = []
        self._result_types: dict[bytes, int] = {}
        missing: list[str] = []
        self._functions = [self._imported_function(entry, missing) for entry in self._imported_functions]
        for number, entry in enumerate(self._imported_globals):
            if self._values[number] is None and entry.name != "__stack_pointer":
                self._values[number] = self._imported_value(entry, missing)
        if missing:
            raise BadPackage(
                f"{module.path} needs {', '.join(sorted(set(missing))[:8])}, which neither the interpreter nor a "
                "library of the package provides"
            )
        self._values += self._own_globals
        self._apply_start()
        linked = self._functions_in_linked()
        for offset, functions in element_segments(module.wasm, self.global_value):
            if offset is not None:
                if not self._table <= offset or offset + len(functions) > self._table + module.table_slots:
                    raise ValueError("an element segment lies outside of its part of the table")
                linker.put_into_table(offset, [linked[function] for function in functions])

    def global_value(self, number: int) -> int:
        """Return the value of a global, where it is known."""
        value = self._values[number]
        if value is None:
            raise ValueError(f"global {number} has no value that is known while linking")
        return value

    def own_function(self, name: str) -> _Function:
        """Return an exported function of this module."""
        symbol = self.own_symbol(name)
        if not isinstance(symbol, _Function):
            raise ValueError(f"its export {name} is no function of its own")  # noqa: TRY004 - the module is malformed
        return symbol

    def own_symbol(self, name: str) -> _Function | int | None:
        """Return what this module itself calls `name`."""
        entry = self._module.exports.get(name)
        if entry is None:
            return None
        if entry.kind == FUNC_KIND and entry.number >= len(self._imported_functions):
            own = entry.number - len(self._imported_functions)
            return _Function(self._first + own, self._module.types[self._module.functions[own]])
        if entry.kind == GLOBAL_KIND and entry.number >= len(self._imported_globals):
            return self._memory + self._own_globals[entry.number - len(self._imported_globals)]
        return None

    def indices(self) -> Indices:
        """Return what the module's indices mean in the linked module."""
        stack_pointer = self._linker.stack_pointer
        shared = {
            number: SharedGlobal(stack_pointer)
            for number, entry in enumerate(self._imported_globals)
            if entry.name == "__stack_pointer"
        }
        tags = [self._linker.tag(entry.name) for entry in self._module.imported(TAG_KIND)]
        tags += [self._linker.new_tag(self._module.types[kind]) for kind in self._module.tags]
        return Indices(
            functions=self._functions_in_linked(),
            types=self._linker.types_of(self._module),
            globals=[shared.get(n) or Constant(self.global_value(n)) for n in range(len(self._values))],
            tags=tags,
        )

    def bodies(self) -> list[bytes]:
        """Return the code with exceptions translated; types that this adds are of the module, not yet linked."""
        module = self._module
        of_tags = [read_uleb(entry.descriptor, 1)[0] for entry in module.imported(TAG_KIND)] + module.tags
        tags = [module.types[kind].params for kind in of_tags]
        return [
            translate(body, parameters=len(module.types[kind].params), tags=tags, result_type=self._result_type)
            if has_legacy_exceptions(body)
            else body
            for kind, body in zip(module.functions, module.wasm.function_bodies(), strict=True)
        ]

    def _result_type(self, results: bytes) -> int:
        found = self._result_types.get(results)
        if found is None:
            found = self._result_types[results] = len(self._module.types)
            self._module.types.append(FunctionType(b"", results))
        return found

    def _functions_in_linked(self) -> list[int]:
        return [*self._functions, *range(self._first, self._first + len(self._module.functions))]

    def _base(self, name: str) -> int | None:
        return {"__memory_base": self._memory, "__table_base": self._table}.get(name)

    def _find(self, name: str) -> _Function | int | None:
        found = self._linker.symbol(name)
        return self.own_symbol(name) if found is None else found

    def _imported_function(self, entry: Import, missing: list[str]) -> int:
        kind = self._module.types[read_uleb(entry.descriptor, 0)[0]]
        found = self._find(entry.name)
        if isinstance(found, _Function):
            if found.kind != kind:
                raise ValueError(f"it calls {entry.name} with another signature")
            return found.index
        if entry.name not in self._module.weak | _PROGRAMS:
            missing.append(entry.name)
        self.stubs.append(kind)
        return self._first + len(self._module.functions) + len(self.stubs) - 1

    def _imported_value(self, entry: Import, missing: list[str]) -> int:
        found = self._find(entry.name)
        if entry.module == "GOT.func" and isinstance(found, _Function):
            return self._linker.slot_of(found)
        if entry.module in ("GOT.mem", "env") and isinstance(found, int):
            return found
        if entry.name not in self._module.weak:
            missing.append(entry.name)
        return 0

    def _apply_start(self) -> None:
        start = self._module.start
        if start is None:
            return
        own = start - len(self._imported_functions)
        body = next((b for n, b in enumerate(self._module.wasm.function_bodies()) if n == own), None)
        if body is None:
            raise ValueError("its start function is not one of its own")
        for number, value in values_that_start_sets(body, self._values).items():
            self._values[number] = value
        self._linker.initialize_with(self._first + own)


def _no_imported_global(number: int) -> int:
    raise ValueError(f"the main module has a constant expression with global {number}: rebuild it")


def _table_size(module: WasmFile) -> int:
    data = module.body(TABLE)
    _, start = read_uleb(data, 0)
    return read_uleb(data, start + 2)[0]


def _with_table_size(data: bytes, size: int) -> bytes:
    _, start = read_uleb(data, 0)
    _, behind = read_uleb(data, start + 2)
    return data[: start + 2] + uleb(size) + data[behind:]


def _append(module: WasmFile, number: int, entries: list[bytes]) -> None:
    data = module.body(number)
    count, start = read_uleb(data, 0)
    module.replace(number, uleb(count + len(entries)) + data[start:] + b"".join(entries))


def _encoded_segment(offset: int, functions: list[int]) -> bytes:
    return b"\0\x41" + sleb(signed32(offset)) + b"\x0b" + uleb(len(functions)) + b"".join(map(uleb, functions))

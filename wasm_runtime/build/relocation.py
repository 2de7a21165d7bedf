"""Rewrites the code of a side module for the module that it becomes a part of.

Indices of functions, types, globals and tags are replaced; globals that hold an address become constants, because the
linker knows every address; the head of each loop gets the check that `assemble` describes. All of it is one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from wasm_runtime.build.leb import read_sleb, read_uleb, signed32, sleb, uleb
from wasm_runtime.build.opcodes import entry_offset, instructions

_BLOCK, _LOOP, _IF, _THROW, _TRY_TABLE = 0x02, 0x03, 0x04, 0x08, 0x1F
_CALL, _CALL_INDIRECT, _RETURN_CALL, _RETURN_CALL_INDIRECT, _REF_FUNC = 0x10, 0x11, 0x12, 0x13, 0xD2
_LOCAL_GET, _LOCAL_SET, _LOCAL_TEE = 0x20, 0x21, 0x22
_GLOBAL_GET, _GLOBAL_SET, _CONST, _ADD = 0x23, 0x24, 0x41, 0x6A
_DROP = b"\x1a"
_BULK, _SEGMENT_INSTRUCTIONS = 0xFC, (8, 9, 12, 13)  # memory.init, data.drop, table.init, elem.drop
# Their immediates would have to be rewritten too, and C, C++ and Rust compile to none of them: call_ref and
# return_call_ref, ref.null, the instructions of the garbage collector.
_NOT_LINKED = frozenset([0x14, 0x15, 0xD0, 0xFB])
_REFERENCE_TYPES = (0x63, 0x64)  # a heap type follows
_NAME_A_FUNCTION = frozenset([_CALL, _RETURN_CALL, _REF_FUNC])
_NAME_A_TYPE = frozenset([_BLOCK, _LOOP, _IF, _TRY_TABLE, _CALL_INDIRECT, _RETURN_CALL_INDIRECT])
_CALLS = frozenset([_CALL, _CALL_INDIRECT, _RETURN_CALL, _RETURN_CALL_INDIRECT, 0x14, 0x15])
_REWRITTEN = _NAME_A_FUNCTION | _NAME_A_TYPE | _NOT_LINKED | {_THROW, _GLOBAL_GET, _GLOBAL_SET, _BULK}


@dataclass(frozen=True, slots=True)
class Constant:
    """A global of a side module whose value the linker knows."""

    value: int


@dataclass(frozen=True, slots=True)
class SharedGlobal:
    """A global of a side module that is one of the main module, by its index there."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Indices:
    """The indices of a side module in the linked one."""

    functions: Sequence[int]
    types: Sequence[int]
    globals: Sequence[Constant | SharedGlobal]
    tags: Sequence[int]


@dataclass(slots=True)
class FunctionCalls:
    """The callees of a rewritten function, by linked index, and whether it calls through the table."""

    direct: set[int] = field(default_factory=set)
    indirect: bool = False


def relocate(body: bytes, indices: Indices, check: bytes, *, is_start: bool = False) -> tuple[bytes, FunctionCalls]:
    """Return the body for the linked module. ValueError for what cannot be linked.

    Only the start function may set globals of its own: they hold addresses, which are constants now.
    """
    out: list[bytes] = []
    calls = FunctionCalls()
    copied = 0  # everything before it is in `out`
    for opcode, start in instructions(body, _REWRITTEN):
        rewritten, behind = _rewritten(body, opcode, start, indices, calls, is_start=is_start)
        out.append(body[copied : start - 1])
        out.append(rewritten)
        copied = behind
        if opcode == _LOOP:
            out.append(check)
    out.append(body[copied:])
    return b"".join(out), calls


def _rewritten(
    body: bytes, opcode: int, start: int, indices: Indices, calls: FunctionCalls, *, is_start: bool
) -> tuple[bytes, int]:
    """Return the instruction whose opcode is before `start`, for the linked module, and the offset behind it."""
    head = body[start - 1 : start]
    if opcode in _NAME_A_FUNCTION:
        number, behind = read_uleb(body, start)
        target = indices.functions[number]
        calls.direct.add(target)
        return head + uleb(target), behind
    if opcode in (_GLOBAL_GET, _GLOBAL_SET):
        number, behind = read_uleb(body, start)
        return _global_access(opcode, indices.globals[number], may_set=is_start), behind
    if opcode in (_CALL_INDIRECT, _RETURN_CALL_INDIRECT):
        calls.indirect = True
        number, behind = read_uleb(body, start)
        return head + uleb(indices.types[number]), behind
    if opcode in (_BLOCK, _LOOP, _IF):
        kind, behind = _block_type(body, start, indices)
        return head + kind, behind
    if opcode == _THROW:
        number, behind = read_uleb(body, start)
        return head + uleb(indices.tags[number]), behind
    if opcode == _TRY_TABLE:
        kind, behind = _block_type(body, start, indices)
        clauses, behind = _catch_clauses(body, behind, indices)
        return head + kind + clauses, behind
    if opcode == _BULK and read_uleb(body, start)[0] not in _SEGMENT_INSTRUCTIONS:
        return head, start
    raise ValueError(f"instruction {opcode:#x} cannot be linked")


def _global_access(opcode: int, value: Constant | SharedGlobal, *, may_set: bool) -> bytes:
    if isinstance(value, SharedGlobal):
        return bytes([opcode]) + uleb(value.number)
    if opcode == _GLOBAL_GET:
        return bytes([_CONST]) + sleb(signed32(value.value))
    if not may_set:
        raise ValueError("a function keeps state in a WebAssembly global, which sessions do not save")
    return _DROP


def _block_type(body: bytes, start: int, indices: Indices) -> tuple[bytes, int]:
    byte = body[start]
    if byte in _REFERENCE_TYPES:
        raise ValueError(f"a block of type {byte:#x} cannot be linked")
    if byte & 0xC0 == 0x40:
        return body[start : start + 1], start + 1
    number, behind = read_sleb(body, start)
    if number < 0:
        raise ValueError(f"a block of type {number} cannot be linked")
    return sleb(indices.types[number]), behind


def _catch_clauses(body: bytes, start: int, indices: Indices) -> tuple[bytes, int]:
    count, position = read_uleb(body, start)
    out = [uleb(count)]
    for _ in range(count):
        kind = body[position]
        position += 1
        out.append(bytes([kind]))
        if kind in (0, 1):  # catch, catch_ref
            tag, position = read_uleb(body, position)
            out.append(uleb(indices.tags[tag]))
        label, position = read_uleb(body, position)
        out.append(uleb(label))
    return b"".join(out), position


def values_that_start_sets(body: bytes, values: Sequence[int | None]) -> dict[int, int]:
    """Return the globals that a start function sets, by index.

    `values` are those that are known before it runs. It computes addresses: the base of its memory or table plus a
    constant. Any other value that is set is a ValueError.
    """
    found: dict[int, int] = {}
    local_values: dict[int, int | None] = {}
    stack: list[int | None] = []
    for opcode, start in instructions(body):
        if opcode == _CONST:
            stack.append(read_sleb(body, start)[0])
        elif opcode == _GLOBAL_GET:
            number, _ = read_uleb(body, start)
            stack.append(found.get(number, values[number]))
        elif opcode == _ADD and len(stack) > 1:
            right, left = stack.pop(), stack.pop()
            stack.append(None if left is None or right is None else left + right)
        elif opcode == _LOCAL_GET:
            stack.append(local_values.get(read_uleb(body, start)[0]))
        elif opcode in (_LOCAL_SET, _LOCAL_TEE) and stack:
            local_values[read_uleb(body, start)[0]] = stack[-1]
            if opcode == _LOCAL_SET:
                stack.pop()
        elif opcode == _GLOBAL_SET:
            number, _ = read_uleb(body, start)
            value = stack.pop() if stack else None
            if value is None:
                raise ValueError("its start function sets a global to a value that is no address")
            found[number] = signed32(value)
        else:
            stack.clear()
            local_values.clear()
    return found


def with_entry_check(body: bytes, check: bytes) -> bytes:
    """Return the body with the check before its first instruction."""
    offset = entry_offset(body)
    return body[:offset] + check + body[offset:]


def calls_anything(body: bytes) -> bool:
    """Whether a body has a call of any kind; ends the search at the first."""
    return any(instructions(body, _CALLS))

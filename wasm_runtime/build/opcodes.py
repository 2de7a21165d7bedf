"""Decodes the instructions of a function body as far as is needed to find its loops and calls.

WebAssembly 3.0, chapter 5.4: every opcode is followed by immediates of a fixed shape. An opcode that is not listed
stops the build, so a module from another toolchain cannot be instrumented incompletely.
"""

import re
from collections.abc import Iterator
from functools import cache

from wasm_runtime.build.leb import read_uleb

LOOP = 0x03

# Shape letters: b block type, u LEB number (signed or unsigned: the length rule is the same), m memory
# argument, 4 and 8 and 16 raw bytes, 1 one byte, v vector of LEBs, t try_table, s select types, c catch list.
_SHAPES: dict[int, str] = {
    **dict.fromkeys([0x00, 0x01, 0x05, 0x0A, 0x0B, 0x0F, 0x1A, 0x1B, 0xD1, 0xD3, 0xD4], ""),
    **dict.fromkeys([0x02, 0x03, 0x04], "b"),
    **dict.fromkeys([0x08, 0x0C, 0x0D, 0x10, 0x12, 0x14, 0x15, *range(0x20, 0x27), 0xD0, 0xD2, 0xD5, 0xD6], "u"),
    **dict.fromkeys([0x11, 0x13], "uu"),
    0x0E: "vu",
    0x1C: "v",
    0x1F: "bc",
    # The legacy exceptions of side modules: try, catch, rethrow, delegate, catch_all.
    0x06: "b",
    **dict.fromkeys([0x07, 0x09, 0x18], "u"),
    0x19: "",
    **dict.fromkeys(range(0x28, 0x3F), "m"),
    **dict.fromkeys([0x3F, 0x40, 0x41, 0x42], "u"),
    0x43: "4",
    0x44: "8",
    **dict.fromkeys(range(0x45, 0xC5), ""),
}
_BULK_SHAPES: dict[int, str] = {
    **dict.fromkeys(range(8), ""),
    8: "uu",
    9: "u",
    10: "uu",
    11: "u",
    12: "uu",
    13: "u",
    14: "uu",
    15: "u",
    16: "u",
    17: "u",
}
_GC_SHAPES: dict[int, str] = {20: "u", 21: "u", 22: "u", 23: "u"}

# The immediates of a shape as a regular expression, where they are regular. Those of a memory argument are only without
# the index of a memory, which flags of 0x40 announce.
_LEB = rb"[\x80-\xff]*+[\x00-\x7f]"
_PATTERNS = {"": b"", "b": _LEB, "u": _LEB, "uu": _LEB + _LEB, "m": rb"[\x00-\x3f]" + _LEB, "4": b".{4}", "8": b".{8}"}


def instructions(function: bytes, wanted: frozenset[int] = frozenset(range(256))) -> Iterator[tuple[int, int]]:
    """Yield the wanted opcodes among the instructions of `function`, each with the offset behind it.

    `function` begins with its locals. A regular expression passes over the other instructions, in a twentieth of the
    time that they take one by one.
    """
    position, others = entry_offset(function), _run_without(wanted)
    while (run := others.match(function, position)) is not None and (position := run.end()) < len(function):
        if function[position] in wanted:
            yield function[position], position + 1
        position = behind_instruction(function, position)


@cache
def _run_without(wanted: frozenset[int]) -> re.Pattern[bytes]:
    """Matches any number of instructions that are not wanted, up to one whose immediates are not regular."""
    kinds = [
        b"[" + b"".join(re.escape(bytes([opcode])) for opcode in opcodes) + b"]" + _PATTERNS[shape]
        for shape in _PATTERNS
        if (opcodes := [opcode for opcode, other in _SHAPES.items() if other == shape and opcode not in wanted])
    ]
    return re.compile(b"(?:" + b"|".join(kinds) + b")*+", re.DOTALL)


def loop_body_offsets(function: bytes) -> list[int]:
    """Return the offsets in `function` of the first instruction of each loop."""
    return [behind_instruction(function, start - 1) for _, start in instructions(function, frozenset([LOOP]))]


def entry_offset(data: bytes) -> int:
    """Return the offset in a function of its first instruction."""
    groups, position = read_uleb(data, 0)
    for _ in range(groups):
        position = _behind_leb(data, position)
        position += 1  # a value type of one byte; reference types with an index do not occur in C code
    return position


def behind_instruction(data: bytes, position: int) -> int:
    """Return the offset behind the instruction at `position`."""
    opcode = data[position]
    position += 1
    if opcode == 0xFC:
        number, position = read_uleb(data, position)
        shape = _BULK_SHAPES.get(number)
    elif opcode == 0xFD:
        number, position = read_uleb(data, position)
        shape = _simd_shape(number)
    elif opcode == 0xFB:
        number, position = read_uleb(data, position)
        shape = _GC_SHAPES.get(number)
    elif opcode == 0xFE:
        number, position = read_uleb(data, position)
        shape = "1" if number == 3 else "m"  # 3 is atomic.fence
    else:
        number, shape = opcode, _SHAPES.get(opcode)
    if shape is None:
        raise ValueError(
            f"instruction {opcode:#x} {number} is not known to the build: add its immediates to opcodes.py"
        )
    for kind in shape:
        position = _behind(data, position, kind)
    return position


def _behind(data: bytes, position: int, kind: str) -> int:
    if kind in "ub":
        return _behind_leb(data, position)  # block types 0x40 and 0x7c..0x7f are one byte, like a short LEB
    if kind == "m":
        flags, position = read_uleb(data, position)
        if flags & 0x40:
            position = _behind_leb(data, position)
        return _behind_leb(data, position)
    if kind == "v":
        count, position = read_uleb(data, position)
        for _ in range(count):
            position = _behind_leb(data, position)
        return position
    if kind == "c":
        count, position = read_uleb(data, position)
        for _ in range(count):
            clause = data[position]
            position = _behind_leb(data, position + 1)
            if clause in (0, 1):  # catch and catch_ref name a tag before the label
                position = _behind_leb(data, position)
        return position
    return position + {"1": 1, "4": 4, "8": 8, "x": 16}[kind]


def _simd_shape(number: int) -> str:
    if number <= 11 or number in (92, 93):
        return "m"
    if number in (12, 13):
        return "x"
    if 21 <= number <= 34:
        return "1"
    if 84 <= number <= 91:
        return "m1"
    return ""


def _behind_leb(data: bytes, position: int) -> int:
    while data[position] & 0x80:
        position += 1
    return position + 1

"""Translates legacy WebAssembly exceptions (try, catch, delegate, rethrow) to the final ones, as Wasmtime needs.

    try T B                         block $done T
    catch t H                         block $catch_all (result exnref)
    catch_all A                         block $catch (result <parameters of t> exnref)
    end                                   try_table T (catch_ref t $catch) (catch_all_ref $catch_all) B end
                                          br $done
                                        end   local.set $exn   H   br $done
                                      end   local.set $exn   A
                                    end

`rethrow` throws the handler's $exn again; handlers that are nested have locals of their own. `delegate L` becomes a
try_table whose catch_all_ref leads to a block in the body of the next try that can catch, at L or outside of it; behind
that block the exception is thrown again. Where nothing outside can catch, the block is around the whole function.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wasm_runtime.build.leb import read_uleb, sleb, uleb
from wasm_runtime.build.opcodes import behind_instruction, entry_offset, instructions

TRY, CATCH, RETHROW, DELEGATE, CATCH_ALL, TRY_TABLE = 0x06, 0x07, 0x09, 0x18, 0x19, 0x1F
_BLOCK, _LOOP, _IF, _END, _BR = 0x02, 0x03, 0x04, 0x0B, 0x0C
_EXNREF = 0x69
_THROW_REF, _RETURN = b"\x0a", b"\x0f"
_BEGIN_OR_END = frozenset([_BLOCK, _LOOP, _IF, TRY, CATCH, CATCH_ALL, DELEGATE, _END])
# Those that branch, besides, and what no function has beside legacy exceptions: try_table and branches on null.
_TRANSLATED = _BEGIN_OR_END | {RETHROW, _BR, 0x0D, 0x0E, TRY_TABLE, 0xD5, 0xD6}
_FUNCTION = -1  # in the place of a try's number: the whole function

TypeIndex = Callable[[bytes], int]


@dataclass(slots=True)
class _Try:
    """One try of a function, in the order of their beginnings."""

    tags: list[int | None] = field(default_factory=list)  # of its handlers; None for catch_all
    around: int = _FUNCTION  # the next try outside, in whose body it is
    is_delegate: bool = False
    rethrows_in: int = _FUNCTION  # of a delegate: the try whose body throws the exception again


@dataclass(slots=True)
class _Frame:
    """One open construct of the original: the depth of its block in the output, and what belongs to a try."""

    depth: int
    number: int | None = None  # of a try
    handlers: list[int] = field(default_factory=list)  # depths of the blocks that its handlers are behind
    handled: int = 0
    local: int = 0  # holds the exception in its handlers


def has_legacy_exceptions(function: bytes) -> bool:
    """Whether a function body has a try; some modules do without importing a tag."""
    return TRY in function and any(instructions(function, frozenset([TRY])))


def translate(function: bytes, *, parameters: int, tags: Sequence[bytes], result_type: TypeIndex) -> bytes:
    """Return the body with final exceptions. ValueError for what has no translation.

    `parameters` is how many the function has, `tags` the parameter types of each tag, and `result_type` gives the index
    of a type without parameters that has these results.
    """
    return _Translation(function, parameters, tags, result_type).run()


class _Translation:
    def __init__(self, function: bytes, parameters: int, tags: Sequence[bytes], result_type: TypeIndex) -> None:
        self._function, self._tags, self._result_type = function, tags, result_type
        self._locals_end = entry_offset(function)
        self._first_local = parameters + _local_count(function)
        self._tries = _survey(function)
        self._landing_in = {one.rethrows_in for one in self._tries if one.is_delegate}
        self._landings: dict[int, int] = {}  # number of a try -> depth of the block in its body
        self._out: list[bytes] = []
        self._depth = 0
        self._frames: list[_Frame] = []
        self._in_handlers = self._most_in_handlers = 0
        self._next_try = 0

    def run(self) -> bytes:
        self._frames.append(_Frame(self._open(b"")))
        if _FUNCTION in self._landing_in:
            self._landings[_FUNCTION] = self._open(bytes([_BLOCK, _EXNREF]))
        copied = self._locals_end
        for opcode, start in instructions(self._function, _TRANSLATED):
            self._out.append(self._function[copied : start - 1])
            copied = behind_instruction(self._function, start - 1)
            self._translate(opcode, self._function[start - 1 : copied])
        self._out.append(self._function[copied:])
        if self._frames or self._depth:
            raise ValueError("a function with exceptions has blocks that do not end")
        return self._locals() + b"".join(self._out)

    def _locals(self) -> bytes:
        groups, start = read_uleb(self._function, 0)
        own = self._function[start : self._locals_end]
        if not self._most_in_handlers:
            return uleb(groups) + own
        return uleb(groups + 1) + own + uleb(self._most_in_handlers) + bytes([_EXNREF])

    def _open(self, code: bytes) -> int:
        self._out.append(code)
        self._depth += 1
        return self._depth - 1

    def _close(self, code: bytes = b"\x0b") -> None:
        self._out.append(code)
        self._depth -= 1

    def _label(self, depth: int) -> bytes:
        return uleb(self._depth - 1 - depth)

    def _target(self, label: int) -> bytes:
        return self._label(self._frames[-1 - label].depth)

    def _translate(self, opcode: int, code: bytes) -> None:
        match opcode:
            case 0x02 | 0x03 | 0x04:
                self._frames.append(_Frame(self._open(code)))
            case 0x06:
                self._begin_try(code[1:])
            case 0x07 | 0x19:
                self._begin_handler()
            case 0x18:
                self._close_landing(self._frames.pop().number)
                self._close()
            case 0x09:
                frame = self._frames[-1 - read_uleb(code, 1)[0]]
                if not frame.handled:
                    raise ValueError("a rethrow outside of a handler")
                self._out.append(b"\x20" + uleb(frame.local) + _THROW_REF)
            case 0x0C | 0x0D:
                self._out.append(code[:1] + self._target(read_uleb(code, 1)[0]))
            case 0x0E:
                self._out.append(self._branch_table(code))
            case 0x0B:
                self._end()
            case _:
                raise ValueError(f"a function has instruction {opcode:#x} beside legacy exceptions")

    def _branch_table(self, code: bytes) -> bytes:
        count, position = read_uleb(code, 1)
        targets = []
        for _ in range(count + 1):
            label, position = read_uleb(code, position)
            targets.append(self._target(label))
        return code[:1] + uleb(count) + b"".join(targets)

    def _begin_try(self, block_type: bytes) -> None:
        if block_type[0] & 0xC0 != 0x40:
            raise ValueError("a try with parameters has no translation")
        number, self._next_try = self._next_try, self._next_try + 1
        one = self._tries[number]
        if one.is_delegate:
            label = uleb(self._depth - 1 - self._landings[one.rethrows_in])
            clause = b"\x01\x03" + label
            self._frames.append(_Frame(self._open(bytes([TRY_TABLE]) + block_type + clause), number))
            self._open_landing(number)
            return
        frame = _Frame(self._open(bytes([_BLOCK]) + block_type), number)
        self._frames.append(frame)
        if not one.tags:
            return
        for tag in reversed(one.tags):
            results = b"" if tag is None else self._tags[tag]
            kind = bytes([_EXNREF]) if tag is None else sleb(self._result_type(results + bytes([_EXNREF])))
            frame.handlers.append(self._open(bytes([_BLOCK]) + kind))
        frame.handlers.reverse()
        clauses = [
            (b"\x03" if tag is None else b"\x01" + uleb(tag)) + self._label(depth)
            for tag, depth in zip(one.tags, frame.handlers, strict=True)
        ]
        self._open(bytes([TRY_TABLE]) + block_type + uleb(len(clauses)) + b"".join(clauses))
        self._open_landing(number)

    def _open_landing(self, number: int) -> None:
        if number in self._landing_in:
            self._landings[number] = self._open(bytes([_BLOCK, _EXNREF]))

    def _close_landing(self, number: int | None) -> None:
        if number in self._landing_in:
            self._close(bytes([_BR]) + b"\x01\x0b" + _THROW_REF)

    def _begin_handler(self) -> None:
        frame = self._frames[-1]
        if frame.number is None or not frame.handlers:
            raise ValueError("a catch outside of a try")
        if not frame.handled:
            self._close_landing(frame.number)
            self._close()
            frame.local = self._first_local + self._in_handlers
            self._in_handlers += 1
            self._most_in_handlers = max(self._most_in_handlers, self._in_handlers)
        frame.handled += 1
        self._close(bytes([_BR]) + self._label(frame.depth) + b"\x0b\x21" + uleb(frame.local))

    def _end(self) -> None:
        frame = self._frames.pop()
        if not self._frames and _FUNCTION in self._landing_in:
            self._close(_RETURN + b"\x0b" + _THROW_REF)
        if frame.handled:
            self._in_handlers -= 1
        self._close()


def _survey(function: bytes) -> list[_Try]:
    """Return what is known of each try before the translation: its handlers, and where a delegate leads."""
    tries: list[_Try] = []
    bodies = [_FUNCTION]  # for each open construct: the next try whose body it is or lies in
    own: list[int | None] = [None]
    for opcode, start in instructions(function, _BEGIN_OR_END):
        if opcode in (_BLOCK, _LOOP, _IF):
            bodies.append(bodies[-1])
            own.append(None)
        elif opcode == TRY:
            tries.append(_Try(around=bodies[-1]))
            bodies.append(len(tries) - 1)
            own.append(len(tries) - 1)
        elif opcode in (CATCH, CATCH_ALL):
            one = _try_of(own, tries)
            one.tags.append(read_uleb(function, start)[0] if opcode == CATCH else None)
            bodies[-1] = one.around
        elif opcode == DELEGATE:
            one = _try_of(own, tries)
            bodies.pop()
            own.pop()
            label, _ = read_uleb(function, start)
            if label >= len(bodies):
                raise ValueError("a delegate leads out of its function")
            one.is_delegate, one.rethrows_in = True, bodies[-1 - label]
        elif opcode == _END:
            bodies.pop()
            own.pop()
    # A try without handlers catches nothing: what is delegated to it goes to the next one around it.
    catching: dict[int, int] = {_FUNCTION: _FUNCTION}
    for number, one in enumerate(tries):
        catching[number] = number if one.tags or one.is_delegate else catching[one.around]
    for one in tries:
        one.rethrows_in = catching[one.rethrows_in]
    return tries


def _try_of(own: list[int | None], tries: list[_Try]) -> _Try:
    number = own[-1]
    if number is None:
        raise ValueError("a handler outside of a try")
    return tries[number]


def _local_count(function: bytes) -> int:
    groups, position = read_uleb(function, 0)
    count = 0
    for _ in range(groups):
        number, position = read_uleb(function, position)
        count += number
        position += 1
    return count

"""Grounding: whether an answer was computed or typed, and whether a typed answer occurs in any output. No I/O.

A model that guesses writes the guess as a literal: `FINAL("timeout")`, or through a name, `x = "timeout"; FINAL(x)`. A
literal can still be right, because the model may have read it in an output. So a typed answer is looked up in the
outputs of earlier blocks, leaving out what those blocks only printed from their own literals, and lines that hold words
of the protocol, which may have been planted in a context in order to be found.
"""

import ast
import json
import re
from collections.abc import Sequence

from rlm_mcp.concurrency import LONG_CHARS
from rlm_mcp.engine.reply_parser import parse
from rlm_mcp.repl.types import CellResult

PLACEHOLDERS = frozenset(
    {"answer", "the answer", "your answer", "final answer", "final_answer", "result", "value", "...", "todo"}
)

_PROTOCOL_WORDS = re.compile(r"\b(FINAL|FINAL_VAR|SUBMIT)\s*\(|```|\banswer\[|</?(think|tool_call|output)\b|<\|\w")
_MOST_HOPS = 5  # from a name to the literal behind it
_MOST_VALUE_CHARS = 2_000  # a longer print is a look at data rather than a result
_MOST_WORDS_OF_A_VALUE = 6  # a longer text is a sentence, which no output holds word for word
_EMPTY = frozenset({"", "none", "null", "[]", "{}", "()", "set()", "''", '""'})
_EMPTY_OR_ZERO = _EMPTY | {"0", "0.0", "counter()", "not found", "no matches", "no match", "nan", "n/a", "unknown"}
_FOUND_NOTHING = re.compile(r"(no|none|nothing)\b.{0,40}\b(found|match\w*)\b.{0,30}|.{0,40}\bnot found\b.{0,30}")

_Block = tuple[str, ast.Module]
"""The code of a block and its syntax tree."""


def is_typed(codes: Sequence[str]) -> bool:
    """Whether the answer set by the last of these blocks is a literal that the model wrote, perhaps via variables."""
    blocks = [(code, tree) for code in codes if (tree := parse(code)) is not None]
    answer = _answer_expression(blocks[-1][1]) if blocks else None
    return answer is not None and _is_literal(answer, blocks, depth=0)


def is_grounded(value: object, evidence: str) -> bool:
    """Whether every part of a typed answer occurs in the outputs; for a long sentence, every number in it."""
    match value:
        case bool() | None:
            return bool(evidence.strip())
        case dict():
            return all(is_grounded(part, evidence) for part in value.values())
        case list() | tuple():
            return all(is_grounded(part, evidence) for part in value)
    text = as_text(value)
    if len(text.split()) > _MOST_WORDS_OF_A_VALUE:
        return bool(evidence.strip()) and all(occurs(n, evidence) for n in re.findall(r"\d[\d,.]*\d|\d", text))
    return occurs(text, evidence)


def occurs(text: str, evidence: str) -> bool:
    """Whether a text occurs in the outputs as whole words, ignoring case, thousands separators and blanks."""
    wanted = re.escape(_folded(text))
    return re.search(rf"(?<!\w){wanted}(?!\w)", _folded(evidence)) is not None if wanted else False


def is_empty(value: object, *, zero: bool) -> bool:
    """Whether an answer is empty; with `zero`, 0 and "not found" count as empty too."""
    match value:
        case None:
            return True
        case bool():
            return False
        case int() | float():
            return zero and value == 0
        case str():
            text = value.strip().lower()
            return text in (_EMPTY_OR_ZERO if zero else _EMPTY) or (zero and _FOUND_NOTHING.fullmatch(text) is not None)
        case dict():
            return all(is_empty(part, zero=zero) for part in value.values())
        case list() | tuple():
            return len(value) == 0
    return False


def shown_text(cell: CellResult) -> str:
    """The output of a block and the value of its last expression."""
    return "\n".join(part for part in (cell.stdout.strip(), cell.value or "") if part)


def chars_of_cell(cell: CellResult) -> int:
    """About how much text is read to decide about a block; an answer that holds other values counts as long."""
    answer = None if cell.final is None else cell.final.value
    held = len(answer) if isinstance(answer, str) else LONG_CHARS if isinstance(answer, list | dict) else 0
    return len(cell.code) + len(cell.stdout) + len(cell.value or "") + held


def value_of(cell: CellResult) -> str:
    """The result of a block without FINAL: its last expression, else its output if that is short."""
    if cell.value is not None:
        try:
            literal = ast.literal_eval(cell.value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return cell.value
        return literal if isinstance(literal, str) else cell.value
    printed = cell.stdout.strip()
    return printed if len(printed) <= _MOST_VALUE_CHARS else printed.rpartition("\n")[2][:_MOST_VALUE_CHARS]


def evidence_text(cell: CellResult) -> str:
    """The lines shown by a block that count as evidence."""
    tree = parse(cell.code)
    constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} if tree else set()
    own = {constant.strip() for constant in constants if isinstance(constant, str)}
    lines = f"{cell.stdout}\n{cell.value or ''}".split("\n")
    return "\n".join(line for line in lines if line.strip() not in own and not _PROTOCOL_WORDS.search(line))


def as_text(value: object) -> str:
    """A value as text: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _answer_expression(tree: ast.Module) -> ast.expr | None:
    """The expression behind the last FINAL(…), SUBMIT(…), FINAL_VAR("…") or answer["content"] = … of a block."""
    found: ast.expr | None = None
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="FINAL_VAR"), args=[ast.Constant(value=str(name)), *_]):
                found = ast.Name(id=name, ctx=ast.Load())
            case ast.Call(func=ast.Name(id="FINAL" | "SUBMIT" | "FINAL_VAR"), args=[first, *_]):
                found = first
            case ast.Call(func=ast.Name(id="FINAL" | "SUBMIT"), keywords=[first_keyword, *_]):
                found = first_keyword.value
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id="answer"), slice=ast.Constant(value="content"))]):
                found = node.value
    return found


def _is_literal(node: ast.expr, blocks: Sequence[_Block], depth: int) -> bool:
    match node:
        case ast.Constant():
            return True
        case ast.JoinedStr(values=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            return all(_is_literal(part, blocks, depth) for part in parts)
        case ast.FormattedValue(value=inner) | ast.UnaryOp(operand=inner):
            return _is_literal(inner, blocks, depth)
        case ast.Dict(values=values):
            return all(_is_literal(value, blocks, depth) for value in values)
        case ast.BinOp(left=left, right=right):
            return _is_literal(left, blocks, depth) and _is_literal(right, blocks, depth)
        case ast.Name(id=name) if depth < _MOST_HOPS:
            value = _only_assignment(name, blocks)
            return value is not None and _is_literal(value, blocks, depth + 1)
    return False


def _only_assignment(name: str, blocks: Sequence[_Block]) -> ast.expr | None:
    """The last value assigned to a name at the top level of a block, unless something else could have changed it."""
    # Python reads some other characters as the letters of a name.
    trees = [tree for code, tree in blocks if name in code or not code.isascii()]
    value: ast.expr | None = None
    top = {id(statement) for tree in trees for statement in tree.body}
    for node in (node for tree in trees for node in ast.walk(tree)):
        match node:
            case ast.Assign(targets=[ast.Name(id=target)]) if target == name and id(node) in top:
                value = node.value
            case ast.Attribute(value=ast.Name(id=target)) if target == name:
                return None  # a method may fill it: found.append(…)
            case ast.Subscript(value=ast.Name(id=target), ctx=ast.Store()) if target == name:
                return None
            case ast.Name(id=target, ctx=ast.Store()) if target == name and not _is_target_of(node, trees):
                return None
    return value


def _is_target_of(name: ast.Name, trees: Sequence[ast.Module]) -> bool:
    """Whether this name is the only target of an assignment at the top level of a block."""
    tops = (statement for tree in trees for statement in tree.body if isinstance(statement, ast.Assign))
    return any(statement.targets == [name] for statement in tops)


def _folded(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"(?<=\d),(?=\d\d\d)", "", text)).strip().strip("\"'").casefold()

"""The statements of a block of code that are dropped before it runs. Pure functions.

Runs inside the sandbox as a module of its own.
"""

import ast
import re

CONTEXT_AS_A_WHOLE = re.compile(r"\bcontext\s*(?:[^\s\w.\[]|$)")
"""`context` before `=`, `,` or `)`, not before `[` or `.`. Checked first: parsing code takes longer than most cells."""

PROVIDED = {
    "FINAL", "FINAL_VAR", "SUBMIT", "llm_query", "llm_query_batched", "llm_batch", "llm_query_async", "rlm_query",
    "rlm_query_batched", "sub_RLM",
}  # fmt: skip
OWN_DEFINITION = re.compile(rf"\bdef (?:{'|'.join(sorted(PROVIDED))})\b")
"""A definition with which code could not end the run, or would make up what a model says; small models write it to make
their block complete."""

HARMLESS = {"len", "type", "isinstance", "id", "repr", "dir", "hasattr", "callable", "llm_query", "rlm_query", "FINAL"}
"""Functions that do not read all of `context`, or of which the host knows that they do."""


def without_harmful(code):
    """`code` without assignments of a literal to `context` and definitions of PROVIDED functions, with as many lines.

    Returns also the notes about them, and whether a call is given all of `context`, as re.findall is: Text cannot
    notice that it is read.
    """
    if not CONTEXT_AS_A_WHOLE.search(code) and not OWN_DEFINITION.search(code):
        return code, [], False
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code, [], False
    literals = [node for node in nodes if _assigns_literal_context(node)]
    methods = {id(inner) for node in nodes if isinstance(node, ast.ClassDef) for inner in node.body}
    own = [node for node in nodes if _defines_provided(node) and id(node) not in methods]
    notes = [f"`{node.name}` is provided; your definition of it was dropped." for node in own]
    if literals:
        notes.insert(0, "`context` already holds the input; your assignment of a literal to it was dropped.")
    return _blanked(code, literals + own), notes, any(map(_passes_context, nodes))


def _blanked(code, dropped):
    """`code` with `pass` in the place of these statements, and with as many lines."""
    if not dropped:
        return code
    lines = code.encode().split(b"\n")
    for node in sorted(dropped, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        decorators = [decorator.lineno for decorator in getattr(node, "decorator_list", ())]
        first, last = min([node.lineno, *decorators]) - 1, node.end_lineno - 1
        head, tail = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
        if first == last:
            lines[first] = head + b"pass" + tail
        else:
            joined = b"\\" if tail.strip() else b""  # what follows on the last line goes on with this statement's line
            lines[first : last + 1] = [head + b"pass" + joined, *[joined] * (last - first - 1), tail]
    return b"\n".join(lines).decode()


def _defines_provided(node):
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in PROVIDED


def _assigns_literal_context(node):
    match node:
        case (
            ast.Assign(targets=[ast.Name(id="context")], value=value)
            | ast.AnnAssign(target=ast.Name(id="context"), value=value)
        ):
            return value is not None and _is_literal(value)
    return False


def _is_literal(node):
    match node:
        case ast.Constant() | ast.JoinedStr(values=[ast.Constant()]):
            return True
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            return all(map(_is_literal, parts))
        case ast.Dict(keys=keys, values=values):
            return all(key is not None and _is_literal(key) for key in keys) and all(map(_is_literal, values))
        case ast.BinOp(left=left, right=right):
            return _is_literal(left) and _is_literal(right)
        case ast.Call(func=ast.Attribute(value=value, attr="strip" | "lstrip" | "rstrip" | "format"), args=[]):
            return _is_literal(value)
    return False


def _passes_context(node):
    if not isinstance(node, ast.Call) or getattr(node.func, "id", "") in HARMLESS:
        return False
    given = [*node.args, *(keyword.value for keyword in node.keywords)]
    return any(isinstance(value, ast.Name) and value.id == "context" for value in given)

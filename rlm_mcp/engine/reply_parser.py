"""Parser of model replies: the blocks of code to run, and the prose around them.

Models write many dialects: fences labelled `repl`, `python`, `py` or not at all, the language word on the next line, no
closing fence, no fence, tool calls as text, thinking before the reply. All are read here, and only here. A `FINAL(…)`
is code like any other: it counts when it runs. Text that was not run is never searched for it. After the MOST_FENCES
first blocks, the rest of a reply is prose.

The host may parse with an older Python than the guest runs. So a block whose fence says that it is Python is run even
if it does not parse here; parsing only decides about blocks without a label, and between a block and its repair.
"""

import ast
import json
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

_PYTHON = frozenset({"repl", "python", "python3", "py", "py3", "ipython", "pycon", "python-repl", "tool_code", "code"})
_THINKING = ("think", "thinking", "thought", "thoughts", "reasoning", "scratchpad")
# Possessive quantifiers, and marks taken from where their run begins: a line of blanks or marks is read once.
_OPENING = re.compile(
    r"(?:(?<!`)(?=`)|(?<!~)(?=~))(`{3,}+|~{3,}+)[ \t]*+([A-Za-z0-9_+#.-]*+)[ \t]*+(?:\{[^}\n]{0,200}+\})?[ \t]*+$"
)
_INLINE = re.compile(r"`{3}[ \t]*+(?:(?:repl|python3?|py)[ \t]++)?([^`\n]++)`{3}")
_FENCE_LINE = re.compile(r"```[\w+#.-]*+[ \t]*+")
_CODE_TAG = re.compile(
    r"<(code|python|repl|execute|execute_ipython|execute_python|ipython|tool_code|parameter=code)>(.*?)(?:</\1>|</parameter>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_TOOL_CALL = re.compile(r"<(tool_call|function_call|tool_use)>(.*?)(?:</\1>|\Z)", re.DOTALL)
_CODE_KEYS = (
    "code",
    "python",
    "source",
    "script",
    "input",
    "tool_input",
    "arguments",
    "parameters",
    "args",
    "function",
)
_FINAL = re.compile(r"[ \t]*+(FINAL|FINAL_VAR|SUBMIT)\(")
_END_OF_CALL = re.compile(r"\)[ \t;]*+(?:#.*)?\Z", re.DOTALL)
_STRING_OR_COMMENT = re.compile(r'"""[\s\S]*?"""|"(?:\\.|[^"\\\n])*+"?|\'(?:\\.|[^\'\\\n])*+\'?|#[^\n]*+')
_MOST_CLOSINGS = 8  # a fence inside a string of the code is rare; with more tries, parsing junk would be quadratic
MOST_FENCES = 1_000  # a reply of a million characters has room for 125,000, which keep the collector busy
_KEPT_CHARS = 20_000  # the tree of a longer block takes megabytes
_ALLOW_AWAIT = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A parsed reply. `blocks` are to be run in order; `prose` is the rest without thinking."""

    text: str
    """the reply without thinking, as it goes into the history"""
    blocks: tuple[str, ...] = ()
    prose: str = ""
    repaired: bool = False
    """an unclosed string or bracket was closed, or the bare text of a FINAL was quoted"""
    only_thinking: bool = False
    """the reply ended before its thinking did"""
    other_language: str = ""
    """the label of a fence that is not Python, if there was no Python"""


def parse_reply(text: str) -> Reply:
    """Parses a reply. Any text is a reply; nothing raises."""
    said, only_thinking = _without_thinking(text)
    if only_thinking:
        return Reply(text="", only_thinking=True)
    fenced = list(islice(_fences(said), MOST_FENCES))
    chosen = [f for f in fenced if _is_block(f, alone=len(fenced) == 1)]
    blocks, prose = [f.code for f in chosen], _outside(said, fenced)
    if not blocks:
        blocks = _tool_calls(said, fenced) or _tagged(said) or _inline(said) or _bare(said)
        prose = prose if blocks != [said.strip()] else ""
    cleaned = [_clean(block) for block in blocks]
    repaired = [repair(block) if block == cleaned[-1] else block for block in cleaned]
    foreign = next((f.label for f in fenced if f.label and f.label not in _PYTHON), "")
    return Reply(
        text=said.strip(),
        blocks=tuple(repaired),
        prose=prose.strip(),
        repaired=repaired != cleaned,
        other_language="" if blocks else foreign,
    )


def parse(code: str) -> ast.Module | None:
    """The syntax tree of a block as the REPL would read it (top-level `await` allowed), or None. Not to be changed."""
    return _parse(code) if len(code) > _KEPT_CHARS else _parse_once(code)


@lru_cache(maxsize=8)  # a block is parsed five times in a turn
def _parse_once(code: str) -> ast.Module | None:
    return _parse(code)


def _parse(code: str) -> ast.Module | None:
    try:
        return _compiled(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _compiled(code: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = compile(code, "<cell>", "exec", flags=_ALLOW_AWAIT, dont_inherit=True)
    return tree if isinstance(tree, ast.Module) else None


def unfenced(text: str) -> str:
    """A reply without the fence that models put around the whole of it."""
    opening, _, rest = text.strip().partition("\n")
    inner = rest.removesuffix("```")
    if inner == rest or "```" in inner or not _FENCE_LINE.fullmatch(opening):
        return text
    return inner.rstrip(" \t").strip("\n")


def normalise(code: str) -> str:
    """The same string for code that differs only in layout and comments."""
    tree = parse(code)
    return ast.dump(tree) if tree is not None else re.sub(r"\s+", " ", re.sub(r"#[^\n]*", "", code)).strip()


def final_text(code: str) -> str | None:
    """The text between the brackets of a `FINAL(…)` on the last line of a block, as written."""
    line = code.rstrip().rpartition("\n")[2]
    call = _FINAL.match(line)
    end = _END_OF_CALL.search(line, call.end()) if call else None
    return line[call.end() : end.start()].strip(" \t") if call and end else None


def repair(code: str) -> str:
    """The block with an unclosed string or bracket closed, or a FINAL's bare text quoted, if that makes it parse."""
    if parse(code) is not None:
        return code
    for candidate in _repairs(code):
        if parse(candidate) is not None:
            return candidate
    return code


@dataclass(frozen=True, slots=True)
class _Fence:
    label: str
    code: str
    first: int
    after: int
    closed: bool


def _without_thinking(text: str) -> tuple[str, bool]:
    """The reply after its thinking, and whether there was nothing but thinking. Tags inside code are left alone."""
    if "<|channel|>final<|message|>" in text:
        text = text.rpartition("<|channel|>final<|message|>")[2]
    for tag in _THINKING:
        opening, closing = f"<{tag}>", f"</{tag}>"
        if text.lstrip().startswith(opening):
            _, found, rest = text.partition(closing)
            if not found:
                return "", True
            text = rest
        elif closing in text and opening not in text:
            # If the chat template opens the thinking, only its end is in the reply.
            text = text.partition(closing)[2]
    return text, False


def _fences(text: str) -> Iterator[_Fence]:
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        opening = _OPENING.search(lines[at])
        if opening is None:
            at += 1
            continue
        fence = _fence_at(lines, at, opening.group(1)[:3], opening.group(2).lower())
        yield fence
        at = fence.after


def _fence_at(lines: list[str], first: int, mark: str, label: str) -> _Fence:
    """The block opened on line `first`, up to the nearest closing fence after code that parses, or the nearest one."""
    nearest: _Fence | None = None
    tried = 0
    for at in range(first + 1, len(lines)):
        before, found, behind = lines[at].partition(mark)
        if not found:
            continue
        reopened = behind.strip(mark[0]).strip().lower() in _PYTHON and not before.strip()
        code = "\n".join([*lines[first + 1 : at], *([before] if before.strip() else [])])
        # A second labelled opening means that the first was never closed.
        fence = _labelled(label, code, first, at if reopened else at + 1, closed=True)
        if parse(_clean(fence.code)) is not None:
            return fence
        nearest = nearest or fence
        tried += 1
        if tried == _MOST_CLOSINGS:
            break
    return nearest or _labelled(label, "\n".join(lines[first + 1 :]), first, len(lines), closed=False)


def _labelled(label: str, code: str, first: int, after: int, *, closed: bool) -> _Fence:
    """A fence whose language word may be on the line after the marks."""
    word, _, rest = code.lstrip("\n").partition("\n")
    if (not label or label in _PYTHON) and word.strip().lower() in _PYTHON and rest.strip():
        return _Fence(word.strip().lower(), rest, first, after, closed)
    return _Fence(label, code, first, after, closed)


def _is_block(fence: _Fence, *, alone: bool) -> bool:
    if fence.label and fence.label not in _PYTHON:
        return False
    tree = parse(_clean(fence.code))
    if tree is None:
        # An unlabelled fence that is not Python is mostly imagined output; alone in a reply, it is code with a mistake.
        return bool(fence.label) or (alone and re.search(r"[=(]|^\s*(for|import|def) ", fence.code) is not None)
    return not _is_idle(tree)


def _is_idle(tree: ast.Module) -> bool:
    """Whether running it would do and show nothing, because it holds only comments and literals."""
    return all(isinstance(node, ast.Pass) or _is_literal(node) for node in tree.body)


def _is_literal(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Expr):
        return False
    try:
        ast.literal_eval(node.value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def _outside(text: str, fences: list[_Fence]) -> str:
    lines = text.split("\n")
    for fence in reversed(fences):
        lines[fence.first : fence.after] = []
    return "\n".join(lines)


def _tool_calls(text: str, fences: list[_Fence]) -> list[str]:
    """Code inside tool calls written as text: JSON in tags, in a json fence, or as the whole reply."""
    texts = [found.group(2) for found in islice(_TOOL_CALL.finditer(text), MOST_FENCES)]
    texts += [f.code for f in fences if f.label in {"json", "", "tool_call"}]
    if text.strip().startswith("{"):
        texts.append(text)
    codes = []
    for candidate in texts:
        try:
            data = json.loads(candidate, strict=False)
        except (ValueError, RecursionError):
            continue
        code = _code_in(data) if isinstance(data, dict) else None
        if code:
            codes.append(code)
    return codes


def _code_in(data: Any, depth: int = 0) -> str | None:
    """The code of a tool call, however deeply its arguments are nested; arguments may be JSON in a string."""
    if depth > 4:  # function, arguments, JSON in a string, code: the deepest seen
        return None
    if isinstance(data, str):
        if data.lstrip().startswith("{"):
            try:
                return _code_in(json.loads(data, strict=False), depth + 1)
            except (ValueError, RecursionError):
                return data
        tree = parse(data)
        return data if tree is not None and not _is_idle(tree) else None
    if isinstance(data, dict):
        for key in _CODE_KEYS:
            if key in data and (code := _code_in(data[key], depth + 1)):
                return code
    return None


def _tagged(text: str) -> list[str]:
    codes = [textwrap.dedent(found.group(2)).strip("\n") for found in islice(_CODE_TAG.finditer(text), MOST_FENCES)]
    return [code for code in codes if (tree := parse(code)) is not None and not _is_idle(tree)]


def _inline(text: str) -> list[str]:
    """Code between fence marks on a single line."""
    codes = [found.group(1).rstrip(" \t") for found in islice(_INLINE.finditer(text), MOST_FENCES)]
    return [code for code in codes if (tree := parse(code)) is not None and _does_something(tree)]


def _bare(text: str) -> list[str]:
    """The whole reply, if it is code without any fence, or nothing but `FINAL(…)`."""
    code = text.strip()
    word, _, rest = code.partition("\n")
    if word.strip().lower() in _PYTHON and rest.strip():
        code = rest
    tree = parse(repair(_clean(code)))
    return [code] if tree is not None and _does_something(tree) else []


def _does_something(tree: ast.Module) -> bool:
    """Whether a text that parses is meant as code: a single word or `trunk-275` is not."""
    doing = (ast.Call, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Import, ast.ImportFrom, ast.For, ast.FunctionDef)
    return any(isinstance(node, doing) for node in ast.walk(tree))


def _clean(code: str) -> str:
    """The block without common indentation, `>>>` prompts and non-breaking spaces."""
    code = code.replace("\r\n", "\n").replace("\u00a0", " ").lstrip("\n").rstrip()
    if code[:1] in {" ", "\t"}:
        code = textwrap.dedent(code)
        # A first line that is still indented is the only one with these blanks, or others lack them.
        indent = code[: len(code) - len(code.lstrip(" \t"))]
        code = "\n".join(line.removeprefix(indent) for line in code.split("\n")) if indent else code
    lines = code.split("\n")
    if lines[0].startswith(">>>"):
        code = "\n".join(line[4:] for line in lines if line.startswith((">>>", "...")))
    return code


def _repairs(code: str) -> Iterator[str]:
    if (quoted := _with_quoted_final(code)) is not None:
        yield quoted
    # A quotation mark right before a closing triple quote is read as part of it, and one mark is left over.
    yield re.sub(r'(?<!")""""(?!")', r'\\""""', code)
    start = _unclosed_string(code)
    if start is not None:
        head, quote, body = code[:start], code[start], code[start + 1 :]
        if body.startswith(quote * 2):
            body = body[2:]
        # The last quote of the text, if there is one, is where the model meant the string to end.
        for cut in (body.rfind(quote), len(body)):
            if cut >= 0:
                inner = body[:cut].replace('"""', "'''").rstrip("\\")
                inner += " " if inner.endswith('"') else ""
                tail = body[cut:].lstrip(quote)
                yield f'{head}"""{inner}"""{tail}'
                yield f'{head}"""{inner}"""{_closers(head)}'
    yield code + _closers(code)


def _with_quoted_final(code: str) -> str | None:
    """The block with its text as a string, if it is a single `FINAL(…)` or `SUBMIT(…)` of bare text on one line."""
    call = _FINAL.match(code := code.strip())
    whole = code.removesuffix(";").rstrip()
    if call is None or call.group(1) == "FINAL_VAR" or not whole.endswith(")"):
        return None
    text = whole[call.end() : -1].strip()
    return None if "\n" in text or text[:1] in {"'", '"'} else f"{call.group(1)}({text!r})"


def _unclosed_string(code: str) -> int | None:
    """The position of the string whose end the parser did not find, or None."""
    try:
        _compiled(code)
    except SyntaxError as error:
        if "unterminated" in error.msg and error.lineno is not None and error.offset is not None:
            lines = code.split("\n")
            start = sum(len(line) + 1 for line in lines[: error.lineno - 1]) + error.offset - 1
            while start < len(code) and code[start] not in "\"'":
                start += 1  # the offset names the prefix letter of an f- or r-string
            return start if start < len(code) else None
    except (ValueError, RecursionError, MemoryError):
        return None
    return None


def _closers(code: str) -> str:
    """The closing brackets that are missing at the end of `code`; strings and comments are skipped roughly."""
    bare = _STRING_OR_COMMENT.sub("", code)
    stack: list[str] = []
    pairs = {"(": ")", "[": "]", "{": "}"}
    for char in bare:
        if char in pairs:
            stack.append(pairs[char])
        elif stack and char == stack[-1]:
            stack.pop()
    return "".join(reversed(stack))

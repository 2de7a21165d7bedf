"""Coverage: how many characters of the contexts were read by code and by models, and which.

A line counts as read by a model when it was shown to the root model or stood in a sub-call's prompt, wherever in the
contexts that line stands. A text counts as read by code when a block that did not fail used it whole; slices with
constant bounds count as such. Both are lower bounds where text was cut within a line.
"""

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from itertools import islice, product
from typing import Any

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.text.colours import ESCAPE, without_colours
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.contexts.types import Context
from rlm_mcp.engine.reply_parser import parse
from rlm_mcp.records.types import Coverage
from rlm_mcp.repl.types import CellResult

MOST_CHARS = 64_000_000  # beyond this reading every context once more at the end of a run would be felt
MOST_SECONDS = 30.0  # reading many small objects of a bucket, which nothing else has fetched, would take minutes
MOST_CHARS_BY_FIELD = 8_000_000  # of a text whose lines are also compared field by field, which takes a second or two
_LEAST_FIELD = 12
_MOST_FIELDS = 12
_MOST_LINE_CHARS = 4_000
_SEPARATOR = re.compile(r"[|\t;,]\s?|: |\"")
_BLANKS = re.compile(r"\s+")
_MOST_BLANKS = 4  # an id, or date, time and level, before the text of a line
_JSON_STRING = re.compile(r'"((?:[^"\\]|\\.)*+)("?)')  # also one without an end, so that a line is read once
_LEAST_FRAGMENT = 200
_MOST_FRAGMENTS = 500

_STRING_OF = {
    marks: re.compile(rf"(?P<mark>[{marks}])(?P<text>(?:(?!(?P=mark))[^\\]|\\.)++)(?P<closed>(?P=mark))?")
    for marks in ("'\"", "'", '"')
}
"""A Python string as `repr` writes it, which begins with one of these marks and may not be closed"""

_PREFIX = re.compile(r"\s{0,8}(?:[(\[#]{0,2}\d{1,7}\s?[.):\]|\t-]{0,2}\s|[-*\u2022>]\s|[A-Za-z][\w ]{0,14}:\s)\s{0,4}")
"""Marks that code puts before a line of a prompt: `3. `, `[12] `, `- `, `Line 7: `"""

CharRange = tuple[int, int]


class Reading:
    """Collects what is read during a run, as cheaply as possible; `coverage` works out the ranges at the end."""

    def __init__(self) -> None:
        self._lines: set[int] = set()
        self._judged: set[int] = set()
        """the lines of prompts of sub-calls, where code may have put one field of a line of a context"""
        self._fragments: list[str] = []
        self._uses: dict[tuple[str, str], list[CharRange | None]] = defaultdict(list)

    def add_model_text(self, text: str) -> None:
        """Adds text that a model has read: an output, or material of a direct call.

        Its lines may stand behind a number or a short label, or inside a printed list of strings.
        """
        self._add_text(text, self._lines)

    def add_prompt(self, text: str) -> None:
        """Adds a prompt of a sub-call, whose lines may be fields of lines of a context."""
        self._add_text(text, self._judged)

    def _add_text(self, text: str, lines: set[int]) -> None:
        for line in text.split("\n"):
            self._add_line(line, lines)
            if (prefix := _PREFIX.match(line)) is not None:
                self._add_line(line[prefix.end() :], lines)
            for string in _printed_strings(line):
                self._add_line(string.removesuffix("\\n"), lines)

    def add_cell(self, cell: CellResult) -> None:
        """Adds a block that has run: what the guest noticed it reading, else what its code says."""
        if cell.reads:
            for read in cell.reads:
                self._uses[read.context, read.path].append((read.start, read.end))
        elif cell.error is None:
            for name, path, part in uses_in(cell.code):
                self._uses[name, path].append(part)

    def _add_line(self, line: str, lines: set[int]) -> None:
        line = without_colours(line).strip()
        if line:
            lines.add(hash(line))
        if len(line) >= _LEAST_FRAGMENT and len(self._fragments) < _MOST_FRAGMENTS:
            self._fragments.append(line)

    def _fields_read(self, line: str) -> Iterator[CharRange]:
        """The fields of a line that stood alone on a line that a model has read. Short ones occur by chance."""
        for start, end in _fields_of(line):
            if end - start >= _LEAST_FIELD:
                field = line[start:end].strip().strip('"')
                if len(field) >= _LEAST_FIELD and (hash(field) in self._judged or self._is_judged_json(field)):
                    yield start, end

    def _is_judged_json(self, field: str) -> bool:
        """Whether the field is a JSON string with escapes whose value stood on a line of its own."""
        if "\\" not in field:
            return False
        try:
            value = json.loads(f'"{field}"')
        except ValueError:
            return False
        return hash(without_colours(value).strip()) in self._judged

    def coverage(self, store: Store, contexts: Sequence[Context], seconds: float = MOST_SECONDS) -> Coverage:
        """The ranges that were read.

        What models read is left out for contexts of more than MOST_CHARS together, and for texts that come after
        `seconds`.
        """
        listed = [(context, store.files(context)) for context in contexts]
        # Not those of the contexts, which were estimates perhaps when the run began.
        total = sum(entry.chars for _, files in listed for entry in files)
        timeout = Timeout(seconds)
        by_code: dict[str, list[CharRange]] = {}
        by_model: dict[str, list[CharRange]] = {}
        for context, files in listed:
            if total <= MOST_CHARS and not timeout.expired:
                store.fetch_ahead(files)
            for entry in files:
                key = f"{context.context_id}/{entry.path}"
                code = merged(self._code_ranges(context, entry.path, entry.chars))
                is_looked_for = total <= MOST_CHARS and not timeout.expired
                model = merged(self._model_ranges(store.text(context, entry.path))) if is_looked_for else []
                by_code |= {key: code} if code else {}
                by_model |= {key: model} if model else {}
        return Coverage(
            total_chars=total,
            read_by_code=sum(end - start for ranges in by_code.values() for start, end in ranges),
            read_by_model=sum(end - start for ranges in by_model.values() for start, end in ranges),
            ranges={"code": by_code, "model": by_model},
        )

    def _code_ranges(self, context: Context, path: str, chars: int) -> Iterator[CharRange]:
        for name, used_path in product({"", context.name, context.context_id}, {"", path}):
            for part in self._uses.get((name, used_path), ()):
                start, end = part or (0, chars)
                start = max(0, start + chars) if start < 0 else start
                end = max(0, end + chars) if end < 0 else end
                if start < min(end, chars):
                    yield start, min(end, chars)

    def _model_ranges(self, text: str) -> Iterator[CharRange]:
        at, is_read, known = 0, False, self._lines | self._judged
        by_field = bool(self._judged) and len(text) <= MOST_CHARS_BY_FIELD
        is_coloured = ESCAPE in text
        for line in StringIO(text, newline="\n") if known else ():
            if said := line.strip():
                is_read = hash(without_colours(line).strip() if is_coloured else said) in known
            if is_read:
                yield at, at + len(line)
            elif by_field:
                yield from ((at + start, at + end) for start, end in self._fields_read(line))
            at += len(line)
        for fragment in self._fragments:
            found = text.find(fragment)
            if found >= 0:
                yield found, found + len(fragment)


def _fields_of(line: str) -> Iterator[CharRange]:
    """Where the parts of a line are that code may have judged alone.

    They are between separators, quoted, behind the first words, or strings of JSON, which may be on one line.
    """
    if len(line) < _LEAST_FIELD:
        return
    if '"' in line:
        yield from (found.span(1) for found in _JSON_STRING.finditer(line) if found[2])
    line = line[:_MOST_LINE_CHARS]
    ends = [found.span() for found in islice(_SEPARATOR.finditer(line), _MOST_FIELDS)]
    starts = [end for _, end in ends]
    yield from ((start, len(line)) for start in starts)
    yield from ((found.end(), len(line)) for found in islice(_BLANKS.finditer(line), _MOST_BLANKS))
    yield from zip([0, *starts], [start for start, _ in ends], strict=False)


def _printed_strings(line: str) -> Iterator[str]:
    """The insides of the strings on a printed line. A mark that is not closed ends the search for its kind."""
    marks, at = "'\"", 0
    while marks and (found := _STRING_OF[marks].search(line, at)):
        if found["closed"]:
            yield found["text"]
            at = found.end()
        else:
            marks = marks.replace(found["mark"], "")
            at = found.start() + 1


def merged(ranges: Iterable[CharRange]) -> list[CharRange]:
    """The same characters as sorted ranges that neither overlap nor touch."""
    result: list[CharRange] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def uses_in(code: str) -> list[tuple[str, str, CharRange | None]]:
    """Which contexts, paths and ranges a block reads: ("", "", None) is all of everything.

    `len(context)`, names and keys read nothing; a slice with constant bounds reads that; any other use reads the whole.
    """
    tree = parse(code)
    if tree is None:
        return []
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    uses: list[tuple[str, str, CharRange | None]] = []
    for node in ast.walk(tree):
        match node:
            case ast.Name(id="context" | "contexts", ctx=ast.Load()):
                uses += _use_of(node, parents)
            case ast.Call(func=ast.Name(id="search" | "open")):
                uses.append(("", "", None))
    return uses


def _use_of(node: ast.Name, parents: Mapping[Any, Any]) -> Iterator[tuple[str, str, CharRange | None]]:
    parent = parents.get(node)
    match parent:
        case ast.Call(func=ast.Name(id="len" | "type" | "isinstance" | "dir" | "id" | "hasattr")):
            return
        case ast.Attribute(attr="keys" | "name" | "names"):
            return
        case ast.For(iter=iterated) if iterated is node and node.id == "contexts":
            return
        case ast.Subscript(slice=ast.Slice(lower=lower, upper=upper, step=None)):
            start, end = _constant(lower, 0), _constant(upper, 1 << 62)
            yield "", "", (start, end) if start is not None and end is not None else None
        case ast.Subscript(slice=ast.Constant(value=str(key))) if node.id == "contexts":
            yield key, "", None
        case ast.Subscript(slice=ast.Constant(value=str(key))):
            yield "", key, None
        case _:
            yield "", "", None


def _constant(node: ast.expr | None, default: int) -> int | None:
    match node:
        case None:
            return default
        case ast.Constant(value=int(number)):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(number))):
            return -number
    return None

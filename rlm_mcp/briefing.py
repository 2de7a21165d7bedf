"""What the root model is told of its contexts before it has looked: facts, and a few real lines.

Real lines, shown by repr, keep a model from guessing the format; a wrong guess about it ("looks like JSON") is worse
than none, so only what `describe` has parsed is passed on. Lines that hold the rarest words of the question come with
them: often they are the answer, and always they show the form in which it stands. They are data like any other line.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from rlm_mcp.contexts.context import Context
from rlm_mcp.contexts.describe import Overview, describe
from rlm_mcp.contexts.search import Match, search
from rlm_mcp.contexts.store import Store
from rlm_mcp.errors import RlmError
from rlm_mcp.prompts import Brief

HOW_TO_READ = {
    "json": "json.loads(context) reads it",
    "json lines": "every line is one JSON value: json.loads(line) for each line of context.splitlines()",
    "csv": "csv.DictReader(context.splitlines()) reads it",
    "tsv": 'csv.DictReader(context.splitlines(), delimiter="\\t") reads it',
}
"""format, as `describe` names it after parsing -> one way to read it"""

_TOLD = ("shape", "levels", "first_time", "last_time", "line_regex", "headings", "languages", "types", "rows")
_MOST_STRUCTURE_CHARS = 600
_MOST_WORDS = 8
_MOST_HITS = 3
_RARE = 40  # a word in more lines than this says what the context is about rather than where the answer is
_SEARCH_SECONDS = 1.0
_MOST_LARGEST = 8
_FEW_LINES = 4
_SEEN = 200  # what is shown of a line; lines that differ only behind that look the same
_LINE_CHARS = 2_000  # enough of a line to show its form; the prompt cuts it further


def briefs(store: Store, contexts: Sequence[Context], query: str) -> tuple[Brief, ...]:
    """One brief a context. Reads from disk."""
    return tuple(_brief(store, describe(store, context), query) for context in contexts)


def brief_of_value(value: object) -> Brief:
    """The brief of a child run's context, which exists only as a value."""
    match value:
        case dict():
            texts = {str(path): text if isinstance(text, str) else repr(text) for path, text in value.items()}
            by_size = sorted(texts, key=lambda path: len(texts[path]), reverse=True)
            return Brief(
                name="context",
                kind="files",
                chars=sum(len(text) for text in texts.values()),
                files=len(texts),
                largest=tuple(f"{path} ({len(texts[path]):,} characters)" for path in by_size[:_MOST_LARGEST]),
            )
        case list() | tuple():
            items = [item if isinstance(item, str) else repr(item) for item in value]
            return Brief(
                name="context", kind="list", chars=sum(map(len, items)), lines=len(items), samples=samples_of(items)
            )
    text = value if isinstance(value, str) else repr(value)
    lines = text.splitlines()
    return Brief(name="context", kind="text", chars=len(text), lines=len(lines), samples=samples_of(lines))


def samples_of(lines: Sequence[str]) -> tuple[str, ...]:
    """First, second, middle and last of the lines that hold anything."""
    full = [line for line in lines if line.strip()]
    wanted = dict.fromkeys((0, 1, len(full) // 2, len(full) - 1))
    return tuple(full[index][:_LINE_CHARS] for index in sorted(wanted) if 0 <= index < len(full))


def format_text(structure: Mapping[str, object]) -> str:
    """The format that `describe` has parsed, how to read it, and its columns."""
    found = str(structure.get("format") or "")
    parts = [found] if found not in {"", "text", "files"} else []
    parts += [HOW_TO_READ[found]] if found in HOW_TO_READ else []
    parts += [f"columns: {_short(structure['columns'])}"] if structure.get("columns") else []
    return _cut("; ".join(parts))


def structure_text(structure: Mapping[str, object]) -> str:
    """What else `describe` has established, in one line."""
    return _cut("; ".join(f"{name}: {_short(structure[name])}" for name in _TOLD if structure.get(name)))


def words_of(query: str) -> list[str]:
    """The words of a question that a text may hold: no function words, names and codes first."""
    words = dict.fromkeys(re.findall(r"\w[\w.:/-]*\w|\w", query))
    telling = [word for word in words if len(word) > 2 and word.lower() not in _COMMON]
    telling.sort(key=lambda word: (word.islower(), -len(word)))
    return telling[:_MOST_WORDS]


def hits(store: Store, context: Context, query: str) -> tuple[str, ...]:
    """Up to three lines that hold the rarest words of the question, if there are rare ones."""
    found: Counter[tuple[str, int]] = Counter()
    texts: dict[tuple[str, int], Match] = {}
    for word in words_of(query):
        try:
            result = search(
                store, context, word, max_matches=_RARE, ignore_case=True, literal=True, seconds=_SEARCH_SECONDS
            )
        except RlmError:
            continue  # a brief without hits is better than no run
        if 0 < result.total <= _RARE:
            for match in result.matches:
                found[match.path, match.line] += 1_000 // result.total
                texts[match.path, match.line] = match
    best = sorted(found, key=lambda place: (-found[place], place))[:_MOST_HITS]
    shown = [texts[place] for place in best]
    return tuple(m.text[:_LINE_CHARS] if context.kind == "text" else f"{m.path}:{m.line}: {m.text}" for m in shown)


def _brief(store: Store, overview: Overview, query: str) -> Brief:
    context = overview.context
    is_text = context.kind == "text"
    samples = _stored_samples(store, overview) if is_text else ()
    return Brief(
        name=context.name,
        kind=context.kind,
        chars=context.chars,
        lines=context.lines,
        files=context.files,
        format=format_text(overview.structure),
        structure=structure_text(overview.structure),
        samples=samples,
        hits=tuple(hit for hit in hits(store, context, query) if hit[:_SEEN] not in {line[:_SEEN] for line in samples}),
        largest=()
        if is_text
        else tuple(f"{f.path} ({f.lines:,} lines)" for f in overview.largest_files[:_MOST_LARGEST]),
    )


def _stored_samples(store: Store, overview: Overview) -> tuple[str, ...]:
    """First two, middle and last line that hold anything, without loading the text."""
    context: Context = overview.context
    head = [line for line in overview.head.splitlines() if line.strip()]
    if context.lines <= _FEW_LINES:
        return tuple(line[:_LINE_CHARS] for line in head)
    tail = [line for line in overview.tail.splitlines() if line.strip()]
    middle_line = context.lines // 2
    middle = store.read_lines(context, middle_line, middle_line + 2, max_chars=_LINE_CHARS).text.splitlines()
    picked = [*head[:2], *[line for line in middle if line.strip()][:1], *tail[-1:]]
    return tuple(line[:_LINE_CHARS] for line in dict.fromkeys(picked))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_STRUCTURE_CHARS else text[: _MOST_STRUCTURE_CHARS - 1] + "…"


def _short(value: object) -> str:
    match value:
        case {"name": name, "type": kind, **more}:
            some = more.get("values")
            return f"{name} {kind}" + (f" ({_short(some)})" if some else "")
        case dict():
            return ", ".join(f"{name} {_short(part)}" for name, part in list(value.items())[:12])
        case list() | tuple():
            return ", ".join(_short(part) for part in value[:12])
    return str(value)[:120]


_COMMON_WORDS = """
    a about after all also am an and any are as at be been before being between both but by can could date did do
    does each every find first for from get give given had has have her here him his how i if in into is it its last
    least line lines list log many me more most much my name no not number occur occurs of on one only or other our out
    over per please say says she should show so some tell text than that the their them then there these they this
    those to total under until up use used was we were what when where which while who whom whose why will with word
    words would year you your answer context file files form level levels contain contains different distinct following
    having ask asks"""
_COMMON = frozenset(_COMMON_WORDS.split())

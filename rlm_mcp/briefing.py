"""What the root model is told of its contexts before it has looked: facts, and a few real lines.

Real lines, shown by repr, keep a model from guessing the format; a wrong guess about it ("looks like JSON") is worse
than none, so only what `describe` has established is passed on.
"""

from collections.abc import Mapping, Sequence

from rlm_mcp.contexts.context import Context
from rlm_mcp.contexts.describe import Overview, describe
from rlm_mcp.contexts.store import Store
from rlm_mcp.prompts import Brief

_MOST_STRUCTURE_CHARS = 400
_MOST_LARGEST = 8
_LINE_CHARS = 2_000  # enough of a line to show its form; the prompt cuts it further


def briefs(store: Store, contexts: Sequence[Context]) -> tuple[Brief, ...]:
    """One brief a context. Reads from disk."""
    return tuple(_brief(store, describe(store, context)) for context in contexts)


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


def structure_text(structure: Mapping[str, object]) -> str:
    """What `describe` found, in one line."""
    parts = [f"{name}: {_short(value)}" for name, value in structure.items() if value not in (None, "", [], {})]
    text = "; ".join(parts)
    return text if len(text) <= _MOST_STRUCTURE_CHARS else text[: _MOST_STRUCTURE_CHARS - 1] + "…"


def _brief(store: Store, overview: Overview) -> Brief:
    context = overview.context
    is_text = context.kind == "text"
    return Brief(
        name=context.name,
        kind=context.kind,
        chars=context.chars,
        lines=context.lines,
        files=context.files,
        structure=structure_text(overview.structure),
        samples=_stored_samples(store, overview) if is_text else (),
        largest=()
        if is_text
        else tuple(f"{f.path} ({f.lines:,} lines)" for f in overview.largest_files[:_MOST_LARGEST]),
    )


def _stored_samples(store: Store, overview: Overview) -> tuple[str, ...]:
    """First two, middle and last line that hold anything, without loading the text."""
    context: Context = overview.context
    head = [line for line in overview.head.splitlines() if line.strip()]
    tail = [line for line in overview.tail.splitlines() if line.strip()]
    middle_line = max(1, context.lines // 2)
    middle = store.read_lines(context, middle_line, middle_line + 2, max_chars=_LINE_CHARS).text.splitlines()
    picked = [*head[:2], *[line for line in middle if line.strip()][:1], *tail[-1:]]
    return tuple(line[:_LINE_CHARS] for line in dict.fromkeys(picked))


def _short(value: object) -> str:
    match value:
        case dict():
            return ", ".join(f"{name} {_short(part)}" for name, part in list(value.items())[:12])
        case list() | tuple():
            return ", ".join(_short(part) for part in value[:12])
    return str(value)[:120]

"""Briefs: what the root model is told about its contexts before its first turn, which is facts and a few real lines.

Real lines, shown by repr, keep a model from guessing the format. A wrong hint about it ("looks like JSON") is worse
than none, so only a format that `describe` has parsed is passed on. Lines with the rarest words of the question are
added: often they are the answer, and always they show the form that it has. They are data like any other line.
"""

import csv
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from io import StringIO
from itertools import islice
from typing import Literal

from rlm_mcp.bucket_address import has_bucket_scheme
from rlm_mcp.contexts.describe.overview import Overview, describe
from rlm_mcp.contexts.describe.per_text import PerText
from rlm_mcp.contexts.describe.text_sample import take_sample
from rlm_mcp.contexts.search import MatchedLine, search
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.text.lines import split_lines
from rlm_mcp.contexts.types import Context, FileEntry
from rlm_mcp.engine.line_shapes import LineShape, shapes_of
from rlm_mcp.engine.prompts import SIGNS, Brief, WordPlace
from rlm_mcp.engine.question_words import words_of
from rlm_mcp.errors import RlmError
from rlm_mcp.redact import ellipsize

HOW_TO_READ = {
    "json": "json.loads(context) reads it",
    "json lines": "every line is one JSON value: json.loads(line) for each line of context.splitlines()",
    "csv": 'csv.DictReader(open("context", newline="")) reads it, also fields with line ends in them',
    "tsv": 'csv.DictReader(open("context", newline=""), delimiter="\\t") reads it',
}
"""format, as `describe` names it after parsing -> one way to read it"""

HOW_TO_READ_ROWS = {
    "csv": 'csv.reader(open("context", newline="")) reads it, also fields with line ends in them; it has no header',
    "tsv": 'csv.reader(open("context", newline=""), delimiter="\\t") reads it; it has no header',
}
"""the same for tables whose first line is a row like the others"""

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_TOLD = ("colours", "levels", "first_time", "last_time", "headings", "languages", "types", "rows")
_MOST_STRUCTURE_CHARS = 600
_MOST_HITS = 3
_RARE = 40  # a word in more lines than this tells the topic of the context rather than the place of the answer
_SEARCH_SECONDS = 1.0
_MOST_LARGEST = 8
_FEW_LINES = 4
_FIRST_LINES = 10  # about one record of several lines
_SHAPED_LINES = 30_000  # of which the shapes are counted; that takes some hundredths of a second
_SEEN = 200  # characters shown of a line; lines that differ only after them look the same
_LINE_CHARS = 2_000  # enough of a line to show its form; the prompt cuts it further
_HIT_CHARS = 220  # less than the prompt shows of a line
_FAR_BEHIND = 4  # a line that scores less than this fraction of the best one was found by a common word
_HEADING_WORDS = 3
_LINES_BELOW = 5
_LABEL_CHARS = 24
_FEWEST_WORDS = 4
_MOST_FIELDS = 12
_FIELD_CHARS = 40
_OTHER_SHARE = 0.08  # of a sentence: figures and signs
_OF_SENTENCES = re.compile(r"[^\W\d_]|[ ,.;:!?'\"\u2018-\u201d()-]")


_COLD_BYTES = 256 << 20
"""A larger context in a bucket, of which not all was read yet, takes too long to fetch."""


def brief_contexts(
    store: Store,
    contexts: Sequence[Context],
    query: str,
    imports: Collection[str] = (),
    *,
    counts_places: bool = False,
) -> tuple[Brief, ...]:
    """One brief for each context. Reads from disk. `imports` are the packages of the sandbox.

    With `counts_places`, words of the question are counted by the field of the lines that they stand in.
    """
    briefs = (_brief(store, describe(store, context), query, counts_places=counts_places) for context in contexts)
    if "pandas" not in imports:
        return tuple(briefs)
    return tuple(_with_data_frame(brief, store, context) for brief, context in zip(briefs, contexts, strict=True))


def _with_data_frame(brief: Brief, store: Store, context: Context) -> Brief:
    """The brief of a table that says how pandas reads it, from the file in the sandbox."""
    delimiter = _DELIMITERS.get(brief.format.partition(";")[0])
    if delimiter is None or brief.kind != "text":
        return brief
    (file,) = store.files(context)
    given = "" if delimiter == "," else f", sep={delimiter!r}"
    given += ", header=None" if HOW_TO_READ_ROWS[brief.format.partition(";")[0]] in brief.format else ""
    reader = f"pandas.read_csv({f'/context/{context.name}/{file.path}'!r}{given}) gives a DataFrame"
    return replace(brief, format=f"{brief.format}; {reader}")


def brief_of_value(value: object) -> Brief:
    """The brief of a child run's context, which is a value and not stored."""
    chars = chars_of_value(value)
    match value:
        case dict():
            sizes = {str(path): len(_text_of(text)) for path, text in value.items()}
            by_size = sorted(sizes, key=lambda path: sizes[path], reverse=True)
            largest = tuple(f"{path} ({sizes[path]:,} characters)" for path in by_size[:_MOST_LARGEST])
            return Brief(name="context", kind="files", chars=chars, files=len(sizes), largest=largest)
        case list() | tuple():
            kind: Literal["list", "text"] = "list"
            lines = [_text_of(item) for item in value]
        case _:
            kind, lines = "text", split_lines(_text_of(value))
    samples = samples_of(lines)
    return Brief(
        name="context",
        kind=kind,
        chars=chars,
        lines=len(lines),
        samples=samples,
        shapes=shapes_of(lines[:_SHAPED_LINES]),
        is_prose=is_prose(samples),
    )


def chars_of_value(value: object) -> int:
    """Characters of the texts of a child run's context."""
    match value:
        case dict():
            return sum(len(_text_of(text)) for text in value.values())
        case list() | tuple():
            return sum(len(_text_of(item)) for item in value)
    return len(_text_of(value))


def _text_of(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def samples_of(lines: Sequence[str]) -> tuple[str, ...]:
    """First, second, middle and last of the lines that are not blank."""
    full = [line for line in lines if line.strip()]
    wanted = dict.fromkeys((0, 1, len(full) // 2, len(full) - 1))
    return tuple(full[index][:_LINE_CHARS] for index in sorted(wanted) if 0 <= index < len(full))


def is_prose(lines: Sequence[str]) -> bool:
    """Whether most of these lines are sentences, not counting a label such as an id or a date before them."""
    return 0 < 2 * len(lines) < 3 * sum(_is_sentence(line) for line in lines)


def _is_sentence(line: str) -> bool:
    text = line.strip()
    label, colon, rest = text.partition(": ")
    if colon and len(label) <= _LABEL_CHARS:
        text = rest
    plain = len(_OF_SENTENCES.sub("", text))
    return len(text.split()) >= _FEWEST_WORDS and plain <= _OTHER_SHARE * len(text)


def _fields(lines: Sequence[str]) -> tuple[str, ...]:
    """The fields of the first line by split(), if the lines have fields: a small model miscounts them."""
    if is_prose(lines) or len({line.count(" ") > _FEWEST_WORDS for line in lines}) != 1:
        return ()
    fields = lines[0].split()[:_MOST_FIELDS]
    return tuple(field[:_FIELD_CHARS] for field in fields) if len(fields) >= _FEWEST_WORDS else ()


def places_of(words: Sequence[str], lines: Sequence[str]) -> tuple[WordPlace, ...]:
    """Where these words stand in lines with fields: the field in which each stands most often, and how often elsewhere.

    A word in the case of the question comes before the same word in another case.
    """
    folded = [line.casefold() for line in lines]
    found = (_place_of(word, lines, lines) or _place_of(word.casefold(), folded, lines) for word in words)
    return tuple(place for place in found if place is not None)


def _place_of(wanted: str, texts: Sequence[str], lines: Sequence[str]) -> WordPlace | None:
    """The place of a word in the texts, which are the lines or these in small letters."""
    whole = re.compile(rf"(?<![\w-]){re.escape(wanted)}(?![\w-])")
    places: Counter[tuple[int, str]] = Counter()
    holding = 0
    for text, line in zip(texts, lines, strict=True):
        if wanted not in text or whole.search(text) is None:
            continue
        holding += 1
        bare = [field.strip(SIGNS) for field in text.split()]
        if wanted in bare:
            index = bare.index(wanted)
            places[index, line.split()[index]] += 1
    if not places:
        return None
    (index, shown), count = places.most_common(1)[0]
    return WordPlace(word=shown, index=index, lines=count, elsewhere=holding - count)


def window(line: str, words: Sequence[str], chars: int) -> str:
    """The part of a long line that holds most of these words."""
    if len(line) <= chars:
        return line
    folded = line.casefold()
    places = sorted((at.start(), word) for word in words for at in re.finditer(re.escape(word.casefold()), folded))
    before = chars // 3

    def held(place: int) -> int:
        return len({word for at, word in places if place - before <= at < place - before + chars - len(word)})

    best = max((place for place, _ in places), key=held, default=0)
    start = max(0, min(best - before, len(line) - chars))
    return line[start : start + chars]


def format_text(structure: Mapping[str, object]) -> str:
    """The format that `describe` has parsed, the code that reads it, and its columns."""
    found = str(structure.get("format") or "")
    parts = [found] if found not in {"", "text", "files"} else []
    ways = HOW_TO_READ if structure.get("header", True) else HOW_TO_READ_ROWS
    parts += [ways[found]] if found in ways else []
    shape = structure.get("shape")
    if isinstance(shape, dict) or (isinstance(shape, list) and _is_nested(shape)):
        parts[-1] += f" as {_sketch(shape)}"
    elif structure.get("columns"):
        parts += [f"columns: {_short(structure['columns'])}"]
    return ellipsize("; ".join(parts), _MOST_STRUCTURE_CHARS)


def _reading(found: str, text: str, *, has_header: bool) -> str:
    """Code that reads the rows of a table, and the first row: a small model that splits lines by hand miscounts."""
    delimiter = _DELIMITERS.get(found)
    if delimiter is None:
        return ""
    head, first = [*islice(csv.reader(StringIO(text, newline=""), delimiter=delimiter), 2), [], []][:2]
    if not first:
        return ""
    given = ", delimiter='\\t'" if delimiter == "\t" else ""
    reader, row = ("DictReader", dict(zip(head, first, strict=False))) if has_header else ("reader", head)
    return f'rows = list(csv.{reader}(open("context", newline=""){given}))\n# rows[0] is {row}'


def _is_nested(shape: list[object]) -> bool:
    """Whether the first item of a list holds more than plain values."""
    first = shape[-1]
    return isinstance(first, list) or (isinstance(first, dict) and any(not isinstance(v, str) for v in first.values()))


def _sketch(shape: object) -> str:
    """The structure of a JSON value on one line: {"orders": [58 items like {"id": integer}]}."""
    match shape:
        case dict():
            return "{" + ", ".join(f'"{key}": {_sketch(inner)}' for key, inner in shape.items()) + "}"
        case [str(items), inner]:
            return f"[{items} like {_sketch(inner)}]"
    return str(shape)


def structure_text(structure: Mapping[str, object]) -> str:
    """Other facts that `describe` has established, on one line."""
    told = "; ".join(f"{name}: {_short(structure[name])}" for name in _TOLD if structure.get(name))
    return ellipsize(told, _MOST_STRUCTURE_CHARS)


def hits(store: Store, context: Context, query: str) -> tuple[str, ...]:
    """Up to three lines that hold the rarest words of the question, if any of its words is rare."""
    found: Counter[tuple[str, int]] = Counter()
    texts: dict[tuple[str, int], MatchedLine] = {}
    for word in words_of(query):
        try:
            result = search(
                store, context, word, max_matches=_RARE, ignore_case=True, literal=True, seconds=_SEARCH_SECONDS
            )
        except RlmError:
            continue  # a brief without hits is better than no run
        if 0 < result.total <= _RARE:
            whole = [match for match in result.matches if _holds_word(match.text, word)]
            for match in whole or result.matches:
                found[match.path, match.line] += 1_000 // len(whole or result.matches)
                texts[match.path, match.line] = match
    by_text: dict[str, tuple[str, int]] = {}
    for place in sorted(found, key=lambda place: (-found[place], place)):
        by_text.setdefault(texts[place].text, place)
    best = list(by_text.values())[:_MOST_HITS]
    best = [place for place in best if found[place] * _FAR_BEHIND >= found[best[0]]]
    if len(best) == 1 and len(re.findall(r"\w+", texts[best[0]].text)) <= _HEADING_WORDS:
        return _with_lines_below(store, context, texts[best[0]])
    shown = [(texts[place], window(texts[place].text, words_of(query), _HIT_CHARS)) for place in best]
    return tuple(text if context.kind == "text" else f"{match.path}:{match.line}: {text}" for match, text in shown)


def _holds_word(text: str, word: str) -> bool:
    """Whether the word stands by itself in the text: sigma-1 does not in sigma-12."""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text, re.IGNORECASE) is not None


def _with_lines_below(store: Store, context: Context, match: MatchedLine) -> tuple[str, ...]:
    """The lines from `match` on: a short line is often the heading of what was asked for."""
    path = match.path if context.kind == "files" else None
    last = match.line + _LINES_BELOW
    lines = split_lines(store.read_lines(context, match.line, last, path=path, max_chars=_LINE_CHARS).text)
    return tuple(line if path is None else f"{path}:{n}: {line}" for n, line in enumerate(lines, match.line) if line)


def _brief(store: Store, overview: Overview, query: str, *, counts_places: bool) -> Brief:
    context = overview.context
    is_text = context.kind == "text"
    samples = _stored_samples(store, overview) if is_text else _first_lines(overview)
    # What must be fetched first would not be searched in time, and the rest of it be fetched for nothing.
    is_far = has_bucket_scheme(context.source) and not context.exact and context.bytes > _COLD_BYTES
    found = () if is_far else hits(store, context, query)
    if overview.structure.get("format") == "json":  # single lines of printed JSON mean nothing
        samples = (" ".join(overview.head.split()),)
        found = found if context.lines == 1 else ()
    if overview.structure.get("header") and found[:1] == samples[:1]:  # the names of columns, and the first rows
        found = ()
    is_lined = is_text and str(overview.structure.get("format")) in {"text", "log", "json lines"}
    entry = store.file(context) if is_lined else None
    fields = _fields(samples) if str(overview.structure.get("format")) in {"text", "log"} else ()
    places: tuple[WordPlace, ...] = ()
    is_complete = True
    if counts_places and fields and entry is not None:
        sample = take_sample(entry)
        places, is_complete = places_of(words_of(query), sample.lines), sample.whole
    return Brief(
        name=context.name,
        kind=context.kind,
        chars=context.chars,
        lines=context.lines,
        files=context.files,
        format=format_text(overview.structure),
        structure=structure_text(overview.structure),
        samples=samples,
        shapes=_SHAPES(entry) if entry is not None else (),
        beginning=_beginning(overview.head) if entry is not None else (),
        hits=tuple(hit for hit in found if hit[:_SEEN] not in {line[:_SEEN] for line in samples}),
        is_prose=is_prose(samples) and not overview.structure.get("columns"),
        reading=_reading(
            str(overview.structure.get("format")),
            overview.head,
            has_header=bool(overview.structure.get("header", True)),
        ),
        fields=fields,
        places=places,
        are_places_complete=is_complete,
        largest=()
        if is_text
        else tuple(f"{f.path} ({f.lines:,} lines)" for f in overview.largest_files[:_MOST_LARGEST]),
    )


def _stored_samples(store: Store, overview: Overview) -> tuple[str, ...]:
    """First two, middle and last line that are not blank, without loading the text."""
    context: Context = overview.context
    head = [line for line in split_lines(overview.head) if line.strip()]
    if context.lines <= _FEW_LINES:
        return tuple(line[:_LINE_CHARS] for line in head)
    tail = [line for line in split_lines(overview.tail) if line.strip()]
    middle = _middle(store, context) if context.exact else []
    picked = [*head[:2], *[line for line in middle if line.strip()][:1], *tail[-1:]]
    return tuple(line[:_LINE_CHARS] for line in dict.fromkeys(picked))


def _middle(store: Store, context: Context) -> list[str]:
    line = context.lines // 2
    return split_lines(store.read_lines(context, line, line + 2, max_chars=_LINE_CHARS).text)


def _beginning(head: str) -> tuple[str, ...]:
    """The first lines of a text, if some of them are blank or indented, as in records of several lines."""
    lines = split_lines(head)[:_FIRST_LINES]
    is_record = any(not line.strip() or line[0].isspace() for line in lines[1:-1])
    return tuple(lines) if is_record and len(lines) == _FIRST_LINES else ()


def _first_lines(overview: Overview) -> tuple[str, ...]:
    """The first lines of the file that tells most of a context of many files, as `describe` has chosen it."""
    head = [line for line in split_lines(overview.head) if line.strip()]
    return tuple(line[:_LINE_CHARS] for line in head[:_FEW_LINES])


def _shapes_in(entry: FileEntry) -> tuple[LineShape, ...]:
    return shapes_of(take_sample(entry).lines[:_SHAPED_LINES])


_SHAPES = PerText(_shapes_in, most=128)


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

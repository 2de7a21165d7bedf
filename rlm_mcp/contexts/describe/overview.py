"""The overview of a context for a model that has not seen it, bounded in time and size.

All of it is found in the text and nothing is guessed from a name alone. Where it rests on samples, it says so.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rlm_mcp.contexts.describe.logs import describe_log, repeated_lines
from rlm_mcp.contexts.describe.outline import headings, language
from rlm_mcp.contexts.describe.per_text import PerText
from rlm_mcp.contexts.describe.tables import (
    DELIMITERS,
    SAMPLED_LINES,
    count_rows,
    describe_csv,
    describe_json,
    describe_json_lines,
    sampled_rows,
)
from rlm_mcp.contexts.describe.text_sample import TextSample, take_sample
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.text import reading
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.contexts.types import Context, FileEntry

HEAD_CHARS = 1_500
TAIL_CHARS = 800
MAX_TYPES = 15
MAX_LARGEST = 10
MAX_LOOKED_INTO = 6
"""The most files of a context that are described one by one: the largest, starting with one of each type."""

COLOURS = (
    r"lines hold terminal colour codes, which searches and this description leave out; "
    r"code does so with re.sub(r'\x1b\[[0-?]*[ -/]*[@-~]', '', text)"
)
MAX_TREE = 40
COUNTED_BYTES = 16 << 20
"""The rows of a larger table are estimated: counting these takes some tenths of a second."""

FEW_WORDS = 20
"""First words are taken for labels if each begins at least this many lines on average."""
MAX_SKIPPED = 10
KEPT = 256
"""Descriptions of texts that a process caches; each has a few KB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeFile:
    """One of the largest files of a context."""

    path: str
    bytes: int
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The description that the root model gets first. `structure` is JSON; `head` and `tail` are verbatim.

    `tail` is empty for a context of many files, of which `structure` has the tree.
    """

    context: Context
    structure: Mapping[str, object]
    head: str
    tail: str
    largest_files: Sequence[LargeFile]


def describe(store: Store, context: Context, *, seconds: float = 2.0) -> Overview:
    """Describes a context in about `seconds` at most; files for which no time is left are not described one by one."""
    timeout = Timeout(seconds)
    files = store.files(context)
    largest = sorted(files, key=lambda entry: (-entry.bytes, entry.path))
    if context.kind == "text":
        structure = describe_file(files[0])
        first, tail = files[0], _tail(files[0])
    else:
        structure = _describe_files(files, largest, timeout)
        first = next((entry for entry in files if _is_readme(entry.path)), files[0])
        tail = ""
    structure |= _left_out(store, context)
    return Overview(
        context=context,
        structure=structure,
        head=_labelled(context, first, reading.head_of_bytes(first.read, 0, first.bytes, max_chars=HEAD_CHARS)),
        tail=tail,
        largest_files=tuple(
            LargeFile(path=entry.path, bytes=entry.bytes, lines=entry.lines) for entry in largest[:MAX_LARGEST]
        ),
    )


def describe_file(entry: FileEntry) -> dict[str, object]:
    """The description of one text, as JSON. Every run asks for it, so the newest ones are cached."""
    return dict(_DESCRIPTIONS(entry))


def _described(entry: FileEntry) -> Mapping[str, object]:
    sample = take_sample(entry)
    suffix = PurePosixPath(entry.path).suffix.lower()
    described = _format(entry, sample, suffix) or {"format": "text", **_shape_of_lines(sample)}
    described |= headings(sample.head, suffix=suffix, pages=entry.pages)
    if sample.is_coloured:
        described["colours"] = COLOURS
    described["language"] = language(entry.path)
    described["longest_line"] = entry.longest_line or sample.longest_line
    if not sample.whole:
        seen = sum(map(len, sample.lines))
        described["sampled"] = f"{seen:,} of {entry.bytes:,} bytes, from the beginning, the end and places in between"
    return described


_DESCRIPTIONS = PerText(_described, most=KEPT)


def _format(entry: FileEntry, sample: TextSample, suffix: str) -> dict[str, object] | None:
    """The first format that is verified, tried from the strictest on."""
    lines = sample.lines
    if sample.text is not None and (found := describe_json(sample.text)):
        return found
    if found := describe_json_lines(lines):
        return found
    if suffix in {".csv", ".tsv"} and (found := describe_csv(sample.head, suffix=suffix)):
        return found | _row_count(entry, sample, found)
    if found := describe_log(lines, whole=sample.whole):
        return found
    if language(entry.path) in {"plain text", "no suffix", "log"} or suffix in {".tab", ".psv", ".dat", ".data"}:
        return describe_csv(sample.head, suffix=suffix)
    return None


def _row_count(entry: FileEntry, sample: TextSample, table: Mapping[str, object]) -> dict[str, object]:
    """The number of rows, which is that of records and not of lines; in a large file, an estimate from its head."""
    delimiter = next(mark for mark, name in DELIMITERS.items() if name == table["format"])
    header = bool(table["header"])
    if entry.bytes <= COUNTED_BYTES and (counted := count_rows(entry.blob, delimiter)) is not None:
        return {"rows": counted - header}
    read = min(len(sample.head), SAMPLED_LINES)
    rows = len(sampled_rows(sample.head, delimiter))
    if rows == read:
        return {"rows": entry.lines - header}
    return {"rows": round(entry.lines * rows / read) - header, "rows_are": "estimated: some take several lines"}


def _shape_of_lines(sample: TextSample) -> dict[str, object]:
    """The description of a text without a known format: repetitions, and lengths of lines."""
    filled = [line for line in sample.lines if line.strip()]
    if not filled:
        return {"blank": True}
    lengths = sorted(map(len, filled))
    shown = [filled[0], filled[len(filled) // 2], filled[-1]]
    return {
        "median_line_chars": lengths[len(lengths) // 2],
        "blank_lines": f"{1 - len(filled) / len(sample.lines):.0%}",
        "sample_lines": [line[:200] for line in shown],
        **_first_words(filled),
        **repeated_lines(filled),
    }


def _first_words(lines: Sequence[str]) -> dict[str, object]:
    """The first words of the lines, if they are few and repeat as labels do."""
    counts = Counter(line.split(maxsplit=1)[0] for line in lines)
    if not 2 <= len(counts) <= len(lines) / FEW_WORDS:
        return {}
    return {
        "first_words": {"distinct": len(counts), "most_frequent": [word[:60] for word, _ in counts.most_common(12)]}
    }


def _describe_files(files: Sequence[FileEntry], largest: Sequence[FileEntry], timeout: Timeout) -> dict[str, object]:
    types: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for entry in files:
        tally = types[language(entry.path)]
        tally[0] += 1
        tally[1] += entry.bytes
        tally[2] += entry.lines
    ranked = sorted(types.items(), key=lambda item: -item[1][1])
    described: dict[str, object] = {
        "format": "files",
        "file_types": [
            {"type": name, "files": n, "bytes": size, "lines": lines} for name, (n, size, lines) in ranked[:MAX_TYPES]
        ],
        "tree": _tree(files),
        "longest_line": max((entry.longest_line for entry in files), default=0),
    }
    if len(ranked) > MAX_TYPES:
        described["more_types"] = len(ranked) - MAX_TYPES
    looked_into: dict[str, object] = {}
    for entry in _most_informative(largest):
        if timeout.expired:
            break
        looked_into[entry.path] = _brief(describe_file(entry))
    return described | {"looked_into": looked_into}


def _most_informative(largest: Sequence[FileEntry]) -> list[FileEntry]:
    """The files to describe one by one: the largest of each type, then the next largest."""
    first_of_type = {language(entry.path): entry for entry in reversed(largest) if entry.bytes}
    chosen = sorted(first_of_type.values(), key=lambda entry: -entry.bytes)[:MAX_LOOKED_INTO]
    rest = (entry for entry in largest if entry not in chosen and entry.bytes)
    return chosen + [entry for entry, _ in zip(rest, range(MAX_LOOKED_INTO - len(chosen)), strict=False)]


def _brief(described: Mapping[str, object]) -> dict[str, object]:
    """The part of a description that distinguishes one file from the others."""
    kept = {
        key: described[key]
        for key in ("format", "time_format", "first_time", "last_time", "levels", "records", "rows", "colours")
        if key in described
    }
    columns = described.get("columns")
    if isinstance(columns, list):
        kept["columns"] = [column["name"] for column in columns][:20]
    found = described.get("headings")
    if isinstance(found, list):
        kept["headings"] = [heading["text"] for heading in found][:8]
    return kept


def _tree(files: Sequence[FileEntry]) -> list[str]:
    """The upper two levels of directories with file counts and sizes; one level if two would be too long."""
    top: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    below: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for entry in files:
        parts = entry.path.split("/")
        for depth, tally in ((1, top), (2, below)):
            if len(parts) >= depth:
                key = "/".join(parts[:depth]) + ("/" if len(parts) > depth else "")
                tally[key][0] += 1
                tally[key][1] += entry.bytes
    deep = {name: tally for name, tally in below.items() if name.split("/", 1)[0] + "/" in top}
    shown = dict(top) | (deep if len(top) + len(deep) <= MAX_TREE else {})
    lines = [
        f"{name} ({n:,} files, {size:,} bytes)" if name.endswith("/") else f"{name} ({size:,} bytes)"
        for name, (n, size) in sorted(shown.items())
    ]
    return lines if len(lines) <= MAX_TREE else [*lines[:MAX_TREE], f"… and {len(lines) - MAX_TREE:,} more"]


def _left_out(store: Store, context: Context) -> dict[str, object]:
    left_out: dict[str, object] = {}
    if context.notes:
        left_out["notes"] = list(context.notes)
    if context.skipped:
        some = store.skipped(context)[:MAX_SKIPPED]
        left_out["skipped"] = {"count": context.skipped, "some": [f"{item.path}: {item.reason}"[:200] for item in some]}
    return left_out


def _tail(entry: FileEntry) -> str:
    """The end of a file, from the beginning of a line if there is one in it."""
    data = entry.read(max(entry.bytes - 4 * TAIL_CHARS, 0), entry.bytes)
    text = data.decode(errors="ignore")[-TAIL_CHARS:]
    cut = text.find("\n") + 1
    return text[cut:] if 0 < cut < len(text) and len(text) == TAIL_CHARS else text


def _labelled(context: Context, entry: FileEntry, text: str) -> str:
    return text if context.kind == "text" else f"==> {entry.path} <==\n{text}"


def _is_readme(path: str) -> bool:
    return "/" not in path and path.lower().startswith("readme")

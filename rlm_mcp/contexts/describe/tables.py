"""Data with columns: JSON, JSON Lines, CSV and TSV. A format is reported only if the text parses in it."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rlm_mcp.redact import ellipsize

MAX_COLUMNS = 60
MAX_SAMPLES = 3
PARSED_SHARE = 0.95
SAMPLED_LINES = 3_000
MOST_NAME_WORDS = 5
DELIMITERS = {",": "csv", "\t": "tsv", ";": "csv with semicolons", "|": "csv with bars"}
_CUT_OFF = "unexpected end of data"
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)?)?(Z|[+-]\d\d:?\d\d)?|\d\d?[/.]\d\d?[/.]\d{2,4}")


def describe_json(text: str) -> dict[str, object] | None:
    """The description of a text that is one JSON object or array; None if it is not."""
    if text.lstrip()[:1] not in {"{", "["}:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    described: dict[str, object] = {"format": "json", "shape": _shape(value, depth=6)}
    records = value if isinstance(value, list) else next((v for v in value.values() if isinstance(v, list)), [])
    if records and all(isinstance(record, dict) for record in records):
        described |= {"records": len(records), "columns": _columns(records)}
    return described


def describe_json_lines(lines: Sequence[str]) -> dict[str, object] | None:
    """The description of JSON Lines; None if the sampled lines do not parse as objects."""
    filled = [line for line in lines if line.strip()]
    if len(filled) < 2 or not filled[0].lstrip().startswith("{"):
        return None
    records = []
    for line in filled[:: max(len(filled) // 2_000, 1)]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    tried = len(filled[:: max(len(filled) // 2_000, 1)])
    if len(records) < PARSED_SHARE * tried:
        return None
    return {"format": "json lines", "parsed": f"{len(records)} of {tried} sampled lines", "columns": _columns(records)}


def describe_csv(lines: Sequence[str], *, suffix: str) -> dict[str, object] | None:
    """The description of rows with the same number of fields, or None.

    Without the suffix of such a format, there must be a header and every row must have that number.
    """
    telling = suffix in {".csv", ".tsv", ".tab", ".psv"}
    for delimiter, name in DELIMITERS.items():
        rows = sampled_rows(lines, delimiter)
        if len(rows) < (2 if telling else 6):
            continue
        width = len(rows[0])
        fitting = [row for row in rows if len(row) == width]
        # Files of this format that were joined have their header several times.
        header = _is_header([rows[0], *(row for row in rows[1:] if row != rows[0])] if telling else rows)
        if width < 2 or len(fitting) < (PARSED_SHARE if telling else 1) * len(rows) or not (header or telling):
            continue
        names = rows[0] if header else [f"column {at + 1}" for at in range(width)]
        records = [dict(zip(names, row, strict=True)) for row in fitting[1 if header else 0 :]]
        return {
            "format": name,
            "header": header,
            "parsed": f"{len(fitting)} of {len(rows)} sampled rows have {width} fields",
            "columns": _columns(records),
        }
    return None


def count_rows(path: Path, delimiter: str) -> int | None:
    """The number of records of a file of rows, of which one may take several lines; None if a field is too long."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        try:
            return sum(1 for row in csv.reader(_readable(file), delimiter=delimiter) if row)
        except csv.Error:
            return None


def _readable(lines: Iterable[str]) -> Iterator[str]:
    """The lines without what csv takes for an error: carriage returns inside them."""
    return (line.rstrip("\r\n").replace("\r", " ") + "\n" for line in lines)


def sampled_rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The rows of the sampled lines, in which a field may contain line ends; the last one may be cut."""
    rows: list[list[str]] = []
    try:
        rows.extend(filter(None, csv.reader(_readable(lines[:SAMPLED_LINES]), delimiter=delimiter, strict=True)))
    except csv.Error as error:
        return rows if str(error) == _CUT_OFF else []
    return rows


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    first = rows[0]
    if len(set(first)) < len(first) or not all(
        name.strip() and _type(name) == "text" and len(name) <= 60 for name in first
    ):
        return False
    columns = [[row[at] for row in rows[1:] if at < len(row)] for at in range(len(first))]
    return not any(_is_data(name, values) for name, values in zip(first, columns, strict=True))


def _is_data(name: str, values: Sequence[str]) -> bool:
    """Whether the first field of a column is a value like the others: one of them, of their form, or a part of a line.

    Lines of a log with one comma each are rows of two fields, and their first line is no header.
    """
    if name in values:
        return True
    words = len(name.split())
    if words > MOST_NAME_WORDS or (words > 3 and 2 * sum(len(v.split()) > 3 for v in values) > len(values)):
        return True
    form = _form(name)
    return "0" in form and 2 * sum(_form(value) == form for value in values) > len(values)


def _form(text: str) -> str:
    """A text with its numbers as 0 and its words as a."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", text.strip()))


def _columns(records: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Names, types and samples of the columns in order of first appearance, and how often each is filled."""
    names: dict[str, None] = {}
    for record in records:
        names.update(dict.fromkeys(record))
    columns: list[dict[str, object]] = []
    for name in list(names)[:MAX_COLUMNS]:
        values = [record[name] for record in records if record.get(name) not in (None, "")]
        shown = [_short(value) for value in values]
        column: dict[str, object] = {
            "name": str(name)[:100],
            "type": _types(values),
            "samples": list(dict.fromkeys(shown))[:MAX_SAMPLES],
        }
        if len(values) < len(records):
            column["filled"] = f"{len(values)} of {len(records)} sampled"
        if 1 <= len(distinct := set(shown)) <= 12 and len(records) >= 3 * len(distinct):
            column["values"] = sorted(distinct)
            del column["samples"]
        columns.append(column)
    if len(names) > MAX_COLUMNS:
        columns.append({"name": f"and {len(names) - MAX_COLUMNS} more"})
    return columns


def _types(values: Iterable[object]) -> str:
    kinds = sorted({_type(value) for value in values})
    if kinds == ["integer", "number"]:
        return "number"
    return " or ".join(kinds) or "empty"


def _type(value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case list():
            return "array"
        case dict():
            return "object"
        case str() if re.fullmatch(r"[+-]?\d{1,18}", value):
            return "integer"
        case str() if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?", value):
            return "number"
        case str() if _DATE.fullmatch(value):
            return "date"
        case _:
            return "text"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return ellipsize(text, 80)


def _shape(value: object, *, depth: int) -> object:
    """The structure of a value: keys, lengths and types, a few levels deep."""
    match value:
        case dict() if depth and len(value) > 8 and all(isinstance(inner, dict | list) for inner in value.values()):
            key, inner = next(iter(value.items()))  # keyed by id or name: one entry is an example of all
            return {str(key)[:60]: _shape(inner, depth=depth - 1), "…": f"{len(value) - 1} more keys"}
        case dict() if depth:
            shown = {str(key)[:60]: _shape(inner, depth=depth - 1) for key, inner in list(value.items())[:20]}
            return shown | ({"…": f"{len(value) - 20} more keys"} if len(value) > 20 else {})
        case list() if depth and value:
            return [f"{len(value)} items", _shape(value[0], depth=depth - 1)]
        case list() | dict():
            return f"{_type(value)} of {len(value)}"
        case _:
            return "null" if value is None else _type(value)

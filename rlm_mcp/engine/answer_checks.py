"""Checks of an answer by code: reasons to doubt it that the cells of its run and the lines of its contexts show.

None is a proof, and none is put to the model: asked again, a small model sends the same code again. They are told with
the answer, so that whoever reads it knows where to look. No I/O.

    counts     every count is 0 or 1, where the question asks for the most or the fewest, in what the last two cells use
    verdicts   a model said yes, or no, to nearly all texts, could not judge some, or is a small one
    only       the question speaks of one text, and several were found
    filter     the code looks for words that it copied from one of the lines that were shown
    places     a word of the question stands in several places of lines, and the code looks for it anywhere; or the
               answer counts more lines than hold the word
    whole      the answer is the number of all lines or characters
    names      the code of a weak model does not use a name of the question that stands in the lines
    digits     the question asks for so many digits, and the answer has others
    column     the question asks which value of a column, and the answer looks like one of another column
"""

import ast
import re
from collections.abc import Iterator, Sequence

from rlm_mcp.engine.grounding import as_text
from rlm_mcp.engine.prompts import COUNTS, MOST, Brief
from rlm_mcp.engine.reply_parser import parse
from rlm_mcp.redact import ellipsize
from rlm_mcp.repl.types import CellResult

_FEW_TEXTS = 8  # of fewer, all may well have the same label
_NEARLY_ALL = 0.9
_MANY_UNSURE = 0.1
_FEWEST_COUNTS = 3
_COPIED_CHARS = 16  # a shorter literal is a word of the format
_COUNTERS = frozenset({"Counter", "dict", "defaultdict"})
# Code can write notes of its own: numbers in them are bounded, because int() refuses very long ones.
_PICKED = re.compile(
    r"pick asked of each text .*: yes for (?P<yes>\d{1,9}) of (?P<all>\d{1,9})\b"
    r"(?:; (?P<failed>\d{1,9}) could not be judged)?"
)
_CLASSIFIED = re.compile(
    r"classify judged (?P<all>\d[\d,]{0,11}) items(?:; (?P<unsure>\d{1,9}) of them uncertain[^;]*)?"
    r"(?:; (?P<failed>\d{1,9}) without[^;]*)?(?P<same>; all of them )?"
)
_ASKS = re.compile(r"\b(?:llm_query|classify|pick|read|rlm_query)(?:_batched|_async)?\(")
_NAME = re.compile(r"(?<=[a-z] )[A-Z]\w{2,}")
"""A word with a capital letter within a sentence."""
_DIGITS = re.compile(
    r"(?<!\bto )\b(one|two|three|four|five|six|\d) digits?\b(?! (?:after|behind|past)\b)", re.IGNORECASE
)
_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_LONG_ANSWER = 40
_WHICH = re.compile(r"\bwhich (\w+)", re.IGNORECASE)
_ONE = re.compile(r"\b(the only|only one|exactly one|the single|the one (?:that|who|which))\b", re.IGNORECASE)
_LOOKS_FOR = frozenset(
    {"search", "findall", "match", "fullmatch", "finditer", "startswith", "endswith", "count", "find"}
)


def reasons_to_doubt(
    question: str,
    value: object,
    cells: Sequence[CellResult],
    briefs: Sequence[Brief],
    *,
    judged_weakly: bool = False,
    uses_names: bool = False,
) -> Iterator[str]:
    """The reasons, each as a clause. `judged_weakly` says that sub-models are small ones.

    With `uses_names`, code is expected to use the names of the question.
    """
    yield from _of_counts(question, cells)
    yield from _of_verdicts(question, cells, judged_weakly=judged_weakly)
    yield from _of_filters(question, cells, briefs)
    yield from _of_digits(question, value)
    if uses_names:
        yield from _of_names(question, cells, briefs)
    for brief in briefs:
        yield from _of_places(question, value, cells, brief)
        yield from _of_columns(question, value, brief)


def _of_counts(question: str, cells: Sequence[CellResult]) -> Iterator[str]:
    if not MOST.search(question):
        return
    newest = "\n".join(cell.code for cell in cells[-2:])
    for variable in cells[-1].variables if cells else ():
        counts = re.findall(r": (\d+)(?=[,}])", variable.preview)
        are_few = len(counts) >= _FEWEST_COUNTS and set(counts) <= {"0", "1"}
        if variable.type in _COUNTERS and are_few and re.search(rf"\b{re.escape(variable.name)}\b", newest):
            yield f"every count in {variable.name} is 0 or 1"
            return


def _of_verdicts(question: str, cells: Sequence[CellResult], *, judged_weakly: bool) -> Iterator[str]:
    picked = _last(_PICKED, cells)
    if picked is not None:
        yes, total = int(picked["yes"]), int(picked["all"])
        if total >= _FEW_TEXTS and yes >= _NEARLY_ALL * total:
            yield f"a model said yes to {yes} of {total} texts"
        elif total >= _FEW_TEXTS and not yes:
            yield f"a model said no to all {total} texts"
        if _ONE.search(question) and yes > 1:
            yield f"the question speaks of one, and a model said yes to {yes} texts"
    classified = _last(_CLASSIFIED, cells)
    if classified is not None and int(classified["unsure"] or 0) > _MANY_UNSURE * _number(classified["all"]):
        yield f"a model was unsure of {classified['unsure']} of {classified['all']} texts"
    if classified is not None and classified["same"] and _number(classified["all"]) >= _FEW_TEXTS:
        yield f"a model gave all {classified['all']} texts the same label"
    for found in filter(None, (picked, classified)):
        if found["failed"]:
            yield f"{found['failed']} of {found['all']} texts could not be judged"
        if judged_weakly:
            yield f"a small model judged {found['all']} texts, and errs in some"
            return


def _last(pattern: re.Pattern[str], cells: Sequence[CellResult]) -> re.Match[str] | None:
    notes = (note for cell in reversed(cells) for note in reversed(cell.notes))
    return next((found for note in notes if (found := pattern.match(note)) is not None), None)


def _of_filters(question: str, cells: Sequence[CellResult], briefs: Sequence[Brief]) -> Iterator[str]:
    shown = [line for brief in briefs for line in (*brief.samples, *brief.hits)]
    for literal in _sought(cells):
        words = len(literal.split())
        is_long = len(literal) >= _COPIED_CHARS and (words > 2 or any(char.isdigit() for char in literal))
        if is_long and literal.casefold() not in question.casefold() and any(literal in line for line in shown):
            yield f"the code looks for {ellipsize(literal, 60)!r}, which it took from one line"
            return


def _of_names(question: str, cells: Sequence[CellResult], briefs: Sequence[Brief]) -> Iterator[str]:
    code = "\n".join(cell.code for cell in cells).casefold()
    if not code or _ASKS.search(code):
        return
    shown = {word for brief in briefs for line in (*brief.samples, *brief.hits) for word in re.findall(r"\w+", line)}
    for name in _NAME.findall(question):
        if name in shown and name.casefold() not in code:
            yield f"the code does not use {name!r}, which the question names"
            return


def _of_digits(question: str, value: object) -> Iterator[str]:
    if (asked := _DIGITS.search(question)) is None:
        return
    text, count = as_text(value).strip(), _NUMBERS.get(asked[1].casefold(), asked[1])
    if len(text) < _LONG_ANSWER and sum(char.isdigit() for char in text) != int(count):
        yield f"the question asks for {asked[1]} digits"


def _of_columns(question: str, value: object, brief: Brief) -> Iterator[str]:
    if not brief.format.startswith("csv"):
        return
    header, *rows = [sample.split(",") for sample in brief.samples] or [[]]
    asked, rows = _WHICH.search(question), [row for row in rows if len(row) == len(header)]
    if asked is None or asked[1] not in header or not rows:
        return
    text, at = as_text(value).strip(), header.index(asked[1])
    if len(text) >= _LONG_ANSWER:
        return
    form, forms = _form(text), [{_form(row[column]) for row in rows} for column in range(len(header))]
    if form not in forms[at] and any(form in others for others in forms):
        yield f"the question asks which {asked[1]}, such as {rows[0][at]!r}"


def _form(text: str) -> str:
    return re.sub(r"[^\W\d]+", "a", re.sub(r"\d+", "0", text))


def _sought(cells: Sequence[CellResult]) -> Iterator[str]:
    """The texts that the code of the newest two cells compares with or searches for."""
    for cell in cells[-2:]:
        tree = parse(cell.code)
        for node in ast.walk(tree) if tree is not None else ():
            match node:
                case ast.Compare(left=left, comparators=others):
                    yield from _texts([left, *others])
                case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=given) if name in _LOOKS_FOR:
                    yield from _texts(given)


def _texts(nodes: Sequence[ast.expr]) -> Iterator[str]:
    return (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def _of_places(question: str, value: object, cells: Sequence[CellResult], brief: Brief) -> Iterator[str]:
    count = _as_count(value)
    if count is None or not COUNTS.search(question):
        return
    if brief.places and count in {brief.lines, brief.chars}:
        what = "lines" if count == brief.lines else "characters"
        yield f"it is the number of all {what}"
        return
    least = min(brief.places, key=lambda place: place.lines + place.elsewhere, default=None)
    if least is None or not brief.are_places_complete:
        return
    most = least.lines + least.elsewhere
    if count > most:
        yield f"only {most} lines hold {least.word!r}"
    elif least.elsewhere and count == most and any(text == least.word for text in _sought(cells)):
        yield f"{least.word!r} is {least.field} in {least.lines} lines and stands elsewhere in {least.elsewhere} others"
    elif len(brief.places) == 1 and not _groups(cells) and count not in {least.lines, most}:
        yield f"{least.lines} lines have {least.word!r} as {least.field}"


def _groups(cells: Sequence[CellResult]) -> bool:
    """Whether code of the newest two cells makes values distinct, so that it counts something else than lines."""
    return any(re.search(r"\b(set|unique|Counter|defaultdict|groupby)\b", cell.code) for cell in cells[-2:])


def _as_count(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    text = as_text(value).strip()
    return _number(text) if re.fullmatch(r"\d{1,9}|\d{1,3}(,\d{3})+", text) else None


def _number(text: str) -> int:
    return int(text.replace(",", ""))

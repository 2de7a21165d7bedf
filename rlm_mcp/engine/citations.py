"""The evidence of an answer: citations checked against the stored text.

A citation is `verified` if the stored lines hold its quote. A quote found elsewhere is corrected to the place nearest
to the cited one; a quote found nowhere stays in the result, marked. Nothing here trusts what code or a model said.
Terminal colours are left out of quotes and of what they are compared with.

Contexts of more than MOST_CHARS together are never loaded: a quote is looked for around the cited line, then by search,
which may miss a quote far inside a very long line, or one whose blanks differ across line ends. A line ends at a line
feed, as everywhere in the store.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from rlm_mcp.contexts.search import search
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.text.colours import without_colours
from rlm_mcp.contexts.text.lines import split_lines
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.contexts.types import Context, LineRange
from rlm_mcp.engine.coverage import MOST_CHARS
from rlm_mcp.engine.question_words import words_of
from rlm_mcp.errors import OutOfRange, SearchRefused
from rlm_mcp.records.types import Citation
from rlm_mcp.repl.types import RawCitation

_LEAST_QUOTE = 20  # a shorter quote in an answer is a word in quotation marks rather than evidence
_MOST_QUOTES = 50
_MOST_QUOTE_CHARS = 2_000
_MOST_CITED_CHARS = 1_000_000  # of cited lines, in which the quote is looked for
_REACH_CHARS = 200_000  # before and after a line, in which a quote of a large text is looked for
_MOST_SEARCHED = 500  # characters of a quote that are searched for; the rest is compared where they are found
_MOST_PLACES = 50
_SEARCH_SECONDS = 20.0  # for all quotes of a run together
_LEAST_ANSWER, _MOST_ANSWER = 4, 200  # characters of an answer that is looked up by itself
_MOST_LINES = 3

# A quotation holds no opening mark of its kind: otherwise each of many that are never closed would be read to the end.
_QUOTED = re.compile(r'"([^"\n]+)"|“([^“”]+)”|«([^«»]+)»|^>[ \t]?(.+)$', re.MULTILINE)
_BLANKS = re.compile(r"\s+")

Passage = tuple[int, int, str]
"""First line, last line and exact words of a passage."""


def collect_citations(
    store: Store,
    contexts: Sequence[Context],
    raw: Sequence[RawCitation],
    answer: object,
    *,
    query: str = "",
    load_chars: int = MOST_CHARS,
    seconds: float = _SEARCH_SECONDS,
) -> tuple[Citation, ...]:
    """All citations of a run, checked and without duplicates: those that code made and the quotes in the answer.

    Without any, lines count that hold a short answer and a word of the `query`: a word that occurs somewhere is no
    evidence. Contexts of at most `load_chars` characters together are loaded. Quotes that were not looked for within
    `seconds` stay unverified.
    """
    texts = _Texts(store, contexts, load_chars, seconds)
    found = [_check_citation(texts, _without_colours(one)) for one in raw]
    found += [_cite_quote(texts, quote) for quote in quotes_in(answer)]
    if not found and isinstance(answer, str) and texts.are_loadable:
        found = _lines_with(texts, answer.strip(), query)
    return tuple(dict.fromkeys(found))


def quotes_in(answer: object) -> list[str]:
    """The passages in quotation marks or block quotes of an answer, including texts inside objects and lists."""
    # One by one: others run between two matches, and none is looked for after the last that counts.
    found = (match for text in _strings(answer) for match in _QUOTED.finditer(without_colours(text)))
    quotes = ("".join(match.groups("")).strip() for match in found)
    return list(islice((quote for quote in quotes if len(quote) >= _LEAST_QUOTE), _MOST_QUOTES))


def _strings(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for part in value.values():
                yield from _strings(part)
        case list() | tuple():
            for part in value:
                yield from _strings(part)


class _Texts:
    """The stored texts of a run by (context, path): loaded once if they are small together, else read by address."""

    def __init__(self, store: Store, contexts: Sequence[Context], load_chars: int, seconds: float) -> None:
        self._store = store
        self._contexts = contexts
        self._loaded: dict[tuple[str, str], str] = {}
        self._paths: dict[str, list[str]] = {}
        self._by_name: dict[str, dict[str, list[str]]] = {}
        self._timeout = Timeout(seconds)
        self.are_loadable = sum(context.chars for context in contexts) <= load_chars

    def paths(self, context: Context) -> list[str]:
        if context.context_id not in self._paths:
            files = self._store.files(context)
            if self.are_loadable:
                self._store.fetch_ahead(files)
            paths = self._paths[context.context_id] = [entry.path for entry in files]
            by_name = self._by_name[context.context_id] = defaultdict(list)
            for path in paths:
                by_name[path.rpartition("/")[2]].append(path)
        return self._paths[context.context_id]

    def candidates(self, name: str, path: str) -> Iterator[tuple[Context, str]]:
        """The texts that a citation may mean, the likeliest first: the exact path, then paths that end with it."""
        wanted = path.removeprefix("/context/").removeprefix("./").lstrip("/")
        for context in self._contexts:
            if name and name not in {context.context_id, context.name}:
                continue
            paths = self.paths(context)
            local = wanted.removeprefix(f"{context.name}/")
            if len(paths) == 1 and local in {"", context.name, paths[0]}:
                yield context, paths[0]
                continue
            named = self._by_name[context.context_id].get(local.rpartition("/")[2], ())
            yield from ((context, found) for found in named if found == local)
            yield from ((context, found) for found in named if found != local and local and found.endswith("/" + local))

    def every(self) -> Iterator[tuple[Context, str]]:
        for context in self._contexts:
            yield from ((context, path) for path in self.paths(context))

    def text(self, context: Context, path: str) -> str:
        key = (context.context_id, path)
        if key not in self._loaded:
            self._loaded[key] = without_colours(self._store.text(context, path))
        return self._loaded[key]

    def lines(self, context: Context, path: str, start: int, end: int) -> LineRange | None:
        """These lines, or None if the text has no such line."""
        if start < 1:
            return None
        try:
            return self._store.read_lines(context, start, end, path=path, max_chars=_MOST_CITED_CHARS)
        except OutOfRange:
            return None

    def nearest(self, context: Context, path: str, quote: str, line: int) -> Passage | None:
        """The occurrence of a quote in one text nearest to a line."""
        if self._timeout.expired:
            return None
        if self.are_loadable:
            return _nearest(self.text(context, path), quote, line)
        around = self._around(context, path, quote, line)
        return around or next((found for _, found in self._searched(context, path, quote, line)), None)

    def anywhere(self, quote: str) -> tuple[Context, str, Passage] | None:
        """The first place of a quote in any of the texts."""
        for context in self._contexts:
            if self._timeout.expired:
                return None
            if not self.are_loadable:
                for path, found in self._searched(context, None, quote, 1):
                    return context, path, found
                continue
            for path in self.paths(context):
                if (nearest := _nearest(self.text(context, path), quote, 1)) is not None:
                    return context, path, nearest
        return None

    def _around(self, context: Context, path: str, quote: str, line: int) -> Passage | None:
        """The occurrence of a quote nearest to a line, within _REACH_CHARS of it."""
        try:
            at = self._store.locate_line(context, line, path=path).char
        except OutOfRange:
            return None
        reach = _REACH_CHARS + len(quote)
        first = max(at - reach, 0)
        window = self._store.read_chars(context, first, at + reach, path=path)
        above = line - 1 - window.count("\n", 0, at - first)
        nearest = _nearest(without_colours(window), quote, line - above)
        return None if nearest is None else (nearest[0] + above, nearest[1] + above, nearest[2])

    def _searched(self, context: Context, path: str | None, quote: str, line: int) -> Iterator[tuple[str, Passage]]:
        """Occurrences of a quote found by a search for its longest line, first as it is, then with other blanks."""
        part = max(split_lines(quote), key=len, default="").strip()[:_MOST_SEARCHED]
        blank = r"\s+".join(re.escape(word) for word in part.split())
        for pattern, literal in ((part, True), (blank, False)):
            if not pattern or self._timeout.expired:
                return
            try:
                result = search(
                    self._store,
                    context,
                    pattern,
                    path=path,
                    max_matches=_MOST_PLACES,
                    literal=literal,
                    seconds=self._timeout.seconds_left,
                )
            except SearchRefused:  # it holds characters that no stored text has
                return
            for match in sorted(result.matches, key=lambda match: abs(match.line - line)):
                if (found := self._around(context, match.path, quote, match.line)) is not None:
                    yield match.path, found


def _without_colours(raw: RawCitation) -> RawCitation:
    return raw if raw.quote is None else replace(raw, quote=without_colours(raw.quote))


def _check_citation(texts: _Texts, raw: RawCitation) -> Citation:
    """A citation made by code: as it was cited, if it holds in a text that it may mean, else corrected by its quote."""
    if raw.start_line < 1 and raw.quote is not None:  # a quote without a place
        return _cite_quote(texts, raw.quote)
    there = list(texts.candidates(raw.context, raw.path))
    cited_in = [_as_cited(texts, context, path, raw) for context, path in there]
    for at in cited_in:
        if at.verified:
            return at
    if raw.quote is not None:
        for at, (context, path) in zip(cited_in, there, strict=True):
            if (nearest := texts.nearest(context, path, raw.quote, raw.start_line)) is not None:
                first, last, exact = nearest
                return replace(at, start_line=first, end_line=last, quote=exact, verified=True, corrected=True)
        if (elsewhere := _cite_quote(texts, raw.quote)).verified:
            return replace(elsewhere, corrected=True)
    elif cited_in:
        return cited_in[0]
    return Citation(
        context_id=raw.context,
        path=raw.path,
        start_line=raw.start_line,
        end_line=raw.end_line,
        quote=raw.quote or "",
        verified=False,
    )


def _as_cited(texts: _Texts, context: Context, path: str, raw: RawCitation) -> Citation:
    """The citation in one text, verified if it holds there. Without a quote, the cited lines become the quote."""
    start, end = raw.start_line, max(raw.end_line, raw.start_line)
    lines = texts.lines(context, path, start, end)
    here = "" if lines is None else _with_line_feeds(without_colours(lines.text)).removesuffix("\n")
    if raw.quote is None:
        quote, holds = here[:_MOST_QUOTE_CHARS], bool(here)
    else:
        quote, holds = raw.quote, raw.quote.strip() != "" and _with_line_feeds(raw.quote).strip("\n") in here
    return Citation(
        context_id=context.context_id,
        path=path,
        start_line=start,
        end_line=end if lines is None else lines.end_line,
        quote=quote,
        verified=holds,
    )


def _with_line_feeds(text: str) -> str:
    """The text with line feeds as line ends; the store keeps either kind."""
    return text.replace("\r\n", "\n")


def _cite_quote(texts: _Texts, quote: str) -> Citation:
    """The citation of a quote in the answer: where it was found, else unverified and without a place."""
    found = texts.anywhere(quote)
    if found is None:
        return Citation(context_id="", path="", start_line=0, end_line=0, quote=quote, verified=False)
    context, path, (first, last, exact) = found
    return Citation(
        context_id=context.context_id, path=path, start_line=first, end_line=last, quote=exact, verified=True
    )


def _nearest(text: str, quote: str, line: int) -> Passage | None:
    """The occurrence of `quote` nearest to `line`; blanks may differ."""
    exact = quote.strip()
    if not exact:
        return None
    spans = [(at, at + len(exact)) for at in _occurrences(text, exact)] or _spans_with_other_blanks(text, exact)
    if not spans:
        return None
    starts = _line_starts(text)
    first, last = min(spans, key=lambda span: abs(bisect_right(starts, span[0]) - line))
    return bisect_right(starts, first), bisect_right(starts, last - 1), text[first:last]


def _occurrences(text: str, part: str) -> Iterator[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + len(part))


def _spans_with_other_blanks(text: str, quote: str) -> list[tuple[int, int]]:
    """Spans of `quote` if every run of blanks counts as one space; in linear time, unlike a pattern of words."""
    one_space = " ".join(quote.split())
    found = list(_occurrences(_BLANKS.sub(" ", text), one_space))
    if not found:
        return []
    # Position in the text with single spaces -> how many characters of blanks were left out before it.
    positions, left_out = [0], [0]
    for blanks in _BLANKS.finditer(text):
        if (length := blanks.end() - blanks.start()) > 1:
            left_out.append(left_out[-1] + length - 1)
            positions.append(blanks.end() - left_out[-1])
    return [
        (
            at + left_out[bisect_right(positions, at) - 1],
            at + len(one_space) - 1 + left_out[bisect_right(positions, at + len(one_space) - 1) - 1] + 1,
        )
        for at in found
    ]


def _lines_with(texts: _Texts, answer: str, query: str) -> list[Citation]:
    """The lines that hold a short answer and a word of the query, if few enough hold the answer to mean anything."""
    if not _LEAST_ANSWER <= len(answer) <= _MOST_ANSWER or "\n" in answer:
        return []
    asked = {word.casefold() for word in words_of(query)} - {word.casefold() for word in words_of(answer)}
    if not asked:
        return []
    found: list[Citation] = []
    seen = 0
    whole = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)")
    for context, path in texts.every():
        text = texts.text(context, path)
        for match in whole.finditer(text):
            seen += 1
            if seen > _MOST_LINES:
                return []
            line = text.count("\n", 0, match.start()) + 1
            whole_line = text[text.rfind("\n", 0, match.start()) + 1 :].partition("\n")[0].rstrip("\r")
            quote = whole_line[:_MOST_QUOTE_CHARS]
            if not any(word in quote.casefold() for word in asked):
                continue
            found.append(
                Citation(
                    context_id=context.context_id,
                    path=path,
                    start_line=line,
                    end_line=line,
                    quote=quote if answer in quote else answer,
                    verified=True,
                )
            )
    return found


def _line_starts(text: str) -> list[int]:
    return [0, *(found.end() for found in re.finditer(r"\n", text))]

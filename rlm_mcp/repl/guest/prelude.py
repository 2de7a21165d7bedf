"""The names that code in the REPL finds: the context, sub-calls, search, citations and the ways to end a run.

Runs inside the sandbox as a module of its own, outside the user's namespace. The host calls `start` once, `before` and
`after` around every cell. Code may rebind any name; `after` puts the functions back and says so, because small models
tend to define their own `llm_query`. Money is counted on the host: nothing here can spend more than the run may.
"""

import builtins
import csv
import errno
import io
import json
import os
import posix
import re
import sys
import types
from collections import Counter, defaultdict, deque
from collections.abc import KeysView, ValuesView

import conditions
import host
import statements
import subcalls
import texts
import variable_list

import __main__

_encode = json.JSONEncoder().encode  # bound here: code may replace `json.dumps`

MOST_INT_BITS = 14_000
"""Python writes and reads integers of up to 4,300 digits only."""

MOST_REPORTED_BYTES = 30 << 20
MOST_REPORTED_VALUES = 100_000
"""The answer and the citations of a cell as JSON: a longer report would not reach the host at all."""

_IMPORTED = {"Counter": Counter, "csv": csv, "defaultdict": defaultdict, "json": json, "re": re}
"""Names that small models use without importing them."""

INPUT_NAMES = re.compile(r"(?:.*/)?(?:context|input|stdin|data|document|text|file|log)(?:\.\w{1,5})?$")
"""File names under which code that ignores `context` looks for the input."""


class _State:
    """The facts about the current cell, collected for `after`, and the names that `start` has bound."""

    def __init__(self):
        self.final = None
        self.citations = []
        self.notes = []
        self.provided = {}
        self.contexts = []
        self.history = []


_state = _State()


# --- the context


def start(contexts, value, has_value, functions=()):
    """Binds `context` and `contexts` and every function. `value` is the context of a child run.

    `functions` are the names of the caller's functions.
    """
    _state.contexts = contexts
    by_name = {}
    for one in contexts:
        origins = {
            f["path"]: texts.Origin(one["name"], f["path"], f["guest"], f["bytes"], f["chars"], f["lines"], f["exact"])
            for f in one["files"]
        }
        single = one["kind"] == "text" and len(origins) == 1
        by_name[one["name"]] = texts.load(next(iter(origins.values()))) if single else texts.Files(origins)
    if has_value:
        by_name["context"] = value
    context = next(iter(by_name.values())) if len(by_name) == 1 else by_name
    _state.provided = subcalls.own_functions(functions) | {
        "context": context, "contexts": by_name, "history": _state.history,
        "llm_query": subcalls.llm_query, "llm_query_batched": subcalls.llm_query_batched,
        "llm_batch": subcalls.llm_query_batched, "llm_query_async": subcalls.llm_query_async,
        "rlm_query": rlm_query, "rlm_query_batched": rlm_query_batched, "sub_RLM": rlm_query,
        "classify": subcalls.classify, "pick": subcalls.pick, "read": read,
        "show": show, "search": search, "cite": cite, "budget": budget, "SHOW_VARS": SHOW_VARS, "FINAL": FINAL,
        "FINAL_VAR": FINAL_VAR, "SUBMIT": SUBMIT,
    }  # fmt: skip
    vars(__main__).update(_IMPORTED)
    vars(__main__).update(_state.provided)
    __main__.answer = {"content": "", "ready": False}
    variable_list.start()
    builtins.open = io.open = _open


def _main_text():
    """The text that open("context") and input() return: the only one, or all joined."""
    context = _state.provided["context"]
    if isinstance(context, str | texts.BigText):
        return context
    if isinstance(context, dict):
        return "\n".join(str(text) for text in context.values())
    return json.dumps(context, default=str)


def _as_file(text, newline):
    if isinstance(text, texts.BigText):
        return text.origin.open(newline)
    if isinstance(text, texts.Text):
        text.origin.note()
    return io.StringIO(str(text), newline=newline)


class _Reader(io.TextIOBase):
    """The context as a file, opened when it is first read."""

    def __init__(self, newline="\n"):
        self._file = None
        self._newline = newline

    def _opened(self):
        if self._file is None:
            self._file = _as_file(_main_text(), self._newline)
        return self._file

    def readable(self):
        return True

    def read(self, size=-1):
        return self._opened().read(size)

    def readline(self, size=-1):
        return self._opened().readline(size)

    def __iter__(self):
        return self._opened()


def _open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):  # noqa: FBT002 - as open
    """The built-in open, which also gives the context to code that looks for it in a file.

    A file of a context is read as its text is: no line ends are translated, and only `\\n` ends a line.
    """
    if newline is None and "b" not in mode and str(file).startswith("/context/"):
        newline = "\n"
    try:
        return texts.REAL_OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
    except FileNotFoundError:
        if not isinstance(file, str) or "r" not in mode or "+" in mode:
            raise
        context = _state.provided["context"]
        if isinstance(context, texts.Files) and file in context:
            found = context[file]
        elif INPUT_NAMES.match(file) or any(file.endswith(one["name"]) for one in _state.contexts):
            found = None
        else:
            raise FileNotFoundError(f"no file {file!r}: the input is in the variable `context`") from None
        newline = "\n" if newline is None else newline
        reader = _Reader(newline) if found is None else _as_file(found, newline)
        return io.BytesIO(reader.read().encode("utf-8", "surrogateescape")) if "b" in mode else reader


def _system(_command):
    """`os.system` and `posix.system`, which would return -1 without a word."""
    raise OSError(errno.ENOTSUP, f"{sys.platform} does not support processes.")  # as `subprocess` says it


os.system = posix.system = _system


# --- around a cell


def before(code):
    """Prepares a cell; returns the code to run instead of `code`, with the same number of lines."""
    _state.final = None
    _state.citations = []
    _state.notes = []
    subcalls.notes.clear()
    texts.reads.clear()
    sys.stdin = _Reader()
    _provide_again()
    variable_list.mark_all()
    conditions.code = _without_harmful_statements(code)
    return conditions.code


def after(stdout, with_variables=True):  # noqa: FBT002 - the host calls it by position
    """The report on the cell: the final answer, citations, notes, reads and variables, as JSON values."""
    _take_assigned_final()
    _provide_again()
    answer = vars(__main__).get("answer")
    if _state.final is None and isinstance(answer, dict) and answer.get("ready"):
        _state.final = {"value": _json(answer.get("content")), "via": "answer"}
        answer["ready"] = False
    _fit_into_report()
    variables, changed = variable_list.report() if with_variables else ([], [])
    _state.history.append(stdout)
    return {
        "final": _state.final,
        "citations": _state.citations,
        "notes": list(dict.fromkeys(_state.notes + subcalls.notes)),
        "reads": [list(read) for read in texts.reads],
        "variables": variables,
        "changed": changed,
    }


def _provide_again():
    """Puts back the functions that the cell has bound to something else, and says so."""
    space = vars(__main__)
    for name, value in _state.provided.items():
        if space.get(name) is not value and name != "context":
            space[name] = value
            _state.notes.append(f"`{name}` is provided; what you bound to this name was dropped after this block.")


def _take_assigned_final():
    """`FINAL = value` ends the run like FINAL(value)."""
    value = vars(__main__).get("FINAL")
    if _state.final is None and value is not None and not callable(value):
        FINAL(value)
        vars(__main__)["FINAL"] = FINAL


def _fit_into_report():
    """Leaves out an answer, and then citations, that are too long for the report."""
    bytes_left, values_left = MOST_REPORTED_BYTES, MOST_REPORTED_VALUES
    if _state.final is not None:
        size, values = len(_encode(_state.final["value"])), _values_in(_state.final["value"])
        if size > bytes_left or values > values_left:
            much = f"has {size:,} bytes as JSON, more than {bytes_left:,}"
            many = f"holds {values:,} values, more than {values_left:,}"
            _state.final = None
            _state.notes.insert(
                0,
                f"The answer was not taken: it {much if size > bytes_left else many}. Call FINAL with a shorter"
                f" value{'.' if size > bytes_left else ', or with its text.'}",
            )
        else:
            bytes_left, values_left = bytes_left - size, values_left - values
    for number, citation in enumerate(_state.citations):
        bytes_left -= len(_encode(citation))
        values_left -= _values_in(citation)
        if bytes_left < 0 or values_left < 0:
            _state.notes.insert(
                0,
                f"Only the first {number:,} of {len(_state.citations):,} citations of this block were taken: together"
                " they are too long. Cite fewer or shorter quotes.",
            )
            del _state.citations[number:]
            return


def _values_in(value):
    """How many values a JSON value consists of."""
    if isinstance(value, dict):
        return 1 + sum(map(_values_in, value.values()))
    return 1 + sum(map(_values_in, value)) if isinstance(value, list) else 1


def _without_harmful_statements(code):
    """`code` without the statements that `statements` drops. Notes them, and that all of `context` is read, if so."""
    kept, notes, passes_context = statements.without_harmful(code)
    _state.notes += notes
    context = _state.provided["context"]
    if passes_context and isinstance(context, texts.Text):
        context.origin.note()
    return kept


# --- variables


class Shown(str):
    """A text whose repr is the text itself, so that a bare expression shows it line by line."""

    __slots__ = ()

    def __repr__(self):
        return str.__str__(self)


def SHOW_VARS():
    """All variables, one a line."""
    rows = [
        f"{v['name']}: {v['type']}" + (f"[{v['size']}]" if v["size"] is not None else "")
        for v in variable_list.all_variables()
    ]
    return Shown("\n".join(rows) or "no variables yet")


PAGE_CHARS = 11_500
"""Characters that `show` prints: a root model is shown so many of one output uncut."""


def show(value, start=0, chars=PAGE_CHARS):
    """Prints a value from a character on, as much as is shown at once, and says where it goes on."""
    text = value if isinstance(value, str | texts.BigText) else _json_text(value)
    start = max(0, int(start))
    end = min(len(text), start + max(1, min(int(chars), PAGE_CHARS)))
    print(text[start:end])
    if start or end < len(text):
        rest = f"; show(…, {end}) goes on" if end < len(text) else ""
        print(f"[characters {start:,} to {end:,} of {len(text):,}{rest}]")


def _json_text(value):
    """A list line by line, anything else by repr."""
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else repr(value)


# --- child runs, and reading


class QuotedNote(subcalls.Fields):
    """A finding of a child run: .note, the .quote that it rests on, and .verified: whether its text holds the quote."""

    __slots__ = ()

    def __repr__(self):
        return f"{self['note']} (it says: {self['quote']})" if self["quote"] else self["note"]


def rlm_query(query, context=None, *_, notes=False):
    """Makes a whole run like this one over `context`, for a part that is itself too long for one prompt.

    With `notes` the answer is a list of notes, whose verified quotes count as cited.
    """
    answer = subcalls.ask("rlm_query", **_child_query(query, context, notes=notes))
    return _cited_notes(answer) if notes else answer


def rlm_query_batched(pairs, contexts=None, *, notes=False):
    """Makes many such runs in parallel: (query, context) pairs, or queries and contexts as two lists."""
    if contexts is not None:
        pairs = list(zip(pairs, contexts, strict=True))
    pairs = [(pair, None) if isinstance(pair, str) else (pair[0], pair[1]) for pair in pairs]
    answers = subcalls.ask_all("rlm_query", [_child_query(*pair, notes=notes) for pair in pairs])
    return [_cited_notes(answer) if notes and isinstance(answer, list) else answer for answer in answers]


def _child_query(query, context, *, notes):
    asked = {"query": subcalls.as_text(query), "context": _json(_given(context))}
    return asked | {"notes": True} if notes else asked


def _cited_notes(answer):
    """The notes of a child run, whose verified quotes are cited without a place: the host finds it."""
    notes = [QuotedNote(note) for note in answer]
    _state.citations.extend(
        {"context": "", "path": "", "start_line": 0, "end_line": 0, "quote": note["quote"][:4_000]}
        for note in notes
        if note["verified"]
    )
    return notes


def _given(context):
    return _state.provided["context"] if context is None else context


def read(question, text=None, *, model=None):
    """Lets a sub-model read a text in pieces: what it finds, the best first, each with a quote that is in the text."""
    return subcalls.read(question, _main_text() if text is None else text, model=model)


def budget():
    """The rest of the limits of the run; None where there is no limit."""
    return host.call("budget")


# --- searching and citing


class Match(subcalls.Fields):
    """One matching line: .path, .line, .text, also as keys."""

    __slots__ = ()

    def __repr__(self):
        return f"{self['path']}:{self['line']}: {self['text']}"


class Matches(list):
    """Matching lines; `.total` also counts those that were not returned."""

    total = 0


def search(
    pattern,
    path=None,
    max_matches=10_000,
    *,
    context=None,
    context_lines=0,
    ignore_case=False,
    literal=False,
    chars=None,
):
    """Finds lines that match a regex, at the speed of the host. A compiled pattern is accepted too.

    `chars` keeps so many characters of each line, around its match.
    """
    if isinstance(pattern, re.Pattern):
        ignore_case = ignore_case or bool(pattern.flags & re.IGNORECASE)
        pattern = pattern.pattern
    # models often use the argument order of re.search: search(pattern, context, re.IGNORECASE)
    for given in (path, max_matches):
        ignore_case = ignore_case or (isinstance(given, re.RegexFlag) and bool(given & re.IGNORECASE))
    if not isinstance(path, str) or path == _state.provided["context"] or "\n" in path:
        path = None
    if isinstance(max_matches, re.RegexFlag) or not isinstance(max_matches, int):
        max_matches = 10_000
    flags = {"ignore_case": bool(ignore_case), "literal": bool(literal)}
    if not _state.contexts:
        found = _search_value(pattern, max_matches, **flags)
    else:
        found = _search_contexts(pattern, path, int(max_matches), int(context_lines), context, **flags)
    return found if chars is None else _around(found, pattern, max(1, int(chars)), **flags)


def _places(path):
    """The names of the contexts to search, and the file in them. The name of a context may stand for its files."""
    names = [one["name"] for one in _state.contexts]
    if path is None or len(names) == 1:
        return names, path
    having = [one["name"] for one in _state.contexts if any(file["path"] == path for file in one["files"])]
    return ([path], None) if not having and path in names else (having or names, path)


def _search_contexts(pattern, path, max_matches, context_lines, context, *, ignore_case, literal):
    """Searches stored contexts, or the one of a name, on the host."""
    names = [one["name"] for one in _state.contexts]
    found = Matches()
    searched, path = _places(path) if context is None else ([context], path)
    for name in searched:
        reply = host.call("search", pattern, name, path, max_matches, context_lines, ignore_case, literal)
        for match in reply["matches"]:
            found.append(Match(match, context=name) if len(names) > 1 else Match(match))
        found.total += reply["total"]
        for one in _state.contexts:
            if one["name"] == name:
                for file in one["files"]:
                    if path is None or file["path"] == path:
                        texts.note(name, file["path"], 0, file["chars" if file["exact"] else "bytes"])
    return found


def _around(found, pattern, chars, *, ignore_case, literal):
    """The matches with no more of each line than so many characters around the match."""
    try:
        regex = re.compile(re.escape(pattern) if literal else pattern, re.IGNORECASE if ignore_case else 0)
    except re.error:  # the host knows other expressions too
        regex = re.compile("")
    for match in found:
        text = match["text"]
        at = regex.search(text)
        start = max(0, min((at.start() if at else 0) - chars // 3, len(text) - chars))
        match["text"] = text[start : start + chars]
    return found


def _search_value(pattern, max_matches, *, ignore_case, literal):
    """Searches the value of a child run, in the guest."""
    regex = re.compile(re.escape(pattern) if literal else pattern, re.IGNORECASE if ignore_case else 0)
    value = _state.provided["context"]
    parts = value.items() if isinstance(value, dict) else [("context", value)]
    found = Matches()
    for path, text in parts:
        lines = [subcalls.as_text(one) for one in text] if isinstance(text, list) else str(text).split("\n")
        for number, line in enumerate(lines, 1):
            if regex.search(line):
                found.total += 1
                if len(found) < max_matches:
                    found.append(Match(path=path, line=number, text=line))
    return found


def cite(path="", start_line=None, end_line=None, quote=None, context=None):
    """Cites evidence for the answer: lines of a file, and words in them. The host verifies it."""
    if isinstance(path, Match):
        path, start_line, quote = path["path"], path["line"], quote or path["text"]
    if isinstance(path, int):
        path, start_line, end_line, quote = "", path, start_line, end_line if quote is None else quote
    if isinstance(end_line, str):
        end_line, quote = None, end_line
    first = int(start_line or 1)
    last = first if end_line is None else int(end_line)
    name = context or (_state.contexts[0]["name"] if len(_state.contexts) == 1 else "")
    files = [file["path"] for one in _state.contexts if one["name"] == name for file in one["files"]]
    if len(files) == 1:
        path = files[0]
    _state.citations.append(
        {
            "context": str(name), "path": str(path), "start_line": first, "end_line": last,
            "quote": None if quote is None else str(quote)[:4_000],
        }
    )  # fmt: skip
    return f"{path or name}:{first}" + (f"-{last}" if last != first else "")


# --- ending


def FINAL(*values):
    """Ends the run with this value when the cell is done."""
    value = values[0] if len(values) == 1 else list(values)
    _state.final = {"value": _json(value), "via": "FINAL"}


def FINAL_VAR(name):
    """Ends the run with the value of a variable."""
    value = name
    if isinstance(name, str) and name.strip("`'\" ").isidentifier():
        name = name.strip("`'\" ")
        if name not in vars(__main__):
            known = ", ".join(variable["name"] for variable in variable_list.all_variables())
            raise NameError(f"there is no variable {name!r}; there are: {known}")
        value = vars(__main__)[name]
    _state.final = {"value": _json(value), "via": "FINAL_VAR"}


def SUBMIT(*values, **fields):
    """Ends the run with a value, or with an object of the given fields."""
    if fields and not values:
        value = next(iter(fields.values())) if list(fields) == ["answer"] else fields
    else:
        value = values[0] if len(values) == 1 else list(values)
    _state.final = {"value": _json(value), "via": "SUBMIT"}


def _json(value, depth=0):
    """`value` as JSON: texts and files of the context as plain text, sets as lists, other objects as their str()."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if int.bit_length(value) < MOST_INT_BITS else _digits(value)
    if isinstance(value, float):
        return float(value) if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, texts.BigText) or depth > 50:
        return str(value)
    if isinstance(value, dict):
        return {k if type(k) is str else str(k): _json(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json(v, depth + 1) for v in value]
    if isinstance(value, set | frozenset):
        return sorted((_json(v, depth + 1) for v in value), key=str)
    if hasattr(value, "items") and callable(value.items):
        return {str(k): _json(v, depth + 1) for k, v in value.items()}
    if isinstance(value, types.GeneratorType | map | filter | range | KeysView | ValuesView | deque):
        return [_json(v, depth + 1) for v in value]
    return str(value)


def _digits(value):
    """A longer integer as text."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return str(int(value))
    finally:
        sys.set_int_max_str_digits(limit)

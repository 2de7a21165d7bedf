"""The functions of the host that code in a session may call, by name.

Every argument comes from outside and is checked here. `llm_query`, `rlm_query` and `budget` are answered by the run, on
the event loop; the others read the contexts on the thread of the session.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from rlm_mcp.contexts.search import search
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.contexts.types import Context
from rlm_mcp.errors import RlmError
from rlm_mcp.repl.call_queue import CallHandoff
from rlm_mcp.repl.types import ExpectedQuery, GuestCalls

if TYPE_CHECKING:
    from wasm_runtime import ExpectedCall, Foresight

SEARCH_MATCHES = 10_000
"""The most lines that one search returns to the guest."""

SEARCH_CONTEXT_LINES = 50

READ_CHARS = 4 << 20
"""The most characters that one call reads. The prelude reads longer texts in parts of this size."""

SEARCH_SECONDS = 10.0

FETCHING_SECONDS = 30.0
"""How long code waits for files that its search has to fetch, where the cell has so much time."""

MOST_VOTES = 9
"""Judgements of one text that a call of classify may ask for."""

BUDGET_SECONDS = 1.0
"""How long the event loop may take to answer what is left of the budget."""

CALLS_AT_ONCE = 256
"""Sub-calls of one REPL that are in flight, as many as a provider is ever sent. The rest of a batch waits as futures:
it neither crowds out the calls of other runs nor fills memory with tasks."""

_ASKING = {
    "llm_query": frozenset({"prompt", "material"}),
    "rlm_query": frozenset({"query", "context"}),
    "classify": frozenset({"items"}),
}
"""The functions that wait for a model, and their arguments that do not change what kind of answer it gives."""

# Not `budget`: what it tells changes with every answer, and with what is asked ahead.
READING = frozenset({"search", "read_chars", "read_lines", "measure_text"})
"""The functions that only read the contexts."""

HostCall = Callable[..., Any]

_T = TypeVar("_T")


def host_calls(
    store: Store, contexts: Sequence[Context], calls: GuestCalls, handoff: CallHandoff
) -> dict[str, HostCall]:
    """The functions for a session over these contexts, whose run answers `calls`."""
    return _run_calls(calls, handoff) | _context_calls(store, contexts)


def reading_calls(store: Store, contexts: Sequence[Context]) -> dict[str, HostCall]:
    """The functions for a copy of a session whose run is played elsewhere: those of the run are not answered here."""
    return dict.fromkeys(_ANSWERED_BY_RUN, _refuse_elsewhere) | _context_calls(store, contexts)


_ANSWERED_BY_RUN = ("llm_query", "classify", "call_function", "rlm_query", "budget")


def _refuse_elsewhere(*_: object, **__: object) -> Any:
    raise call_refused("a copy of a session in another process makes no calls")


def foresight(calls: GuestCalls, handoff: CallHandoff) -> "Foresight":
    """Tells the run what its code will probably ask, while that waits for an answer."""
    from wasm_runtime import Foresight

    def expect(expected: "Sequence[ExpectedCall]") -> None:
        # What comes after a classification is not looked at: what that will cost is not known.
        known = itertools.takewhile(lambda call: call.name != "classify", expected)
        queries = [query for call in known if (query := _expected_query(call)) is not None]
        handoff.submit(lambda: calls.expect(queries, handoff.start))

    return Foresight(functions=_ASKING, readers=READING, expect=expect, rehearse="subcalls:rehearse")


def _expected_query(call: "ExpectedCall") -> ExpectedQuery | None:
    """The call, or None if the function would refuse its arguments."""
    given = call.kwargs
    match call.name:
        case "llm_query":
            arguments = {name: given.get(name) for name in ("prompt", "model", "schema", "material")}
            sound = isinstance(given.get("prompt"), str) and all(
                isinstance(arguments[name], str | None) for name in ("model", "material")
            )
        case _:
            arguments = {name: given.get(name) for name in ("query", "context")} | {"notes": given.get("notes") is True}
            sound = isinstance(given.get("query"), str)
    if not sound or call.args or given.keys() - arguments.keys():
        return None
    return ExpectedQuery(
        function="llm_query" if call.name == "llm_query" else "rlm_query",
        arguments=arguments,
        is_certain=call.is_certain,
        is_conditional=call.is_conditional,
        answer=call.answer,
    )


def _run_calls(calls: GuestCalls, handoff: CallHandoff) -> dict[str, HostCall]:
    from wasm_runtime import Starts

    queue = handoff.make_queue(CALLS_AT_ONCE)

    def llm_query(prompt: object, model: object = None, schema: object = None, material: object = None) -> Any:
        if not isinstance(prompt, str) or not isinstance(model, str | None) or not isinstance(material, str | None):
            raise call_refused("llm_query takes a prompt, and optionally model= and schema=")
        query = partial(calls.llm_query, prompt, model=model, schema=schema, material=material)
        return handoff.submit(partial(_await_call, query), queue)

    def classify(items: object, question: object, labels: object, options: object) -> Any:
        if not isinstance(question, str) or not isinstance(options, Mapping):
            raise call_refused("classify takes items, a question and labels")
        judge = partial(calls.classify, _texts(items), question, _texts(labels), **_classify_options(options))
        # Not in the queue, which bounds the calls of a batch: this is one call, and its packs are few.
        return handoff.submit(partial(_await_call, judge))

    def call_function(function: object, args: object, kwargs: object) -> Any:
        if not isinstance(function, str) or not isinstance(args, list) or not isinstance(kwargs, dict):
            raise call_refused("a function is called with JSON values")
        return handoff.submit(partial(_await_call, partial(calls.call_function, function, args, kwargs)), queue)

    def rlm_query(query: object, context: object, *, notes: object = False) -> Any:
        if not isinstance(query, str):
            raise call_refused("rlm_query takes a query and a context")
        # Not in the queue: a child run waits for its own sub-calls.
        return handoff.submit(partial(_await_call, partial(calls.rlm_query, query, context, notes=notes is True)))

    def budget() -> Any:
        # Waited for on this thread, and so in the time of the cell: asked in a loop it would otherwise be free.
        try:
            return handoff.submit(calls.budget).result(BUDGET_SECONDS)
        except TimeoutError as error:
            raise call_refused("the server is too busy to tell the budget: ask again later") from error

    return {
        "llm_query": Starts(llm_query, at_once=CALLS_AT_ONCE),
        "classify": Starts(classify, at_once=CALLS_AT_ONCE),
        "call_function": Starts(call_function, at_once=CALLS_AT_ONCE),
        "rlm_query": Starts(rlm_query, at_once=CALLS_AT_ONCE),
        "budget": budget,
    }


def _context_calls(store: Store, contexts: Sequence[Context]) -> dict[str, HostCall]:
    from wasm_runtime import Timed

    by_name = {context.name: context for context in contexts}

    def search_context(
        pattern: object,
        name: object,
        path: object,
        max_matches: object,
        context_lines: object,
        ignore_case: object,
        literal: object,
        *,
        seconds_left: float,
    ) -> Any:
        if not (isinstance(pattern, str) and isinstance(path, str | None)):
            raise call_refused("search takes a pattern as text")
        looked_for = partial(
            search,
            store,
            _context_named(by_name, name),
            pattern,
            path=path,
            max_matches=min(max(_integer(max_matches), 1), SEARCH_MATCHES),
            context_lines=min(max(_integer(context_lines), 0), SEARCH_CONTEXT_LINES),
            ignore_case=bool(ignore_case),
            literal=bool(literal),
            seconds=SEARCH_SECONDS,
        )
        timeout = Timeout(min(FETCHING_SECONDS, seconds_left) - SEARCH_SECONDS)
        found = _call(looked_for, total_seconds=seconds_left)
        while found.unfetched and not timeout.expired:
            found = _call(looked_for, total_seconds=SEARCH_SECONDS)
        if found.unfetched:  # code would take what was found for all there is
            raise call_refused(
                f"some files ({found.unfetched:,}) could not be fetched in time: call search again, which goes on with"
                " them, or name fewer files with path="
            )
        matches = [{"path": m.path, "line": m.line, "text": m.text} for m in found.matches]
        return {"matches": matches, "total": found.total}

    def read_chars(name: object, path: object, start: object, end: object) -> Any:
        first, stop = _integer(start), _integer(end)
        if stop - first > READ_CHARS:
            raise call_refused(
                f"{stop - first} characters are too many for one call: read at most {READ_CHARS} at once"
            )
        return _call(store.read_chars, _context_named(by_name, name), first, stop, path=str(path))

    def read_lines(name: object, path: object, first: object, last: object) -> Any:
        context, line = _context_named(by_name, name), _integer(first)
        lines = _call(store.read_lines, context, line, _integer(last), path=str(path), max_chars=READ_CHARS)
        start = store.locate_line(context, line, path=str(path)).char
        return {"text": lines.text, "last": lines.end_line, "start": start, "end": start + len(lines.text)}

    def measure_text(name: object, path: object) -> Any:
        counts = _call(store.line_index, _context_named(by_name, name), str(path)).counts
        return {"chars": counts.chars, "lines": counts.lines}

    return {
        "search": Timed(search_context),
        "read_chars": read_chars,
        "read_lines": read_lines,
        "measure_text": measure_text,
    }


def call_refused(text: str) -> Exception:
    """The exception whose text the guest may read; of any other the guest learns only that the call failed."""
    from wasm_runtime import CallRefused

    return CallRefused(text)


def _call(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    """Calls a function of the host; the guest may read its errors."""
    try:
        return function(*args, **kwargs)
    except RlmError as error:
        raise call_refused(str(error)) from error


async def _await_call(function: Callable[[], Any]) -> object:
    """The same for an async function."""
    try:
        return await function()
    except RlmError as error:
        raise call_refused(str(error)) from error


def _context_named(by_name: Mapping[str, Context], name: object) -> Context:
    if not isinstance(name, str) or name not in by_name:
        raise call_refused(f"there is no context {name!r} here; there are: {', '.join(by_name)}")
    return by_name[name]


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise call_refused("classify takes lists of texts")
    return tuple(value)


def _classify_options(options: Mapping[str, object]) -> dict[str, Any]:
    """The options of classify, checked; those that are unknown are left out."""
    model, batch, examples = options.get("model"), options.get("batch"), options.get("examples", [])
    if not isinstance(model, str | None) or not isinstance(examples, list):
        raise call_refused("classify takes model= as a name and examples= as pairs of an item and its label")
    return {
        "model": model,
        "batch": None if batch is None else max(1, _integer(batch)),
        "votes": min(max(_integer(options.get("votes", 1)), 1), MOST_VOTES),
        "examples": tuple((str(item), str(label)) for item, label in examples),
        "one_by_one": options.get("one_by_one") is True,
    }


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise call_refused(f"{value!r} is not a whole number")
    return value

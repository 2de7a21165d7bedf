"""Stored things as tool results: contexts, what an inspection saw, runs. Pure; sizes are cut here and nowhere else."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from mcp_types import CallToolResult

from rlm_mcp.contexts.describe.overview import Overview
from rlm_mcp.contexts.search import SearchResult
from rlm_mcp.contexts.types import Context, LineRange, Page
from rlm_mcp.engine.router import Estimate
from rlm_mcp.records.types import RunState
from rlm_mcp.repl.types import CellResult
from rlm_mcp.server.results import (
    PAGE_CHARS,
    Citation,
    ContextPage,
    ContextResult,
    Coverage,
    EstimateFacts,
    InspectResult,
    RunResult,
    SolveResult,
    Usage,
    cut,
    head_and_tail,
    json_length,
    send,
)
from rlm_mcp.workspace.change_feed import run_uri

CITATION_CHARS = 6_000
"""All citations of one result together; the rest are in the run's resource."""

PIECE_CHARS = 2_000
"""Head and tail of an overview, one traceback: enough to see the shape, not to read by."""


def context_result(context: Context) -> ContextResult:
    """A context as the contract shows it."""
    return ContextResult.model_validate(context, from_attributes=True)


def context_page(page: Page) -> ContextPage:
    """A page of `list_contexts`."""
    return ContextPage(
        contexts=[context_result(context) for context in page.contexts], total=page.total, next_cursor=page.next_cursor
    )


def overview_result(context: Context, overview: Overview) -> CallToolResult:
    """The context and what it is made of."""
    return _inspected(
        "overview",
        context,
        **context_result(context).model_dump(),
        structure=overview.structure,
        head=head_and_tail(overview.head, PIECE_CHARS * 2),
        tail=head_and_tail(overview.tail, PIECE_CHARS * 2),
        largest_files=[asdict(file) for file in overview.largest_files],
    )


def read_result(context: Context, lines: LineRange) -> CallToolResult:
    """Some lines of a file, and where to read on."""
    return _inspected("read", context, **asdict(lines))


def search_result(context: Context, found: SearchResult) -> CallToolResult:
    """The matches that fit into one result."""
    rows = [
        {"path": m.path, "line": m.line, "text": m.text} | ({} if m.is_match else {"is_match": False})
        for m in found.matches
    ]
    matches = list(_fitting(rows, PAGE_CHARS))
    truncated = found.truncated or len(matches) < len(found.matches)
    return _inspected("search", context, matches=matches, total=found.total, truncated=truncated)


def code_result(context: Context, cell: CellResult) -> CallToolResult:
    """What a cell printed, its value or its exception, and the variables there are now."""
    error = None if cell.error is None else asdict(cell.error)
    if error is not None:
        error |= {"message": cut(error["message"], PIECE_CHARS), "traceback": cut(error["traceback"], PIECE_CHARS)}
    stdout = head_and_tail(cell.stdout, PAGE_CHARS * 2 // 3, true_chars=cell.stdout_chars)
    variables = [{"name": v.name, "type": v.type, "size": v.size, "preview": v.preview[:80]} for v in cell.variables]
    return _inspected(
        "code",
        context,
        stdout=stdout,
        value=None if cell.value is None else head_and_tail(cell.value, PIECE_CHARS * 2),
        error=error,
        truncated=cell.truncated or stdout != cell.stdout,
        stdout_chars=cell.stdout_chars,
        seconds=round(cell.seconds, 3),
        variables=list(_fitting(variables, PIECE_CHARS * 2)),
        **({"notes": [cut(note, PIECE_CHARS) for note in cell.notes[:5]]} if cell.notes else {}),
        **({"message": message} if (message := _cell_message(cell)) else {}),
    )


def run_result(state: RunState, *, message: str = "", offset: int = 0) -> RunResult:
    """A run with one page of its answer, from `offset` on, and what to do next."""
    uri = run_uri(state.run_id)
    answer, answer_chars, truncated = _answer_page(state.answer, offset)
    citations = list(_fitting([_citation(c) for c in state.citations], CITATION_CHARS))
    if truncated and isinstance(answer, str):
        message = f"The answer goes on: rlm_result(run_id={state.run_id!r}, offset={offset + len(answer)}). {message}"
    if len(citations) < len(state.citations):
        message = f"{message} {len(state.citations) - len(citations)} more citations: read {uri}."
    return RunResult(
        run_id=state.run_id,
        status=state.status,
        answer=answer,
        answer_chars=answer_chars,
        truncated=truncated,
        offset=offset,
        stopped_by=state.stopped_by,
        citations=[Citation(**citation) for citation in citations],
        coverage=Coverage.model_validate(state.coverage, from_attributes=True),
        usage=Usage.model_validate(state.usage, from_attributes=True),
        iterations=state.iterations,
        mode=state.mode,
        depth=state.depth,
        trace_uri=f"{uri}/trace",
        message=" ".join(part for part in (state.message, message) if part.strip()).strip(),
    )


def estimate_text(guess: Estimate) -> str:
    """The guess in a sentence."""
    calls, tokens = (f"{low:,} to {high:,}" for low, high in (guess.calls, guess.tokens))
    dollars = "an unknown number of dollars" if guess.usd is None else f"${guess.usd[0]:.4f} to ${guess.usd[1]:.4f}"
    return f"It would probably take {calls} model calls, {tokens} tokens and {dollars}."


def estimate_facts(guess: Estimate) -> EstimateFacts:
    """The same in fields."""
    return EstimateFacts(calls=guess.calls, tokens=guess.tokens, cost_usd=guess.usd, reason=guess.route.reason)


def estimate_result(guess: Estimate) -> CallToolResult:
    """What a run would take, and how to start it."""
    facts = estimate_facts(guess)
    message = f"{estimate_text(guess)} Nothing was started: call rlm_solve without estimate_only to start it."
    result = SolveResult(mode=guess.route.mode, depth=guess.route.depth, estimate=facts, message=message)
    return send(result, only=["run_id", "status", "mode", "depth", "estimate", "message"])


def _answer_page(answer: Any, offset: int) -> tuple[Any, int, bool]:
    """One page, the length of the whole, and whether there is more. An object that fits stays an object."""
    if answer is None:
        return None, 0, False
    text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    if not isinstance(answer, str) and offset == 0 and json_length(text) <= PAGE_CHARS:
        return answer, len(text), False
    page = cut(text[offset:], PAGE_CHARS)
    return page, len(text), offset + len(page) < len(text)


def _citation(citation: Any) -> dict[str, Any]:
    fields = {name: getattr(citation, name) for name in Citation.model_fields}
    return fields | {"quote": None if fields["quote"] is None else cut(fields["quote"], 1_000)}


def _cell_message(cell: CellResult) -> str | None:
    match cell.stopped_by:
        case None:
            return None
        case "deadline":
            kept = "put back to what they were before this cell" if cell.undone else "kept"
            return f"Stopped after {cell.seconds:.0f} s; variables are {kept}. Raise timeout_seconds or do less."
        case "stack" | "trap":
            return "The code broke the interpreter and was undone: variables are as they were before this cell."
        case other:
            return f"The cell was ended by {other}; variables are {'as before the cell' if cell.undone else 'kept'}."


def _fitting(rows: Iterable[dict[str, Any]], limit: int) -> Iterable[dict[str, Any]]:
    """The first rows that together take at most `limit` characters as JSON."""
    used = 0
    for row in rows:
        used += len(json.dumps(row, ensure_ascii=False))
        if used > limit:
            return
        yield row


def _inspected(view: Any, context: Context, **fields: Any) -> CallToolResult:
    named = {"context_id": context.context_id, "name": context.name, "view": view}
    return send(InspectResult(**named | fields), only=[*named, *fields])

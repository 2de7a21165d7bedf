"""Contexts, inspections, runs and estimates as results of tools. Pure; sizes are cut here and nowhere else."""

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter

from rlm_mcp.contexts.describe.overview import Overview
from rlm_mcp.contexts.search import MatchedLine, SearchResult
from rlm_mcp.contexts.types import Context, LineRange, Page
from rlm_mcp.engine.router import Estimate
from rlm_mcp.records.types import Citation, RunState
from rlm_mcp.repl.types import CellResult
from rlm_mcp.server.result_text import PAGE_CHARS, cut, head_and_tail, json_length
from rlm_mcp.server.results import (
    CodeResult,
    ContextPage,
    ContextResult,
    EstimateFacts,
    EstimateResult,
    LinesResult,
    MatchesResult,
    OverviewResult,
    RunResult,
    WireCitation,
)
from rlm_mcp.workspace.change_feed import run_uri
from rlm_mcp.workspace.progress import Progress

CITATION_CHARS = 6_000
"""All citations of one result together; the rest are in the run's resource."""

QUOTE_CHARS = 1_000

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


def overview_result(context: Context, overview: Overview) -> OverviewResult:
    """A context and what it is made of. The tree tells more of many files than the end of the last one."""
    return OverviewResult(
        **context_result(context).model_dump(),
        view="overview",
        structure=dict(overview.structure),
        head=head_and_tail(overview.head, PIECE_CHARS * 2),
        tail="" if context.kind == "files" else head_and_tail(overview.tail, PIECE_CHARS * 2),
        largest_files=[asdict(file) for file in overview.largest_files],
    )


def lines_result(context: Context, lines: LineRange) -> LinesResult:
    """Some lines of a file, and where to read on."""
    return LinesResult(context_id=context.context_id, name=context.name, view="read", **asdict(lines))


def matches_result(context: Context, found: SearchResult) -> MatchesResult:
    """The matches that fit into one result."""
    matches = list(_fitting((_match(match) for match in found.matches), PAGE_CHARS))
    return MatchesResult(
        context_id=context.context_id,
        name=context.name,
        view="search",
        truncated=found.truncated or len(matches) < len(found.matches),
        matches=matches,
        total=found.total,
    )


def _match(match: MatchedLine) -> dict[str, Any]:
    fields = {"path": match.path, "line": match.line, "text": match.text}
    return fields if match.is_match else fields | {"is_match": False}


def code_result(context: Context, cell: CellResult) -> CodeResult:
    """The output of a cell, its value or its exception, and the variables there are now."""
    stdout = head_and_tail(cell.stdout, PAGE_CHARS * 2 // 3, true_chars=cell.stdout_chars)
    variables = [{"name": v.name, "type": v.type, "size": v.size, "preview": v.preview[:80]} for v in cell.variables]
    told: dict[str, Any] = {"notes": [cut(note, PIECE_CHARS) for note in cell.notes[:5]], "message": _ending(cell)}
    return CodeResult(
        context_id=context.context_id,
        name=context.name,
        view="code",
        truncated=cell.truncated or stdout != cell.stdout,
        stdout=stdout,
        value=None if cell.value is None else head_and_tail(cell.value, PIECE_CHARS * 2),
        error=_error(cell),
        stdout_chars=cell.stdout_chars,
        seconds=round(cell.seconds, 3),
        variables=list(_fitting(variables, PIECE_CHARS * 2)),
        **{name: value for name, value in told.items() if value},
    )


def _error(cell: CellResult) -> dict[str, Any] | None:
    if cell.error is None:
        return None
    error = asdict(cell.error)
    return error | {name: cut(error[name], PIECE_CHARS) for name in ("message", "traceback")}


def _ending(cell: CellResult) -> str:
    match cell.stopped_by:
        case None:
            return ""
        case "deadline":
            kept = "put back to what they were before this cell" if cell.undone else "kept"
            return f"Stopped after {cell.seconds:.0f} s; variables are {kept}. Raise timeout_seconds or do less."
        case "stack" | "trap":
            return "The code broke the interpreter and was undone: variables are as they were before this cell."
        case other:
            return f"The cell was ended by {other}; variables are {'as before the cell' if cell.undone else 'kept'}."


def run_result(state: RunState, *, message: str = "", offset: int = 0) -> RunResult:
    """A run with one page of its answer, from `offset` on, and what to do next."""
    uri = run_uri(state.run_id)
    answer, answer_chars, truncated = _answer_page(state.answer, offset)
    citations = _fitting_citations(state.citations)
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
        citations=citations,
        coverage=state.coverage,
        usage=state.usage,
        iterations=state.iterations,
        mode=state.mode,
        depth=state.depth,
        trace_uri=f"{uri}/trace",
        message=" ".join(part for part in (state.message, message) if part.strip()).strip(),
    )


def running_message(state: RunState, progress: Progress | None) -> str:
    """The message of a run that still runs: an honest guess of the time, the next call, and what not to do."""
    next_call = f"Call rlm_result(run_id={state.run_id!r}) to wait on; do not start it again."
    if progress is None:
        return next_call if state.message else f"Still running in another process. {next_call}"
    limit = "" if progress.seconds_left is None else f", at most {progress.seconds_left:.0f} s"
    pace = progress.seconds / max(progress.iteration, 1)
    guess = f"usually done in {max(pace * 2, 5):.0f}-{max(pace * 8, 30):.0f} s more"
    return f"Still running: {progress}; {guess}{limit}. {next_call}"


def _answer_page(answer: Any, offset: int) -> tuple[Any, int, bool]:
    """One page, the length of the whole, and whether there is more. An object that fits stays an object."""
    if answer is None:
        return None, 0, False
    text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    if not isinstance(answer, str) and offset == 0 and json_length(text) <= PAGE_CHARS:
        return answer, len(text), False
    page = cut(text[offset:], PAGE_CHARS)
    return page, len(text), offset + len(page) < len(text)


def _fitting_citations(citations: Iterable[Citation]) -> list[Citation]:
    shortened = [replace(citation, quote=cut(citation.quote, QUOTE_CHARS)) for citation in citations]
    as_sent = TypeAdapter(list[WireCitation]).dump_python(shortened)
    return shortened[: len(list(_fitting(as_sent, CITATION_CHARS)))]


def estimate_text(guess: Estimate) -> str:
    """An estimate as a sentence."""
    calls, tokens = (f"{low:,} to {high:,}" for low, high in (guess.calls, guess.tokens))
    dollars = "an unknown number of dollars" if guess.usd is None else f"${guess.usd[0]:.4f} to ${guess.usd[1]:.4f}"
    return f"It would probably take {calls} model calls, {tokens} tokens and {dollars}."


def estimate_facts(guess: Estimate) -> EstimateFacts:
    """An estimate in fields."""
    return EstimateFacts(calls=guess.calls, tokens=guess.tokens, cost_usd=guess.usd, reason=guess.route.reason)


def estimate_result(guess: Estimate) -> EstimateResult:
    """The probable needs of a run, and how to start it."""
    return EstimateResult(
        run_id="",
        status="estimated",
        mode=guess.route.mode,
        depth=guess.route.depth,
        message=f"{estimate_text(guess)} Nothing was started: call rlm_solve without estimate_only to start it.",
        estimate=estimate_facts(guess),
    )


def _fitting(rows: Iterable[dict[str, Any]], limit: int) -> Iterable[dict[str, Any]]:
    """The first rows that together take at most `limit` characters as JSON."""
    used = 0
    for row in rows:
        used += len(json.dumps(row, ensure_ascii=False))
        if used > limit:
            return
        yield row

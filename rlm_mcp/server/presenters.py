"""Contexts, inspections, runs and estimates as results of tools. Pure; sizes are cut here and nowhere else.

`room` is the size of a whole result as JSON (client_limits.py). The small fields come first, and the one that may be
long gets what they leave.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from rlm_mcp.contexts.describe.overview import Overview
from rlm_mcp.contexts.search import MatchedLine, SearchResult
from rlm_mcp.contexts.types import Context, LineRange, Page
from rlm_mcp.engine.router import Estimate
from rlm_mcp.records.types import Citation, RunState
from rlm_mcp.repl.types import CellResult
from rlm_mcp.server.result_text import (
    RESULT_CHARS,
    cut,
    fields_of,
    fitting,
    head_and_tail,
    json_length,
    shorten,
)
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
    WireResult,
)
from rlm_mcp.workspace.change_feed import run_uri
from rlm_mcp.workspace.progress import Progress

QUOTE_CHARS = 1_000
"""Length of one citation; the rest is in the run's resource."""

PIECE_CHARS = 4_000
"""Head and tail of an overview, the value of a cell: enough to see the shape, not to read by."""

SENTENCE_CHARS = 320
"""Room for the sentences that say what was left out, and for commas and names."""


USUAL_WAIT = 45
"""Seconds that a call waits for a run if its arguments do not say."""


def _room_beside(result: WireResult, room: int) -> int:
    """The room in a result for the field that is still empty."""
    return max(0, room - json_length(fields_of(result)) - SENTENCE_CHARS)


def context_result(context: Context, room: int = RESULT_CHARS) -> ContextResult:
    """A context as the contract shows it."""
    result = ContextResult.model_validate(context, from_attributes=True)
    return result.model_copy(update={"notes": shorten(result.notes, room // 4)}) if result.notes else result


def context_page(page: Page, room: int = RESULT_CHARS) -> ContextPage:
    """A page of `list_contexts`."""
    contexts = [context_result(context, room) for context in page.contexts]
    return ContextPage(contexts=contexts, total=page.total, next_cursor=page.next_cursor)


def count_that_fit(page: Page, room: int) -> int:
    """How many contexts of a page fit into one result; at least one."""
    return max(1, len(fitting((fields_of(context_result(context, room)) for context in page.contexts), room - 200)))


def overview_result(context: Context, overview: Overview, room: int = RESULT_CHARS) -> OverviewResult:
    """A context and what it is made of. The tree tells more of many files than the end of the last one."""
    about = context_result(context, room)
    spare = _room_beside(about, room)
    structure = shorten(dict(overview.structure), spare // 2)
    largest = fitting([asdict(file) for file in overview.largest_files], spare // 8)
    spare -= json_length(structure) + json_length(largest)
    tail = "" if context.kind == "files" else head_and_tail(overview.tail, min(PIECE_CHARS, spare // 3))
    return OverviewResult(
        **about.model_dump(),
        view="overview",
        structure=structure,
        head=head_and_tail(overview.head, min(PIECE_CHARS, spare - json_length(tail))),
        tail=tail,
        largest_files=largest,
    )


def lines_result(context: Context, lines: LineRange, room: int = RESULT_CHARS) -> LinesResult:
    """As many lines of a file as fit, and where to read on: whole lines, or a piece of the first one."""
    result = LinesResult(
        context_id=context.context_id, name=context.name, view="read", **asdict(replace(lines, text=""))
    )
    text = cut(lines.text, _room_beside(result, room))
    was_cut = len(text) < len(lines.text)
    if was_cut:
        text = text[: text.rfind("\n") + 1] or text
    last = lines.start_line + max(text.count("\n") - 1, 0) if was_cut else lines.end_line
    update: dict[str, Any] = {
        "text": text,
        "end_line": last,
        "truncated": lines.truncated or was_cut,
        "next_start_line": last + 1 if last < lines.end_line else lines.next_start_line,
    }
    if update["truncated"] and not text.endswith("\n"):
        update["message"] = _rest_of_line(context, lines.path, last, len(text))
    return result.model_copy(update=update)


def _rest_of_line(context: Context, path: str, line: int, shown: int) -> str:
    source = "context" if context.kind == "text" else f"context[{path!r}]"
    return (
        f"Line {line} is longer than a result: these are its first {shown} characters. Read on with "
        f"code='print({source}.splitlines()[{line - 1}][{shown}:{shown + shown * 2 // 3}])'."
    )


def matches_result(context: Context, found: SearchResult, room: int = RESULT_CHARS) -> MatchesResult:
    """The matches that fit into one result."""
    result = MatchesResult(
        context_id=context.context_id,
        name=context.name,
        view="search",
        truncated=found.truncated,
        matches=[],
        total=found.total,
    )
    rows = [_match(match) for match in found.matches]
    matches = fitting(rows, _room_beside(result, room))
    if len(matches) == len(rows):
        return result.model_copy(update={"matches": matches})
    message = f"{len(rows) - len(matches)} lines did not fit: search in one path, by a narrower regex, or with code."
    return result.model_copy(update={"matches": matches, "truncated": True, "message": message})


def _match(match: MatchedLine) -> dict[str, Any]:
    fields = {"path": match.path, "line": match.line, "text": match.text}
    return fields if match.is_match else fields | {"is_match": False}


def code_result(context: Context, cell: CellResult, room: int = RESULT_CHARS) -> CodeResult:
    """The output of a cell, its value or its exception, and the variables there are now."""
    variables = [{"name": v.name, "type": v.type, "size": v.size, "preview": v.preview[:80]} for v in cell.variables]
    told: dict[str, Any] = {"notes": shorten(list(cell.notes[:5]), room // 8), "message": _ending(cell)}
    result = CodeResult(
        context_id=context.context_id,
        name=context.name,
        view="code",
        truncated=cell.truncated,
        stdout="",
        value=None if cell.value is None else head_and_tail(cell.value, min(PIECE_CHARS, room // 4)),
        error=None if cell.error is None else shorten(asdict(cell.error), room // 4),
        stdout_chars=cell.stdout_chars,
        seconds=round(cell.seconds, 3),
        variables=fitting(variables, room // 8),
        **{name: value for name, value in told.items() if value},
    )
    stdout = head_and_tail(cell.stdout, _room_beside(result, room), true_chars=cell.stdout_chars)
    return result.model_copy(update={"stdout": stdout, "truncated": cell.truncated or stdout != cell.stdout})


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


def run_result(state: RunState, *, message: str = "", offset: int = 0, room: int = RESULT_CHARS) -> RunResult:
    """A run with one page of its answer, from `offset` on, and what to do next.

    Citations get a quarter of the room, or what the answer leaves.
    """
    uri = run_uri(state.run_id)
    told = cut(" ".join(part for part in (state.message, message) if part.strip()), room // 4)
    known: dict[str, Any] = {"coverage": state.coverage} if state.coverage.total_chars else {}
    known |= {"confidence": state.confidence} if state.confidence else {}
    result = RunResult(
        run_id=state.run_id,
        status=state.status,
        answer=None,
        answer_chars=0,
        truncated=False,
        offset=offset,
        stopped_by=state.stopped_by,
        citations=[],
        **known,
        usage=state.usage,
        iterations=state.iterations,
        mode=state.mode,
        depth=state.depth,
        trace_uri=f"{uri}/trace",
        message=told,
    )
    spare = _room_beside(result, room)
    wanted = json_length(_answer_page(state.answer, offset, spare)[0])
    citations, used = _fitting_citations(state.citations, max(spare // 4, spare - wanted))
    answer, answer_chars, truncated = _answer_page(state.answer, offset, spare - used)
    if truncated and isinstance(answer, str):
        told = f"The answer goes on: rlm_result(run_id={state.run_id!r}, offset={offset + len(answer)}). {told}"
    if len(citations) < len(state.citations):
        told = f"{told} {len(state.citations) - len(citations)} more citations: read {uri}."
    return result.model_copy(
        update={
            "answer": answer,
            "answer_chars": answer_chars,
            "truncated": truncated,
            "citations": citations,
            "message": told.strip(),
        }
    )


def running_message(state: RunState, progress: Progress | None, longest_wait: float = USUAL_WAIT) -> str:
    """The message of a run that still runs: an honest guess of the time, the next call, and what not to do.

    A client that bears a much longer wait than the usual one is told so: each call costs a turn of its model.
    """
    wait = f", wait_seconds={longest_wait:.0f}" if longest_wait > USUAL_WAIT * 1.5 else ""
    next_call = f"Call rlm_result(run_id={state.run_id!r}{wait}) to wait on; do not start it again."
    if progress is None:
        return next_call if state.message else f"Still running in another process. {next_call}"
    limit = "" if progress.seconds_left is None else f", at most {progress.seconds_left:.0f} s"
    pace = progress.seconds / max(progress.iteration, 1)
    guess = f"usually done in {max(pace * 2, 5):.0f}-{max(pace * 8, 30):.0f} s more"
    return f"Still running: {progress}; {guess}{limit}. {next_call}"


def _answer_page(answer: Any, offset: int, json_chars: int) -> tuple[Any, int, bool]:
    """One page, the length of the whole, and whether there is more. An object that fits stays an object."""
    if answer is None:
        return None, 0, False
    text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    if not isinstance(answer, str) and offset == 0 and json_length(text) <= json_chars:
        return answer, len(text), False
    page = cut(text[offset:], json_chars)
    return page, len(text), offset + len(page) < len(text)


def _fitting_citations(citations: Iterable[Citation], json_chars: int) -> tuple[list[Citation], int]:
    """The first citations that fit, and the room that they take."""
    quote_chars = min(QUOTE_CHARS, json_chars // 2)
    shortened = [replace(citation, quote=cut(citation.quote, quote_chars)) for citation in citations]
    rows = fitting(_citations_adapter().dump_python(shortened), json_chars)
    return shortened[: len(rows)], json_length(rows)


@cache
def _citations_adapter() -> TypeAdapter[list[WireCitation]]:
    return TypeAdapter(list[WireCitation])


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
